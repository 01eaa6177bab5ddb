"""The device that a command works on, and how a process on a CPU treats memory that it frees.

    choose_device("auto")    # CUDA, then MPS, then the CPU
    keep_freed_memory()      # once, before CPU work with large tensors
    release_freed_memory()   # between sampling and learning, whose blocks differ in size

glibc gives every block above 32 MB back to the kernel when it is freed, and the kernel hands out zeroed pages again for
the next one. A convolution's activations are such blocks: most of a forward's time then goes into page faults, not
arithmetic (measured in BENCHMARKS.md). Told to keep what it has, the allocator reuses it. Blocks of other sizes may not
fit into the free space, and the heap grows beside it; so a process gives memory back before such a change.
"""

import ctypes
import os
import platform

import torch

from mmalign.errors import UsageError

DEVICES = ("auto", "cpu", "cuda", "mps")
# Parameters of mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_WHATEVER_IS_FREE = -1


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


def keep_freed_memory() -> bool:
    """Return whether it applies: on glibc, unless the user tunes the allocator (MALLOC_* or GLIBC_TUNABLES)."""
    tuned = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if tuned or "LD_PRELOAD" in os.environ or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _WHATEVER_IS_FREE))


def release_freed_memory() -> None:
    """Give the kernel whatever is free, and keep as before what is freed from now on. Only on glibc."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
