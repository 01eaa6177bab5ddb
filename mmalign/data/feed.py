"""What a step learns from: the examples of a data set as they are, or what is made of them in each step.

    feed = FixedExamples()
    batch = feed.complete(policy, batch, ctx)     # the same batch; answers are sampled in `mmalign.rl.feed`

The loop, held-out measurements and the conformance kit ask a feed; they know nothing of where its rows come from.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from mmalign.contract.batch import Batch
from mmalign.contract.objective import Context


class Feed(Protocol):
    """unit: what a row of a batch is, in the plural. answer_tokens: room that is kept in the context for an answer.
    stage: what a step does first, for the display. passes: (epochs, minibatches) of a prepared batch.
    limits: metrics of an update, and what they must not exceed.
    comparable_loss: the losses of two models say which is better.
    long_steps: a step takes so long that its figures are a row each, and that a signal or an error before its first
    update discards it.
    """

    unit: str
    answer_tokens: int
    stage: str
    passes: tuple[int, int]
    limits: Mapping[str, float]
    comparable_loss: bool
    long_steps: bool

    def complete(self, policy: Any, batch: Batch, ctx: Context) -> Batch:
        """A batch of training, ready for the objective's `prepare`; in evaluation mode, without gradient."""
        ...

    def complete_heldout(self, policy: Any, batch: Batch, ctx: Context, total: int) -> Batch:
        """The same of a held-out batch; total: held-out examples that are measured in all."""
        ...

    def heldout_chunk(self, micro_batch_size: int, batch_size: int) -> int:
        """Examples a forward pass of a measurement. micro_batch_size: of training, 0 where it is open; batch_size: of
        measurements."""
        ...

    def sizes(self, batch: Batch) -> dict[str, int]:
        """How much a completed batch holds, by unit: {"examples": 8}."""
        ...

    def take_seconds(self) -> dict[str, float]:
        """Seconds of each part of `complete` since the last call."""
        ...

    def counts(self, batch: Batch) -> dict[str, int]:
        """What is counted of a prepared batch, of this process: such as answers that were cut."""
        ...

    def count_all(self, counts: Mapping[str, int], metrics: Mapping[str, float]) -> dict[str, int]:
        """The counts of all processes, with what the step's metrics add to them."""
        ...

    def keep(self, batch: Batch, step: int, folder: Path, rank: str) -> list[str]:
        """Write what is to be kept of step `step` (from 1), if anything; returns lines that show it.

        rank: for the file's name; empty where there is one process.
        """
        ...


class FixedExamples:
    """The examples as they are."""

    def __init__(self) -> None:
        self.unit, self.stage = "examples", "training"
        self.answer_tokens = 0
        self.passes: tuple[int, int] = (1, 1)
        self.limits: Mapping[str, float] = {}
        self.comparable_loss, self.long_steps = True, False

    def complete(self, policy: Any, batch: Batch, ctx: Context) -> Batch:
        return batch

    def complete_heldout(self, policy: Any, batch: Batch, ctx: Context, total: int) -> Batch:
        return batch

    def heldout_chunk(self, micro_batch_size: int, batch_size: int) -> int:
        return batch_size

    def sizes(self, batch: Batch) -> dict[str, int]:
        return {"examples": len(batch)}

    def take_seconds(self) -> dict[str, float]:
        return {}

    def counts(self, batch: Batch) -> dict[str, int]:
        return {}

    def count_all(self, counts: Mapping[str, int], metrics: Mapping[str, float]) -> dict[str, int]:
        return {}

    def keep(self, batch: Batch, step: int, folder: Path, rank: str) -> list[str]:
        return []
