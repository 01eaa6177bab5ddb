"""Hashes that are the same on every machine, process and version of Python, for seeds, orders and random draws.

stable_hash("order", seed, epoch)      # 64 bits
splitmix64(numbers)                    # [n] uint64, each number hashed
"""

import hashlib

import numpy as np


def stable_hash(*parts: object) -> int:
    """A 64-bit hash of strings and numbers, the same on every machine, process and version of Python."""
    text = "\x1f".join(map(str, parts)).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def splitmix64(x: np.ndarray) -> np.ndarray:
    """[n] uint64 -> [n] uint64 by the finaliser of SplitMix64 (Steele 2014): each bit depends on all input bits."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
