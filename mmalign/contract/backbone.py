"""What every backbone and its processor look like to the rest: one Protocol a capability, no state.

A backbone class has what `Backbone` says and the methods of every capability that its families declare; the conformance
kit checks both ways. What language models provide besides is in `mmalign.language.protocols`. N is the number of
examples, D the embedding width, T tokens, H and W pixels.
"""

import random
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, Self, runtime_checkable

if TYPE_CHECKING:
    from PIL.Image import Image
    from pydantic import BaseModel
    from torch import Tensor, nn

    from mmalign.contract.batch import Ragged
    from mmalign.contract.source import Source


class TokenizedText(NamedTuple):
    """Token ids [T] as the model takes them (start and end tokens included), and how many were cut off to fit."""

    ids: "Tensor"
    num_lost: int


class Processor(Protocol):
    """Turns pictures and texts into what one backbone's methods take. Picklable: data workers hold a copy."""

    context_length: int

    def image(self, image: "Image", rng: random.Random | None = None) -> "Tensor":
        """[3, H, W] float; with `rng` the training augmentation drawn from it, without it the evaluation transform."""
        ...

    def text(self, text: str) -> TokenizedText: ...


class Backbone(Protocol):
    """A model of some family with its processor. It draws random numbers through torch's generators only."""

    Config: "ClassVar[type[BaseModel]]"
    module: "nn.Module"  # owns every parameter; `named_parameters` are the names in checkpoints
    processor: Processor
    vocabulary: tuple[str, ...]  # names that fill a label's placeholder by default; may be empty

    @classmethod
    def load(cls, source: "Source", config: Any) -> Self:
        """Build the model and load its weights on the CPU; raises CheckpointError for a folder it cannot trust."""
        ...

    def save(self, folder: Path) -> None:
        """Write a folder that the family's own library loads, and that `load` takes back, everything included."""
        ...

    def describe(self) -> Mapping[str, Any]:
        """Facts for plans and reports, such as {"architecture": "ViT-B-32", "context_length": 77}. "note": a sentence
        that commands print. "min_cosine": where a dual encoder was calibrated, below it no label fits."""
        ...


class EncodesImages(Protocol):
    def encode_image(self, images: "Tensor") -> "Tensor":
        """images: [N, 3, H, W] from the processor -> [N, D], unit length."""
        ...


class EncodesText(Protocol):
    def encode_text(self, tokens: "Ragged") -> "Tensor":
        """tokens: N rows of ids from the processor -> [N, D], unit length. Padding happens here and changes nothing."""
        ...


class ContrastiveHead(NamedTuple):
    """The learned temperature: scores are exp(log_scale) * cosine + bias. Both are 0-D; bias may be absent."""

    log_scale: "Tensor"
    bias: "Tensor | None"


class HasContrastiveHead(Protocol):
    def contrastive_head(self) -> ContrastiveHead: ...


@runtime_checkable
class SwitchesAdapter(Protocol):
    """A backbone that can have an adapter; its Config has the option `lora`, a `mmalign.models.lora.LoraOptions`."""

    @property
    def adapter_is_fresh(self) -> bool:
        """Whether it has an adapter, and without it computes what the starting policy does: a free reference."""
        ...

    def adapter_off(self) -> AbstractContextManager[None]:
        """Within, it computes with its own weights, exactly; raises UsageError where it has no adapter."""
        ...


@runtime_checkable
class NamesPlaces(Protocol):
    """Options that name files or folders which models are made of, besides the backbone's source."""

    def places(self) -> "tuple[Path, ...]":
        """Those that are set."""
        ...


@runtime_checkable
class ChecksTraining(Protocol):
    """A backbone's options that do not all leave something to train."""

    def check_training(self) -> None:
        """Raise UsageError where a model with these options cannot train: before anything is loaded."""
        ...


class DualEncoder(Backbone, EncodesImages, EncodesText, HasContrastiveHead, Protocol):
    """What zero-shot classification and contrastive training work with."""
