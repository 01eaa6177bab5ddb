"""Everything needed to build an open_clip model except its weights, from a folder, a tag or a hub repository.

    blueprint = from_folder(Path("run/final"), config, quick_gelu=None)
    blueprint.model_cfg["quick_gelu"], blueprint.preprocess, blueprint.weights

A folder must state everything itself: activation, preprocessing, context length, tokenizer. open_clip silently fills
gaps with defaults, and a model with the wrong activation or normalisation still answers, only worse.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmalign.errors import CheckpointError, UsageError, did_you_mean
from mmalign.models.folder import pickled_weights, refuse_code, without_weights
from mmalign.models.references import OPEN_CLIP_CONFIG, read_config
from mmalign_clip.downloads import WEIGHTS, fetch_repository, fetch_tag, hub_tokenizer
from mmalign_clip.images import INTERPOLATIONS, RESIZE_MODES, Preprocess
from mmalign_clip.texts import ClipTokenizer, TextTokenizer, read_vocabulary, tokenizer_from_files

if TYPE_CHECKING:
    from mmalign.contract.source import Source


@dataclass(frozen=True)
class Blueprint:
    """model_cfg: open_clip's, with `quick_gelu` and `context_length` stated. weights: None means random ones.

    min_cosine: below it no label fits, for these very weights; None where that was not measured.
    """

    architecture: str
    model_cfg: dict[str, Any]
    preprocess: Preprocess
    tokenizer: TextTokenizer
    weights: Path | None
    vocabulary: tuple[str, ...] = ()
    min_cosine: float | None = None


def read(source: "Source", quick_gelu: bool | None) -> Blueprint:
    """Collect the blueprint of a source; raises CheckpointError or UsageError. Downloads only for tags and hub ids."""
    try:
        if source.folder is not None:
            return from_folder(source.folder, source.config, quick_gelu)
        if source.name.startswith("hf-hub:"):
            return from_hub(source.name.removeprefix("hf-hub:"), quick_gelu)
    except (TypeError, ValueError, AttributeError, KeyError, IndexError) as error:
        # A config of the right shape with a value of the wrong type somewhere
        raise CheckpointError(
            f"{source.reference}: {OPEN_CLIP_CONFIG} has a value of the wrong type: {error}",
            hint="Compare it with one of open_clip's own model_configs.",
        ) from error
    architecture, _, tag = source.name.partition("/")
    return from_tag(architecture, tag, quick_gelu)


def from_folder(folder: Path, config: Mapping[str, Any], quick_gelu: bool | None) -> Blueprint:
    """Read a folder in open_clip's local-dir format; refuses one that leaves something open."""
    path = folder / OPEN_CLIP_CONFIG
    model_cfg = _model_cfg(config, path)
    if quick_gelu is not None:
        model_cfg["quick_gelu"] = quick_gelu
    elif not _has_activation(model_cfg):
        model_cfg["quick_gelu"] = False
    elif not isinstance(model_cfg.get("quick_gelu"), bool):
        raise CheckpointError(
            f"{path} does not say which activation the weights were trained with (model_cfg.quick_gelu)",
            hint="OpenAI, DFN and MetaCLIP weights: --set backbone.quick_gelu=true; most others: "
            "--set backbone.quick_gelu=false. A model saved by mmalign says it itself.",
        )
    if "context_length" not in model_cfg["text_cfg"]:
        raise CheckpointError(
            f"{path} does not say how many tokens a text may have (model_cfg.text_cfg.context_length)",
            hint='CLIP: "context_length": 77; SigLIP: 64.',
        )
    return Blueprint(
        architecture=str(config.get("architecture", folder.resolve().name)),
        model_cfg=model_cfg,
        preprocess=_stated_preprocess(config, model_cfg, path),
        tokenizer=_folder_tokenizer(folder, model_cfg),
        weights=_folder_weights(folder),
        vocabulary=read_vocabulary(folder),
        min_cosine=_calibrated(config),
    )


def from_tag(architecture: str, tag: str, quick_gelu: bool | None) -> Blueprint:
    """One of open_clip's architectures with the weights of a tag, or random ones for an empty tag."""
    import open_clip

    model_cfg = open_clip.get_model_config(architecture)
    if model_cfg is None:
        raise UsageError(
            f"open_clip has no architecture {architecture!r}",
            hint=f"{did_you_mean(architecture, open_clip.list_models())} Try: mmalign list backbones".strip(),
        )
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    tag_cfg = open_clip.get_pretrained_cfg(architecture, tag) if tag else {}
    if tag and not tag_cfg:
        raise UsageError(
            f"open_clip has no weights {tag!r} for {architecture}",
            hint=f"{did_you_mean(tag, tags)} Tags: {', '.join(tags) or 'none'}.".strip(),
        )
    # open_clip 3.3 builds the architecture's activation, and only warns when the weights were trained with the other.
    stated = tag_cfg.get("quick_gelu", False) if tag else model_cfg.get("quick_gelu", False)
    model_cfg["quick_gelu"] = stated if quick_gelu is None else quick_gelu
    model_cfg["text_cfg"].setdefault("context_length", 77)
    tokenizer = hub_tokenizer(model_cfg["text_cfg"])
    return Blueprint(
        architecture=architecture,
        model_cfg=model_cfg,
        preprocess=_defaulted_preprocess(tag_cfg, model_cfg),
        tokenizer=tokenizer,
        weights=fetch_tag(architecture, tag, tag_cfg) if tag else None,
    )


def _calibrated(config: Mapping[str, Any]) -> float | None:
    """The threshold that a folder states for its own weights, under the key "mmalign", which open_clip ignores."""
    stated = config.get("mmalign", {}).get("min_cosine")
    return None if stated is None else float(stated)


