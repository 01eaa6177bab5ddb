"""Held-out measurements: what one looks like, and where it runs a backbone.

runtime = Runtime.choose("auto", batch_size=32)
with runtime.evaluating(backbone):
    features = backbone.encode_image(images.to(runtime.device))
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch

from mmalign.contract.trained import TrainedBy
from mmalign.device import choose_device, keep_freed_memory
from mmalign.errors import UsageError

if TYPE_CHECKING:
    from pydantic import BaseModel


class Evaluation(Protocol):
    """A held-out measurement. Its spec says what it needs and on which kind of example it runs."""

    Config: "ClassVar[type[BaseModel]]"  # with the field `max_examples`, 0 for all

    def __init__(self, config: Any) -> None: ...

    def run(self, backbone: Any, dataset: Any, runtime: "Runtime") -> Mapping[str, float]:
        """Metrics by name, the spec's `primary` among them; `x_low` and `x_high` are the 95% interval of `x`.

        Random state and module modes are left as they were. `runtime.split` has the other parts of the data.
        """
        ...


def _unknown(name: str) -> Any:
    raise UsageError(f"{name!r} cannot be had here", hint="Try: mmalign evaluate")


@dataclass(frozen=True)
class Runtime:
    """device: where the model is; batch_size: images or texts at once; bf16: autocast of the image tower on CUDA.

    split: another part of the data that is measured, by name, or None where it has none. load_model: another backbone
    by its reference, on the device. Both raise UsageError where they cannot be had. trained: the run that made the
    model which is measured, where that is known.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    batch_size: int = 32
    bf16: bool = False
    split: Callable[[str], Any] = _unknown
    load_model: Callable[[str], Any] = _unknown
    trained: TrainedBy | None = None

    @classmethod
    def choose(cls, device: str = "auto", batch_size: int = 32) -> "Runtime":
        """On CUDA devices that have bf16, images are encoded under its autocast."""
        chosen = choose_device(device)
        if chosen.type == "cpu":
            keep_freed_memory()
        bf16 = chosen.type == "cuda" and torch.cuda.is_bf16_supported()
        return cls(chosen, batch_size, bf16)

    def autocast(self) -> Any:
        return torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext()

    @contextmanager
    def evaluating(self, backbone: Any) -> Iterator[None]:
        """Dropout off and no gradient; afterwards every module is in the mode it was in.

        `no_grad`, not `inference_mode`: a module may keep a tensor made here (a mask, positions), and a training
        step after an evaluation could not use an inference tensor.
        """
        modes = [(module, module.training) for module in backbone.module.modules()]
        backbone.module.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            for module, mode in modes:
                module.training = mode
