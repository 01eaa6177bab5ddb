"""What each optimiser update of a step learns from.

for batches in updates((4, 2), seed, index, prepared, {"ptx": texts}):
    accumulate(engine, batches)
"""

import random
from collections.abc import Iterator, Mapping, Sequence

import torch

from mmalign.contract.batch import Batch
from mmalign.hashing import stable_hash


def updates(
    passes: tuple[int, int], seed: int, index: int, batch: Batch, others: Mapping[str, Batch]
) -> Iterator[list[Batch]]:
    """The prepared batch of step `index` or its minibatches, epoch by epoch, and with each a part of every other
    stream's. passes: epochs, and minibatches of each.

    Where there are several updates, batches have the column `update`: [N], which it is. Rows of minibatches are dealt
    by (seed, step, epoch).
    With several processes each deals its own share, so what a minibatch holds depends on how many there are; what a
    whole epoch holds does not.
    """
    epochs, number = passes
    total = epochs * number
    for update in range(total):
        epoch, place = divmod(update, number)
        part = batch
        if number > 1:
            rows = list(range(len(batch)))
            random.Random(stable_hash("minibatches", seed, index, epoch)).shuffle(rows)
            part = batch.select(_share(rows, place, number))
        if total > 1:
            part = part.with_columns(update=torch.full((len(part),), update, device=batch.device))
        yield [part, *(other.select(_share(range(len(other)), update, total)) for other in others.values())]


def _share(rows: Sequence[int], place: int, number: int) -> Sequence[int]:
    return rows[len(rows) * place // number : len(rows) * (place + 1) // number]
