"""The interface of backbones and their processors: one stateless Protocol for each capability.

A backbone class has the members of `Backbone` and the methods of exactly those capabilities that its families declare;
the conformance kit checks this. The capabilities of language models are in `mmalign.language.protocols`. N is the
number of examples, D the embedding width, T tokens, H and W pixels.
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
    """Token ids [T] for the model, with start and end tokens, and the number of tokens cut off to fit the context."""

    ids: "Tensor"
    num_lost: int


class Processor(Protocol):
    """Turns pictures and texts into inputs of one backbone's methods. Picklable: each data worker has a copy."""

    context_length: int

    def image(self, image: "Image", rng: random.Random | None = None) -> "Tensor":
        """[3, H, W] float. With `rng`, a random training augmentation; without, the evaluation transform."""
        ...

    def text(self, text: str) -> TokenizedText: ...


@runtime_checkable
class EncodesQueries(Protocol):
    """A processor that encodes a text that is searched with otherwise than one that is found."""

    def query(self, text: str) -> TokenizedText: ...


class Backbone(Protocol):
    """A model of some family with its processor. It draws random numbers only from torch's generators."""

    Config: "ClassVar[type[BaseModel]]"
    module: "nn.Module"  # owns every parameter; its `named_parameters` give the names in checkpoints
    processor: Processor
    vocabulary: tuple[str, ...]  # words that fill a label's placeholder by default; may be empty

    @classmethod
    def load(cls, source: "Source", config: Any) -> Self:
        """Build the model and load its weights on the CPU; raises CheckpointError for a folder that is not safe."""
        ...

    def save(self, folder: Path) -> None:
        """Write the complete model to a folder that both the family's own library and `load` can read."""
        ...

    def describe(self) -> Mapping[str, Any]:
        """Facts for plans and reports, such as {"architecture": "ViT-B-32", "context_length": 77}. "note": a sentence
        that commands print. "min_cosine", of a calibrated dual encoder: a label with a lower cosine does not fit."""
        ...


class EncodesImages(Protocol):
    def encode_image(self, images: "Tensor") -> "Tensor":
        """images: [N, 3, H, W] from the processor -> [N, D], unit length."""
        ...


class EncodesText(Protocol):
    def encode_text(self, tokens: "Ragged") -> "Tensor":
        """tokens: N rows of ids from the processor -> [N, D], unit length. Padding must not change the result."""
        ...


class ContrastiveHead(NamedTuple):
    """The learned temperature and bias, both 0-D: score = exp(log_scale) * cosine + bias. bias: None for none."""

    log_scale: "Tensor"
    bias: "Tensor | None"


class HasContrastiveHead(Protocol):
    def contrastive_head(self) -> ContrastiveHead: ...


@runtime_checkable
class SwitchesAdapter(Protocol):
    """A backbone that can have an adapter. Its Config has an option `lora`, a `mmalign.models.lora.LoraOptions`."""

    @property
    def adapter_is_fresh(self) -> bool:
        """Whether the model has an adapter and, with the adapter off, equals the starting policy: a free reference."""
        ...

    def adapter_off(self) -> AbstractContextManager[None]:
        """Inside, the model computes exactly as without the adapter; raises UsageError if it has none."""
        ...


@runtime_checkable
class NamesPlaces(Protocol):
    """Options that name files or folders with weights, besides the backbone's source."""

    def places(self) -> "tuple[Path, ...]":
        """The files and folders that the options name; those not set are left out."""
        ...


@runtime_checkable
class ChecksTraining(Protocol):
    """Options of a backbone with some of which nothing is left to train."""

    def check_training(self) -> None:
        """Raise UsageError, before anything is loaded, if a model with these options cannot train."""
        ...


@runtime_checkable
class SharesWork(Protocol):
    """A model that computes something once for all micro-batches of an update, and collects its gradient."""

    def require_room(self, room: float) -> None:
        """Raise UsageError, before the first step, if it takes more than so many bytes."""
        ...

    def begin_shared(self) -> None:
        """Compute it now, if it is not there; else the first pass does."""
        ...

    def finish_gradients(self) -> None:
        """Pass the collected gradient on to the parameters: after the last backward pass of an update, on every
        process."""
        ...


class TextEncoder(Backbone, EncodesText, HasContrastiveHead, Protocol):
    """The backbone of contrastive training on texts."""


class DualEncoder(TextEncoder, EncodesImages, Protocol):
    """The backbone of zero-shot classification and contrastive training."""
