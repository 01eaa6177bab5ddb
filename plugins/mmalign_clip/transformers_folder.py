"""Reads a transformers CLIP or SigLIP folder, and checks its files before transformers reads them.

    parts = read(source)          # from a folder, or a hub id fetched to one
    module = load_module(parts, random_weights=False)

Each of these is refused with an error that names it: code in configs, pickled weights, adapters that point to another
model, a folder without its image processor or tokenizer, weights that miss a tensor (transformers would fill it at
random with a warning).
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmalign.errors import CheckpointError
from mmalign.models.folder import draw_weights, load_exactly, offline, read_json, refuse_code, unreadable, weightless
from mmalign.models.hub import TOKENIZER_PATTERNS, fetch
from mmalign.models.references import TRANSFORMERS_CONFIG
from mmalign_clip.images import Preprocess
from mmalign_clip.texts import FileTokenizer

if TYPE_CHECKING:
    from transformers import CLIPModel, SiglipModel

    from mmalign.contract.source import Source

    TransformersModule = CLIPModel | SiglipModel

PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


@dataclass(frozen=True)
class Parts:
    """origin: as `Source.origin`. images: transformers' image processor.

    processor_files: name -> content, which `save` writes back unchanged.
    """

    folder: Path
    origin: str
    model_type: str
    config: dict[str, Any]
    images: Any
    processor_files: dict[str, bytes]
    tokenizer: FileTokenizer

    @property
    def preprocess(self) -> Preprocess:
        """The final size and normalisation, for the training crop; evaluation uses `images` itself."""
        size = self.config["vision_config"]["image_size"]
        return Preprocess(
            (size, size), tuple(self.images.image_mean), tuple(self.images.image_std), "bicubic", "squash"
        )


def read(source: "Source") -> Parts:
    """Check and read everything except the weights; raises CheckpointError. Downloads only for a hub id."""
    folder = source.folder
    if folder is None:
        wanted = ["*.safetensors", "*.safetensors.index.json", *PROCESSOR_FILES, "vocabulary.txt", *TOKENIZER_PATTERNS]
        folder = fetch(source.name, [TRANSFORMERS_CONFIG], wanted)
    stated = read_json(folder / TRANSFORMERS_CONFIG)
    refuse_code(stated, folder / TRANSFORMERS_CONFIG)
    if (folder / "adapter_config.json").is_file():
        raise CheckpointError(
            f"{folder} holds an adapter (adapter_config.json), which names another model to load",
            hint="Merge the adapter into its base model, save that, and give its folder.",
        )
    with offline():
        images, files = _read_images(folder)
        config = _read_config(folder, stated)
        tokenizer = FileTokenizer.load(folder, config["text_config"]["max_position_embeddings"])
    _check_sizes(folder, config, tokenizer)
    return Parts(folder, source.origin, config["model_type"], config, images, files, tokenizer)


def load_module(parts: Parts, random_weights: bool) -> "TransformersModule":
    """The model in float32 on the CPU; raises CheckpointError where the weights are not exactly the config's."""
    from transformers import CLIPModel, SiglipModel

    if random_weights:
        return _random_module(parts)
    return load_exactly(CLIPModel if parts.model_type == "clip" else SiglipModel, parts.folder)


def count_parameters(stated: dict[str, Any]) -> int:
    """The number of parameters of a config, built without memory for its weights; 0 where transformers cannot build it.
    Draws nothing."""
    from transformers import CLIPModel, SiglipModel

    try:
        with weightless():
            config = _config_class(stated).from_dict(stated)
            module = CLIPModel(config) if stated.get("model_type") == "clip" else SiglipModel(config)
            return module.num_parameters()
    except (*unreadable(), AssertionError):  # loading reports what is wrong
        return 0


def _random_module(parts: Parts) -> "TransformersModule":
    from torch.nn.init import constant_
    from transformers import AutoModel

    module = draw_weights(AutoModel, _config_class(parts.config).from_dict(parts.config))
    if parts.model_type == "clip":
        return module
    # transformers starts both at 0, where all pairs score the same; the paper starts at ln 10 and -10
    constant_(module.logit_scale, math.log(10))
    constant_(module.logit_bias, -10.0)
    return module


def _read_config(folder: Path, stated: dict[str, Any]) -> dict[str, Any]:
    """The config with transformers' defaults filled in."""
    try:
        config = _config_class(stated).from_dict(stated).to_dict()
        tower, image = config["text_config"], config["vision_config"]
        if not (tower["max_position_embeddings"] > 0 and image["image_size"] > 0 and tower["vocab_size"] > 0):
            raise ValueError("a size is not positive")
    except unreadable() as error:
        raise CheckpointError(f"{folder / TRANSFORMERS_CONFIG}: transformers cannot read it: {error}") from error
    return config


def _config_class(stated: dict[str, Any]) -> Any:
    from transformers import CLIPConfig, SiglipConfig

    return CLIPConfig if stated.get("model_type") == "clip" else SiglipConfig


def _read_images(folder: Path) -> tuple[Any, dict[str, bytes]]:
    """The image processor that transformers itself picks for the folder, and its files."""
    from transformers import AutoImageProcessor

    files = {name: (folder / name).read_bytes() for name in PROCESSOR_FILES if (folder / name).is_file()}
    if not files:
        raise CheckpointError(
            f"{folder} does not say how images are prepared: {PROCESSOR_FILES[0]} is missing",
            hint="Save the model's processor there: AutoProcessor.from_pretrained(ID).save_pretrained(FOLDER).",
        )
    for name in files:
        refuse_code(read_json(folder / name), folder / name)
    try:
        images = AutoImageProcessor.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        if not len(images.image_mean) == len(images.image_std) == 3:
            raise ValueError("image_mean and image_std need a value for each of red, green and blue")
    except unreadable() as error:
        raise CheckpointError(f"{folder}: the image processor cannot be read: {error}") from error
    return images, files


def _check_sizes(folder: Path, config: dict[str, Any], tokenizer: FileTokenizer) -> None:
    known = config["text_config"]["vocab_size"]
    if tokenizer.num_tokens > known:
        raise CheckpointError(
            f"{folder}: the tokenizer has {tokenizer.num_tokens:,} tokens and the model knows {known:,}",
            hint="The tokenizer files belong to another model.",
        )
