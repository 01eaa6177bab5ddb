"""transformers' CLIP and SigLIP (SigLIP 2 with a fixed resolution included) as dual encoders.

backbone = TransformersClipBackbone.load(find_source("hf:./folder", catalog), TransformersClipConfig())
backbone.save(Path("copy"))       # loads in plain transformers: AutoModel.from_pretrained("copy")
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import BaseModel, Field
from torch import Tensor

from mmalign.contract.backbone import ContrastiveHead, TokenizedText
from mmalign.errors import UsageError
from mmalign.models import lora
from mmalign.models.folder import quiet
from mmalign.models.lora import LoraOptions
from mmalign.models.size import ModelSize
from mmalign_clip.images import Preprocess, training_image
from mmalign_clip.options import DualEncoderOptions
from mmalign_clip.text_tower import at_least_one, longest_row, unit
from mmalign_clip.texts import FileTokenizer, imagenet_names, read_vocabulary, write_vocabulary
from mmalign_clip.transformers_folder import Parts, count_parameters, load_module, read

if TYPE_CHECKING:
    from PIL.Image import Image

    from mmalign.contract.batch import Ragged
    from mmalign.contract.source import Source
    from mmalign_clip.transformers_folder import TransformersModule


class TransformersClipConfig(DualEncoderOptions):
    """How to load and train a transformers CLIP or SigLIP."""

    random_weights: bool = Field(False, description="start from random weights of the config instead of the folder's")
    lora: LoraOptions = Field(LoraOptions(), description="train a low-rank adapter instead of the weights")
    lock_image: bool = Field(False, description="do not train the image tower and its projection (LiT)")
    lock_text: bool = Field(False, description="do not train the text tower and its projection")
    init_logit_scale: float | None = Field(
        None, description="set the log of the score's scale at load; null: as loaded"
    )
    init_logit_bias: float | None = Field(None, description="set SigLIP's score bias at load; null: as loaded")


@dataclass(frozen=True)
class TransformersProcessor:
    """transformers' own image processor for evaluation, and this plugin's crop for training. Picklable."""

    images: Any
    preprocess: Preprocess
    tokenizer: FileTokenizer
    crop_scale: tuple[float, float]
    flip_probability: float

    @property
    def context_length(self) -> int:
        return self.tokenizer.context_length

    def image(self, image: "Image", rng: random.Random | None = None) -> Tensor:
        """[3, H, W] float32; with `rng` a random crop, perhaps mirrored, without it transformers' transform."""
        if rng is not None:
            return training_image(image, self.preprocess, rng, self.crop_scale, self.flip_probability)
        return self.images(image.convert("RGB"), return_tensors="pt")["pixel_values"][0]

    def text(self, text: str) -> TokenizedText:
        return self.tokenizer.text(text)


