"""Keeps freed memory in the process, or returns it to the kernel before work with other block sizes.

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

# Parameters of mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_WHATEVER_IS_FREE = -1


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
