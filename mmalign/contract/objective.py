"""The base of every objective: what to compute from a batch, and nothing about devices, logging or checkpoints.

    class Triplet(Objective):
        class Config(ObjectiveConfig): margin: float = Field(0.2, description="...")
        def forward(self, models, batch): return {"image": ..., "text": ...}      # [N, ...] each, differentiable
        def loss(self, outputs, batch): return {"triplet": terms.sum()}, {"margin_met": (met.sum(), len(batch))}
        def count(self, batch): return {"triplet": len(batch)}

Total loss = sum over terms of weight * sum / global count. A term with count zero drops out.

An objective is one phase of a step: one pass over the batch. One with several names them in `phases`.
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
    """What `prepare` may use besides the models.

    first_row: the place in the global batch of this process's first example. guard: runs work that involves no other
    process, so that a signal can end it.
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
        """A seed for one row of this process's share of the batch, the same however the batch is split; another one for
        other `numbers`."""
        return stable_hash(self._seed, self.step, row + self._first_row, *numbers) >> 1

    @overload
    def map(self, function: "Callable[[Batch], Tensor]", batch: "Batch") -> "Tensor": ...

    @overload
    def map(self, function: "Callable[[Batch], Mapping[str, Tensor]]", batch: "Batch") -> "Mapping[str, Tensor]": ...

    def map(self, function: "Callable[[Batch], Any]", batch: "Batch") -> Any:
        """Apply a frozen pass in micro-batches and join its [n, ...] results, one or several by name. A signal ends it:
        of several processes all come here equally often, and `function` waits for none of them."""
        import torch

        parts = self.guard(lambda: [function(part) for part in batch.split(self._chunk)])
        if isinstance(parts[0], torch.Tensor):
            return torch.cat(parts)
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


class Phase(ABC):
    """One pass over a batch, learnt from by itself: its activations are freed before the next phase begins.

    N is the number of examples of a batch.
    """

    @abstractmethod
    def forward(self, models: "Models", batch: "Batch") -> Outputs:
        """Differentiable tensors, from trainable roles only: of each example, [N, ...], or, where the objective is not
        coupled, of each label of `batch["sequences"]`, [P]."""

    @abstractmethod
    def loss(self, outputs: Outputs, batch: "Batch") -> "tuple[Mapping[str, Tensor], Metrics]":
        """Return ({term: sum over examples}, metrics). Tensor maths; sees no model.

        For a coupled objective `outputs` are the whole global batch's and `batch` has its length but no columns: what
        such a loss needs besides (labels, group ids as integers), `forward` returns too.
        """

    @abstractmethod
    def count(self, batch: "Batch") -> Mapping[str, float]:
        """The denominator of each term, known before the forward: rows, tokens, weights."""


class Objective(Phase):
    """An algorithm: by default the one phase of a step."""

    Config: ClassVar[type[BaseModel]]
    coupled: ClassVar[bool] = False
    """The loss mixes examples (InfoNCE): then every trainable tensor that `loss` needs leaves `forward` as [N, ...]."""

    def __init__(self, config: Any) -> None:
        self.config = config
        self.state: dict[str, Any] = {}
        """What a checkpoint keeps of the objective itself, as JSON: to be changed in place, between steps."""

    @property
    def comparison(self) -> "Comparison | None":
        """How it compares two answers to a prompt, where its metric `accuracy` is the share of pairs in order: `mmalign
        evaluate` repeats it on the saved model."""
        return None

    @property
    def weights(self) -> Mapping[str, float]:
        """The weight of each term in the total, by the options alone; terms not named weigh 1."""
        return {}

    def phases(self, models: "Models") -> Mapping[str, tuple[Phase, ...]]:
        """Stream of examples -> the phases that learn from it, one after the other.

        Called once, on the models as built, at a start and at a resume: the place to check what no spec can say. Raises
        IncompatibleError, UsageError, DataError.
        """
        return {"main": (self,)}

    def frozen(self, models: "Models", batch: "Batch") -> "Mapping[str, Column]":
        """What frozen roles say of each example, a row of its own: no gradient, a function of the example alone.

        The columns are added to the batch before `prepare`. Where data is fixed they are worked out once, before the
        first step, and the roles are then gone; so `prepare` may use a frozen role only where `frozen` uses none.
        """
        return {}

    def prepare(self, models: "Models", batch: "Batch", ctx: Context) -> "Batch":
        """No gradient, once a batch of the stream "main": frozen passes, advantages. Adds columns. Of an online
        objective, the batch has its answers and their scores already (`mmalign.rl.rollout.Sampler`)."""
        return batch

    def constrain(self, models: "Models") -> None:
        """After each optimiser step, without gradient: projections such as CLIP's clamp of the scale."""
        return None

    def save(self, models: "Models", folder: "Path", batches: "Iterable[Batch]") -> None:
        """Write the trained model, as its family's own library loads it; after the last step, without gradient, in
        evaluation mode, on the main process.

        batches: up to a thousand training examples or 50,000 tokens, in order, read as they are drawn.
        """
        models.role("policy", Backbone).save(folder)