def from_hub(repository: str, quick_gelu: bool | None) -> Blueprint:
    """A hub repository in open_clip's format; missing fields mean what they mean to open_clip (GELU, CLIP's mean)."""
    folder = fetch_repository(repository)
    config = read_config(folder)
    model_cfg = _model_cfg(config, f"{repository}/{OPEN_CLIP_CONFIG}")
    model_cfg["quick_gelu"] = model_cfg.get("quick_gelu", False) if quick_gelu is None else quick_gelu
    model_cfg["text_cfg"].setdefault("context_length", 77)
    return Blueprint(
        architecture=repository,
        model_cfg=model_cfg,
        preprocess=_defaulted_preprocess(config.get("preprocess_cfg", {}), model_cfg),
        tokenizer=_folder_tokenizer(folder, model_cfg),
        weights=_folder_weights(folder),
        vocabulary=read_vocabulary(folder),
    )


def _model_cfg(config: Mapping[str, Any], path: Path | str) -> dict[str, Any]:
    refuse_code(config, path)
    model_cfg = copy.deepcopy(config.get("model_cfg"))
    if not isinstance(model_cfg, dict) or not all(
        isinstance(model_cfg.get(k), dict) for k in ("vision_cfg", "text_cfg")
    ):
        raise CheckpointError(f"{path} holds no model_cfg with vision_cfg and text_cfg")
    return model_cfg


def _has_activation(model_cfg: Mapping[str, Any]) -> bool:
    """Whether any tower obeys `quick_gelu`: timm's, ResNets and transformers' text models do not."""
    vision, text = model_cfg["vision_cfg"], model_cfg["text_cfg"]
    is_free = vision.get("timm_model_name") or isinstance(vision.get("layers"), list)
    return not (is_free and text.get("hf_model_name") and "multimodal_cfg" not in model_cfg)


def _stated_preprocess(config: Mapping[str, Any], model_cfg: Mapping[str, Any], path: Path) -> Preprocess:
    stated = config.get("preprocess_cfg") or {}
    missing = [key for key in ("mean", "std", "interpolation", "resize_mode") if not stated.get(key)]
    # The image size is the model's own; a tower cannot take another one
    if not (model_cfg["vision_cfg"].get("image_size") or stated.get("size")):
        missing.append("size")
    if missing:
        raise CheckpointError(
            f"{path} does not say how images are prepared: preprocess_cfg lacks {', '.join(missing)}",
            hint="Write what the model was trained with. CLIP's and open_clip's default: "
            '"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711], '
            '"interpolation": "bicubic", "resize_mode": "shortest"; SigLIP: mean and std 0.5, "squash".',
        )
    preprocess = _defaulted_preprocess(stated, model_cfg)
    if stated.get("size") and _pair(stated["size"]) != preprocess.size:
        raise CheckpointError(f"{path}: preprocess_cfg.size {stated['size']} is not vision_cfg.image_size")
    if preprocess.interpolation not in INTERPOLATIONS or preprocess.resize_mode not in RESIZE_MODES:
        raise CheckpointError(
            f"{path}: interpolation {preprocess.interpolation!r} or resize_mode {preprocess.resize_mode!r} is unknown",
            hint=f"Known: {', '.join(INTERPOLATIONS)}; {', '.join(RESIZE_MODES)}.",
        )
    return preprocess


def _defaulted_preprocess(stated: Mapping[str, Any], model_cfg: Mapping[str, Any]) -> Preprocess:
    from open_clip.transform import PreprocessCfg

    default = PreprocessCfg()
    size = model_cfg["vision_cfg"].get("image_size") or stated.get("size") or default.size
    return Preprocess(
        size=_pair(size),
        mean=_triple(stated.get("mean") or default.mean),
        std=_triple(stated.get("std") or default.std),
        interpolation=stated.get("interpolation") or default.interpolation,
        resize_mode=stated.get("resize_mode") or default.resize_mode,
        fill_color=int(stated.get("fill_color") or default.fill_color),
    )


def _pair(size: Any) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)


def _triple(values: Any) -> tuple[float, ...]:
    triple = (float(values),) * 3 if isinstance(values, int | float) else tuple(float(value) for value in values)
    if len(triple) != 3:
        raise ValueError(f"{values!r} is not one value for each of red, green and blue")
    return triple


def _folder_tokenizer(folder: Path, model_cfg: Mapping[str, Any]) -> TextTokenizer:
    text_cfg = model_cfg["text_cfg"]
    tokenizer: TextTokenizer
    if text_cfg.get("hf_tokenizer_name"):
        tokenizer = tokenizer_from_files(folder, text_cfg)
    else:
        tokenizer = ClipTokenizer(text_cfg["context_length"])
    known = text_cfg.get("vocab_size", 49408)
    if not text_cfg.get("hf_model_name") and tokenizer.num_tokens > known:
        raise CheckpointError(
            f"{folder}: the tokenizer has {tokenizer.num_tokens:,} tokens and the model knows {known:,}",
            hint="The model's own tokenizer is missing: add tokenizer.json and set text_cfg.hf_tokenizer_name.",
        )
    return tokenizer


def _folder_weights(folder: Path) -> Path:
    for name in (WEIGHTS, "open_clip_pytorch_model.safetensors", "model.safetensors"):
        if (folder / name).is_file():
            return folder / name
    pickled = pickled_weights(folder)
    hint = "Save the model again, or copy its weights there."
    if pickled:
        hint = (
            f"Convert it where you trust it: safetensors.torch.save_file(torch.load({pickled[0]!r}, "
            f'map_location="cpu", weights_only=True), {WEIGHTS!r})'
        )
    raise CheckpointError(f"{folder} {without_weights(folder, WEIGHTS)}", hint=hint)
