"""Where and how evaluations run a backbone: device, batch size, autocast, and a clean return to training.

runtime = Runtime.choose("auto", batch_size=32)
with runtime.evaluating(backbone):
    features = backbone.encode_image(images.to(runtime.device))
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from mmalign.errors import UsageError
from mmalign.memory import keep_freed_memory
from mmalign.trained import TrainedBy

DEVICES = ("auto", "cpu", "cuda", "mps")


def choose_device(name: str) -> torch.device:
    """`auto` takes CUDA, then MPS, then the CPU; raises UsageError for a device this machine lacks."""
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if present[kind]))
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"unknown device {name!r}", hint=f"One of: {', '.join(DEVICES)}") from error
    if not present.get(device.type, False):
        have = ", ".join(kind for kind, there in present.items() if there)
        raise UsageError(
            f"device {name!r} is not available in this process", hint=f"Available: {have}; or --device auto"
        )
    return device


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
