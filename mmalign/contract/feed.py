"""What makes the rows that a step learns from: a data set's examples as they are, or answers sampled in each step.

    feed = feed_class.open(catalog, rollout, spec, objective, models, ...)
    batch = feed.complete(policy, batch, ctx)     # N rows, ready for the objective's `prepare`

An objective names its feed in its spec. The loop, held-out measurements and the conformance kit ask the feed; they do
not know how it makes its rows.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from mmalign.contract.batch import Batch
from mmalign.contract.capabilities import Pair
from mmalign.contract.objective import Context, Objective
from mmalign.contract.specs import ObjectiveSpec

if TYPE_CHECKING:
    import torch

LOGGED = "num_"  # before the name of a count, in a step's record


class Feed(Protocol):
    """Made once a run, by `open`.

    unit: what a row of a batch is, in the plural. answer_tokens: room that is kept in the context for an answer.
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

    @classmethod
    def check(cls, catalog: Any, rollout: Any, spec: ObjectiveSpec) -> Any:
        """The options of the section `rollout`, every name found and its options filled in. Loads nothing heavy; raises
        UsageError, before any weight is loaded."""
        ...

    @classmethod
    def places(cls, catalog: Any, rollout: Any) -> list[Path]:
        """Files and folders that the options name and that must not change while a run is interrupted."""
        ...

    @classmethod
    def open(
        cls,
        catalog: Any,
        rollout: Any,
        spec: ObjectiveSpec,
        objective: Objective,
        models: Any,
        *,
        share: int,
        columns: tuple[str, ...],
        pair: Pair,
        device: "torch.device",
        say: Callable[[str], None],
    ) -> Self:
        """models: the run's `mmalign.train.roles.Models`. share: rows of a step on this process. columns: those of the
        data's prompts. pair: the contents of the data's prompts and answers. Raises UsageError."""
        ...

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

    def tell(self, counts: Mapping[str, int]) -> list[str]:
        """Lines on a whole run's counts, such as "3 of 64 answers empty": those worth a user's attention."""
        ...

    def why_empty(self, metrics: Mapping[str, Any]) -> str:
        """Why an update with these metrics had nothing to learn from."""
        ...

    def opening(self, key: str) -> str:
        """A line to put above the first row, whose example has this key; rows to learn from stand between « and »."""
        ...