class TransformersClipBackbone(lora.Adaptable):
    """A CLIPModel or SiglipModel of transformers."""

    Config: ClassVar[type[BaseModel]] = TransformersClipConfig

    def __init__(self, module: "TransformersModule", parts: Parts, config: TransformersClipConfig) -> None:
        self.module = module
        self.processor = TransformersProcessor(
            parts.images, parts.preprocess, parts.tokenizer, config.crop_scale, config.flip_probability
        )
        self._own_vocabulary = read_vocabulary(parts.folder)
        self.vocabulary = self._own_vocabulary or imagenet_names()
        self._parts = parts
        self._random = config.random_weights

    @classmethod
    def load(cls, source: "Source", config: TransformersClipConfig) -> Self:
        """Build the model in float32 on the CPU, in evaluation mode; raises CheckpointError or UsageError."""
        lora.require(config.lora)
        parts = read(source)
        module = load_module(parts, config.random_weights)
        _set_head(module, config)
        _lock(module, config)
        lora.inject(module, config.lora)
        return cls(module.eval(), parts, config)

    @classmethod
    def size(cls, source: "Source", config: TransformersClipConfig) -> ModelSize:
        """The number of parameters, by the model's config."""
        return ModelSize(count_parameters(dict(source.config)), config.random_weights)

    def encode_image(self, images: Tensor) -> Tensor:
        """images: [N, 3, H, W] -> [N, D], unit length."""
        return unit(at_least_one(lambda rows: self.module.get_image_features(rows).pooler_output, images))

    def encode_text(self, tokens: "Ragged") -> Tensor:
        """tokens: N rows of ids -> [N, D], unit length. SigLIP's rows are padded to its full length, as in its
        training.

        CLIP's text tower is causal and pools at the first end token, so padding to the longest row is exact.
        """
        tokenizer = self.processor.tokenizer
        longest = longest_row(tokens, tokenizer.context_length)
        width = longest if self._parts.model_type == "clip" else tokenizer.context_length
        ids = tokens.padded(tokenizer.pad_id, width)
        return unit(at_least_one(lambda rows: self.module.get_text_features(rows).pooler_output, ids))

    def contrastive_head(self) -> ContrastiveHead:
        """The module's own scale, and SigLIP's bias; SigLIP stores both as [1], so these are views of them."""
        from transformers import CLIPModel

        if isinstance(self.module, CLIPModel):
            return ContrastiveHead(_scalar(self.module.logit_scale), None)
        return ContrastiveHead(_scalar(self.module.logit_scale), _scalar(self.module.logit_bias))

    def save(self, folder: Path) -> None:
        """Write what transformers' from_pretrained loads: config, safetensors, processor and tokenizer files.

        The weights written have the adapter merged in; `adapter/` beside them holds it alone, for peft.
        """
        folder.mkdir(parents=True, exist_ok=True)
        with quiet():
            self.module.save_pretrained(folder, state_dict=lora.merged_state(self.module))
        lora.save_adapter(self.module, folder / lora.ADAPTER_FOLDER, base=self._parts.origin)
        for name, content in self._parts.processor_files.items():
            (folder / name).write_bytes(content)
        self.processor.tokenizer.save(folder)
        write_vocabulary(folder, self._own_vocabulary)

    def describe(self) -> Mapping[str, Any]:
        """Architecture and sizes, as loaded."""
        parameters = list(self.module.parameters())
        config = self._parts.config
        return {
            "architecture": type(self.module).__name__,
            "pretrained": not self._random,
            "parameters": sum(parameter.numel() for parameter in parameters),
            "trainable_parameters": sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
            "image_size": list(self.processor.preprocess.size),
            "activation": config["vision_config"]["hidden_act"],
            "context_length": self.processor.context_length,
            "vocabulary_size": self.processor.tokenizer.num_tokens,
            **lora.describe_adapter(self.module),
        }


def _set_head(module: "TransformersModule", config: TransformersClipConfig) -> None:
    import torch
    from transformers import SiglipModel

    with torch.no_grad():
        if config.init_logit_scale is not None:
            module.logit_scale.fill_(config.init_logit_scale)
        if config.init_logit_bias is not None:
            if not isinstance(module, SiglipModel):
                raise UsageError(
                    "transformers' CLIPModel has no bias, so init_logit_bias could not be saved",
                    hint="Leave backbone.init_logit_bias out, or take a model in open_clip's format.",
                )
            module.logit_bias.fill_(config.init_logit_bias)


def _lock(module: "TransformersModule", config: TransformersClipConfig) -> None:
    from transformers import CLIPModel

    image, text = [module.vision_model], [module.text_model]
    if isinstance(module, CLIPModel):
        image, text = [*image, module.visual_projection], [*text, module.text_projection]
    for tower in (image if config.lock_image else []) + (text if config.lock_text else []):
        tower.requires_grad_(False)


def _scalar(parameter: Tensor) -> Tensor:
    return parameter if parameter.ndim == 0 else parameter.reshape(())
