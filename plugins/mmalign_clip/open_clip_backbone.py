"""open_clip's dual encoders: a folder, a tag, a hub repository, or an architecture with random weights.

backbone = OpenClipBackbone.load(mmalign.models.references.find_source("./run/final", catalog), OpenClipConfig())
scores = backbone.encode_image(pixels) @ backbone.encode_text(tokens).T       # cosines
backbone.save(Path("copy"))       # loads in plain open_clip: create_model_and_transforms("local-dir:copy")
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import BaseModel, Field, model_validator
from torch import Tensor

from mmalign.contract.backbone import ContrastiveHead
from mmalign.errors import CheckpointError
from mmalign.models import lora
from mmalign.models.lora import LoraOptions
from mmalign.models.references import OPEN_CLIP_CONFIG
from mmalign.models.size import ModelSize
from mmalign_clip import locking
from mmalign_clip.blueprint import Blueprint, read
from mmalign_clip.build import build, count_parameters
from mmalign_clip.downloads import WEIGHTS
from mmalign_clip.options import DualEncoderOptions
from mmalign_clip.processor import ClipProcessor
from mmalign_clip.text_tower import at_least_one, can_trim, encode_text, unit
from mmalign_clip.texts import imagenet_names, write_vocabulary

if TYPE_CHECKING:
    from mmalign.contract.batch import Ragged
    from mmalign.contract.source import Source
    from mmalign_clip.build import OpenClipModule


class OpenClipConfig(DualEncoderOptions):
    """How to load and train an open_clip model."""

    quick_gelu: bool | None = Field(
        None,
        description="activation x*sigmoid(1.702x) instead of GELU; null: the one that the weights were trained with",
    )
    lock_image: bool = Field(False, description="do not train the image tower, BatchNorm statistics included (LiT)")
    unlocked_image_groups: int = Field(0, ge=0, description="with lock_image: how many last layer groups still train")
    lock_text: bool = Field(False, description="do not train the text tower")
    unlocked_text_layers: int = Field(0, ge=0, description="with lock_text: how many last layer groups still train")
    lora: LoraOptions = Field(LoraOptions(), description="train a low-rank adapter instead of the weights")
    patch_dropout: float = Field(
        0.0, ge=0, lt=1, description="share of image patches dropped in training (open_clip's vision transformers only)"
    )
    init_logit_scale: float | None = Field(
        None, description="set the log of the score's scale at load; null: as loaded (new models: ln 14.3)"
    )
    init_logit_bias: float | None = Field(
        None, description="set the score's bias at load, adding one where absent (SigLIP: -10); null: as loaded"
    )

    @model_validator(mode="after")
    def _groups_need_a_lock(self) -> Self:
        if (self.unlocked_image_groups and not self.lock_image) or (self.unlocked_text_layers and not self.lock_text):
            raise ValueError("unlocked groups need lock_image=true or lock_text=true")
        return self


class OpenClipBackbone(lora.Adaptable):
    """A CLIP, CustomTextCLIP or CoCa of open_clip (CoCa as a dual encoder)."""

    Config: ClassVar[type[BaseModel]] = OpenClipConfig

    def __init__(
        self,
        module: "OpenClipModule",
        blueprint: Blueprint,
        processor: ClipProcessor,
        origin: str,
        adapter: Mapping[str, str],
    ) -> None:
        """adapter: its description, where there is one."""
        self.module = module
        self.processor = processor
        self.vocabulary = blueprint.vocabulary or imagenet_names()
        self._blueprint = blueprint
        self._origin = origin
        self._adapter = adapter

    @classmethod
    def load(cls, source: "Source", config: OpenClipConfig) -> Self:
        """Build the model in float32 on the CPU, in evaluation mode; raises CheckpointError or UsageError."""
        adapted = bool(config.lora.rank)
        if adapted:
            lora.require(config.lora)
        blueprint = read(source, config.quick_gelu)
        module = _build(blueprint, config)
        if config.lock_image:
            locking.lock_image(module, config.unlocked_image_groups)
        if config.lock_text:
            locking.lock_text(module, config.unlocked_text_layers)
        if adapted:
            # open_clip checks the class of this layer, which may be a matrix instead
            spare = [layer for name, layer in module.named_modules() if name.endswith("text_projection")]
            lora.inject(module, config.lora, spare=spare)
        processor = ClipProcessor(blueprint.preprocess, blueprint.tokenizer, config.crop_scale, config.flip_probability)
        adapter = lora.describe_adapter(module) if adapted else {}
        return cls(module.eval(), blueprint, processor, source.origin, adapter)

    @classmethod
    def size(cls, source: "Source", config: OpenClipConfig) -> ModelSize:
        """The number of parameters, by the architecture's config; no size where open_clip cannot build from it."""
        random = source.folder is None and "/" not in source.name  # no tag
        try:
            return ModelSize(count_parameters(source.config["model_cfg"]), random)
        except CheckpointError:  # loading reports what is wrong
            return ModelSize(0, random)

    def encode_image(self, images: Tensor) -> Tensor:
        """images: [N, 3, H, W] -> [N, D], unit length."""
        # CoCa's own method would normalise in autocast's precision; without that all models follow one rule
        return unit(at_least_one(lambda rows: self.module.encode_image(rows, normalize=False), images))

    def encode_text(self, tokens: "Ragged") -> Tensor:
        """tokens: N rows of ids -> [N, D], unit length. Causal towers are computed up to the longest row only, which is
        exact."""
        tokenizer = self.processor.tokenizer
        return unit(encode_text(self.module, tokens, tokenizer.pad_id, tokenizer.end_id, tokenizer.context_length))

    def contrastive_head(self) -> ContrastiveHead:
        """The module's own parameters; where checkpoints store them as [1], views of them."""
        scale, bias = self.module.logit_scale, self.module.logit_bias
        return ContrastiveHead(_scalar(scale), None if bias is None else _scalar(bias))

    def save(self, folder: Path, *, half: bool = False) -> None:
        """Write a folder in open_clip's local-dir format: config, safetensors (float16 if `half`), tokenizer files.

        The weights written have the adapter merged in; `adapter/` beside them holds it alone, for peft. A calibrated
        threshold is not written, because it was measured on other weights.
        """
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        tokenizer = self.processor.tokenizer
        tokenizer.save(folder)
        write_vocabulary(folder, self._blueprint.vocabulary)
        lora.save_adapter(self.module, folder / lora.ADAPTER_FOLDER, base=self._origin)
        merged = lora.merged_state(self.module)
        state = {name: value.detach().cpu().contiguous() for name, value in merged.items()}
        if half:
            state = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
        save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
        config = {
            "architecture": self._blueprint.architecture,
            "model_cfg": self._saved_model_cfg(),
            "preprocess_cfg": self.processor.preprocess.as_dict(),
        }
        (folder / OPEN_CLIP_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    def describe(self) -> Mapping[str, Any]:
        """Architecture, activation, preprocessing and sizes, as loaded."""
        parameters = list(self.module.parameters())
        tokenizer, model_cfg = self.processor.tokenizer, self._blueprint.model_cfg
        return {
            "architecture": self._blueprint.architecture,
            "pretrained": self._blueprint.weights is not None,
            "parameters": sum(parameter.numel() for parameter in parameters),
            "trainable_parameters": sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
            "embedding_width": model_cfg["embed_dim"],
            "image_size": list(self.processor.preprocess.size),
            "resize_mode": self.processor.preprocess.resize_mode,
            "quick_gelu": model_cfg["quick_gelu"],
            "context_length": tokenizer.context_length,
            "vocabulary_size": tokenizer.num_tokens,
            "trims_text": can_trim(self.module, tokenizer.pad_id, tokenizer.end_id),
            **({} if self._blueprint.min_cosine is None else {"min_cosine": self._blueprint.min_cosine}),
            **self._adapter,
        }

    def _saved_model_cfg(self) -> dict[str, Any]:
        model_cfg = dict(self._blueprint.model_cfg)
        if self.module.logit_bias is not None:
            model_cfg["init_logit_bias"] = float(self.module.logit_bias.detach())
        return model_cfg


def _build(blueprint: Blueprint, config: OpenClipConfig) -> "OpenClipModule":
    """The module with the config's overrides; patch dropout is built in and never saved."""
    import torch

    model_cfg = dict(blueprint.model_cfg)
    if config.patch_dropout:
        model_cfg["vision_cfg"] = locking.with_patch_dropout(model_cfg["vision_cfg"], config.patch_dropout)
    module = build(model_cfg, blueprint.weights)
    with torch.no_grad():
        if config.init_logit_scale is not None:
            module.logit_scale.fill_(config.init_logit_scale)
        if config.init_logit_bias is not None:
            if module.logit_bias is None:
                module.logit_bias = torch.nn.Parameter(torch.zeros_like(module.logit_scale))
            module.logit_bias.fill_(config.init_logit_bias)
    # A sum shows NaN and infinity without a tensor of booleans for every parameter
    if not all(parameter.sum().isfinite() for parameter in module.parameters()):
        raise CheckpointError(f"{blueprint.weights} holds values that are not finite")
    return module


def _scalar(parameter: Tensor) -> Tensor:
    return parameter if parameter.ndim == 0 else parameter.reshape(())
