"""The base of every objective: the loss of a batch, without devices, logging or checkpoints.

    class Triplet(Objective):
        class Config(ObjectiveConfig): margin: float = Field(0.2, description="...")
        def forward(self, models, batch): return {"image": ..., "text": ...}      # [N, ...] each, differentiable
        def loss(self, outputs, batch): return {"triplet": terms.sum()}, {"margin_met": (met.sum(), len(batch))}
        def count(self, batch): return {"triplet": len(batch)}

Total loss = sum over terms of weight * sum / global count. A term with count zero drops out.

By default an objective is the only phase of a step: one pass over the batch. `phases` can name several.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, overload

from pydantic import BaseModel, ConfigDict

from mmalign.contract.backbone import Backbone
from mmalign.hashing import stable_hash

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from mmalign.contract.batch import Batch, Column
    from mmalign.contract.roles import Models
    from mmalign.contract.trained import Comparison

Outputs = Mapping[str, "Tensor"]
Metrics = Mapping[str, tuple["Tensor | float", "Tensor | float"]]  # name -> (sum, count), detached


class ObjectiveConfig(BaseModel):
    """The options of an objective; every field is described, with its unit."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Context:
    """Seeds, sums over processes and micro-batches for `prepare`.

    first_row: index in the global batch of this process's first example. guard: runs work that involves no other
    process, so that a signal can interrupt it.
    """

    def __init__(
        self,
        seed: int,
        step: int,
        sum_over_processes: "Callable[[Tensor], Tensor]",
        chunk: int,
        *,
        first_row: int = 0,
        guard: "Callable[[Callable[[], Any]], Any]" = lambda work: work(),
    ) -> None:
        self.step = step
        self.sum_over_processes = sum_over_processes
        self.guard = guard
        self._seed = seed
        self._chunk = chunk
        self._first_row = first_row

    def seed(self, row: int, *numbers: int) -> int:
        """A seed for one row of this process's share of the batch, independent of how the batch is split; different
        `numbers` give different seeds."""
        return stable_hash(self._seed, self.step, row + self._first_row, *numbers) >> 1

    @overload
    def map(self, function: "Callable[[Batch], Tensor]", batch: "Batch") -> "Tensor": ...

    @overload
    def map(self, function: "Callable[[Batch], Mapping[str, Tensor]]", batch: "Batch") -> "Mapping[str, Tensor]": ...

    def map(self, function: "Callable[[Batch], Any]", batch: "Batch") -> Any:
        """Apply a pass without gradient in micro-batches and join its [n, ...] results, one or several by name. Signals
        interrupt it: all processes must call `map` equally often, and `function` must not wait for another process."""
        import torch

        results = self.guard(lambda: [function(piece) for piece in batch.split(self._chunk)])
        if isinstance(results[0], torch.Tensor):
            return torch.cat(results)
        return {name: torch.cat([result[name] for result in results]) for name in results[0]}


class Phase(ABC):
    """One forward and backward pass over a batch; its activations are freed before the next phase begins.

    N is the number of examples of a batch.
    """

    @abstractmethod
    def forward(self, models: "Models", batch: "Batch") -> Outputs:
        """Differentiable tensors, from trainable roles only: [N, ...], one row for each example. An objective that is
        not coupled may also return [P], one value for each label of `batch["sequences"]`."""

    @abstractmethod
    def loss(self, outputs: Outputs, batch: "Batch") -> "tuple[Mapping[str, Tensor], Metrics]":
        """Return ({term: sum over examples}, metrics), computed without any model.

        For a coupled objective, `outputs` are of the whole global batch, and `batch` has its length but no columns. If
        such a loss needs labels or group ids, `forward` returns them as integers.
        """

    @abstractmethod
    def count(self, batch: "Batch") -> Mapping[str, float]:
        """The denominator of each term, known before `forward`: rows, tokens or weights."""


class Objective(Phase):
    """A training algorithm; by default, the only phase of a step."""

    Config: ClassVar[type[BaseModel]]
    coupled: ClassVar[bool] = False
    """The loss mixes examples (InfoNCE); `forward` must then return every trainable tensor of `loss` as [N, ...]."""

    def __init__(self, config: Any) -> None:
        self.config = config
        self.state: dict[str, Any] = {}
        """The objective's own state, which checkpoints save as JSON. Change it in place, between steps."""

    @property
    def comparison(self) -> "Comparison | None":
        """How the objective compares two answers to a prompt, if its metric `accuracy` is the share of pairs in the
        right order; `mmalign evaluate` measures the saved model in the same way. None for other objectives."""
        return None

    @property
    def weights(self) -> Mapping[str, float]:
        """The weight of each term in the total loss, from the options alone; 1 for terms not named."""
        return {}

    def phases(self, models: "Models") -> Mapping[str, tuple[Phase, ...]]:
        """Stream of examples -> the phases that learn from it, one after the other.

        Called once when a run starts or resumes, with the models just built. Check here what no spec can express.
        Raises IncompatibleError, UsageError or DataError.
        """
        return {"main": (self,)}

    def frozen(self, models: "Models", batch: "Batch") -> "Mapping[str, Column]":
        """Columns computed by frozen roles, without gradient, one row for each example and from that example alone.

        They are added to the batch before `prepare`. For fixed data they are computed once, before the first step, and
        the frozen roles are then dropped. So `prepare` may use a frozen role only if `frozen` uses none.
        """
        return {}

    def prepare(self, models: "Models", batch: "Batch", ctx: Context) -> "Batch":
        """Add columns to a batch of the stream "main", once for each batch and without gradient, such as advantages.
        For an online objective the batch already has answers and scores (`mmalign.rl.rollout.Sampler`)."""
        return batch

    def constrain(self, models: "Models") -> None:
        """Project parameters after each optimiser step, without gradient, such as CLIP's clamp of the scale."""
        return None

    def save(self, models: "Models", folder: "Path", batches: "Iterable[Batch]") -> None:
        """Write the trained model in the format of its family's own library. Called after the last step, without
        gradient, in evaluation mode, on the main process.

        batches: up to a thousand training examples or 50,000 tokens, in order, loaded while iterating.
        """
        models.role("policy", Backbone).save(folder)
