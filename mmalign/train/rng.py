"""Capture and restore this process's random state: torch's as tensors, Python's and numpy's as JSON."""

import os
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def seed_everything(seed: int, rank: int) -> None:
    """Seed torch (all devices), Python and numpy for one process."""
    own = seed * 1_000_003 + rank
    torch.manual_seed(own)
    random.seed(own)
    np.random.seed(own % 2**32)


def make_deterministic() -> None:
    """Allow only deterministic kernels in this process from now on."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


def capture(device: torch.device) -> dict[str, Tensor]:
    """Generator states: {"cpu": uint8 [...]}, and "cuda" or "mps" for such a device."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def restore(state: Mapping[str, Tensor], device: torch.device) -> None:
    """Restore what `capture` returned."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
    elif device.type == "mps":
        torch.mps.set_rng_state(state["mps"])


def capture_host() -> dict[str, list[Any]]:
    """The global generators of Python and numpy, which a plugin may draw from, as JSON."""
    version, internal, gauss = random.getstate()
    name, keys, *position = np.random.get_state(legacy=True)
    return {"python": [version, list(internal), gauss], "numpy": [name, np.asarray(keys).tolist(), *position]}


def restore_host(state: Mapping[str, list[Any]]) -> None:
    """Restore what `capture_host` returned."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *position = state["numpy"]
    np.random.set_state((name, np.asarray(keys, dtype=np.uint32), *position))
