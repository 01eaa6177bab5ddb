"""Chooses the device that a command works on, and how a process treats the memory that it frees.

    choose_device("auto")    # CUDA, then MPS, then the CPU
    keep_freed_memory()      # once, before CPU work with large tensors
    release_freed_memory()   # between sampling and learning, whose blocks differ in size

glibc returns every freed block above 32 MB to the kernel, and the kernel provides zeroed pages for the next one. A
convolution's activations are such blocks: most of a forward's time then goes into page faults, not arithmetic (measured
in BENCHMARKS.md). `keep_freed_memory` makes the allocator reuse freed blocks. Blocks of other sizes may not fit into
them, so the heap would grow although much of it is free; `release_freed_memory` then returns the free memory.
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
        available = ", ".join(kind for kind, is_present in present.items() if is_present)
        raise UsageError(
            f"device {name!r} is not available in this process", hint=f"Available: {available}; or --device auto"
        )
    return device


def keep_freed_memory() -> bool:
    """Return whether it took effect: only with glibc, and unless the user chose or tuned the allocator (LD_PRELOAD,
    MALLOC_* or GLIBC_TUNABLES)."""
    tuned = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if tuned or "LD_PRELOAD" in os.environ or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _WHATEVER_IS_FREE))


def release_freed_memory() -> None:
    """Return all free memory to the kernel now; memory freed later is kept as before. Only with glibc."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
