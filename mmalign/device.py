"""Chooses the device that a command works on.

choose_device("auto")      # CUDA, then MPS, then the CPU
"""

import torch

from mmalign.errors import UsageError

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
        available = ", ".join(kind for kind, is_present in present.items() if is_present)
        raise UsageError(
            f"device {name!r} is not available in this process", hint=f"Available: {available}; or --device auto"
        )
    return device
