"""Random state of this process as tensors: captured, restored, replayed."""

import random
from collections.abc import Mapping

import torch
from torch import Tensor


def seed_everything(seed: int, rank: int) -> None:
    """Seed torch (all devices) and Python for one process."""
    torch.manual_seed(seed * 1_000_003 + rank)
    random.seed(seed * 1_000_003 + rank)


def capture(device: torch.device) -> dict[str, Tensor]:
    """Generator states: {"cpu": uint8 [...], "cuda": uint8 [...] where the device is one}."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def restore(state: Mapping[str, Tensor], device: torch.device) -> None:
    """Put back what `capture` returned."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
    elif device.type == "mps":
        torch.mps.set_rng_state(state["mps"])


def capture_python() -> list[object]:
    """Python's own generator as JSON."""
    version, internal, gauss = random.getstate()
    return [version, list(internal), gauss]


def restore_python(state: list) -> None:
    version, internal, gauss = state
    random.setstate((version, tuple(internal), gauss))
