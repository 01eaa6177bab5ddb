"""Freed memory is reused: large tensors made again cause no new page faults."""

import os
import platform
import subprocess
import sys

import pytest

_PROBE = """
import resource, sys, torch
from mmalign.device import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def work():
    return [torch.zeros(16_000_000) for _ in range(2)]  # 64 MB each
for _ in range(6):
    work()  # until the heap has its shape
before = faults()
for _ in range(4):
    work()
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators have their own ways")
def test_large_blocks_are_reused() -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_", "LD_"))}

    def faults(word: str) -> int:
        command = [sys.executable, "-c", _PROBE, word]
        return int(subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout)

    # Where the heap's addresses run into a library's, glibc takes another way, which may give memory back: rare, so
    # the best of three processes counts.
    plain = faults("plain")
    assert any(faults("keep") < plain / 10 for _ in range(3))


def test_a_tuned_allocator_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmalign.device import keep_freed_memory

    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    assert not keep_freed_memory()
