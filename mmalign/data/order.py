"""The order in which a run sees its examples: a pure function of the seed, so that a run can resume at any position.

    order = Order(num_examples=50_000, seed=0)
    order.indices(640, 672)        # [(epoch, index), ...] of positions 640..671

It is an infinite sequence of permutations, one for each epoch; a batch may hold the end of one epoch and the start of
the next, and nothing is dropped. The permutation is the swap-or-not shuffle of Hoang, Morris and Rogaway (CRYPTO 2012),
which needs no memory and is the same under every version of torch and numpy.
"""

import functools

import numpy as np

from mmalign.errors import DataError
from mmalign.hashing import splitmix64, stable_hash

_ROUNDS = 48


class Order:
    """Positions 0, 1, 2, ... -> (epoch, index). Stores two integers."""

    def __init__(self, num_examples: int, seed: int) -> None:
        if num_examples < 1:
            raise DataError("the data set is empty")
        self.num_examples = num_examples
        self.seed = seed

    def indices(self, start: int, stop: int) -> list[tuple[int, int]]:
        """The (epoch, index) pairs at positions start..stop-1."""
        pairs: list[tuple[int, int]] = []
        while start < stop:
            epoch, first = divmod(start, self.num_examples)
            last = min(self.num_examples, first + stop - start)
            pairs += [(epoch, index) for index in self._permute(epoch, first, last).tolist()]
            start += last - first
        return pairs

    def _permute(self, epoch: int, first: int, last: int) -> np.ndarray:
        n = self.num_examples
        x = np.arange(first, last, dtype=np.int64)
        for key in _round_keys(self.seed, epoch):
            partner = (int(key) % n + n - x) % n
            swap = splitmix64(np.maximum(x, partner).astype(np.uint64) ^ key) & np.uint64(1)
            x = np.where(swap == 1, partner, x)
        return x


def spread(total: int, limit: int) -> range | list[int]:
    """At most `limit` indices, evenly spread over the data (0: all of them), the same at every call."""
    if not limit or total <= limit:
        return range(total)
    return [step * total // limit for step in range(limit)]


@functools.lru_cache(maxsize=4)
def _round_keys(seed: int, epoch: int) -> np.ndarray:
    start = np.uint64(stable_hash("order", seed, epoch))
    return splitmix64(start ^ (np.arange(1, _ROUNDS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)))
