"""The feed of fixed examples: what a data set holds is learnt from as it is.

feed = FixedExamples()
batch = feed.complete(policy, batch, ctx)     # the same batch
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmalign.contract.batch import Batch
from mmalign.contract.capabilities import Pair
from mmalign.contract.objective import Context, Objective
from mmalign.contract.specs import ObjectiveSpec

if TYPE_CHECKING:
    import torch


class FixedExamples:
    """The examples as they are."""

    def __init__(self) -> None:
        self.unit, self.stage = "examples", "training"
        self.answer_tokens = 0
        self.passes: tuple[int, int] = (1, 1)
        self.limits: Mapping[str, float] = {}
        self.comparable_loss, self.long_steps = True, False

    @classmethod
    def check(cls, catalog: Any, rollout: Any, spec: ObjectiveSpec) -> Any:
        return rollout

    @classmethod
    def places(cls, catalog: Any, rollout: Any) -> list[Path]:
        return []

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
    ) -> "FixedExamples":
        return cls()

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

    def tell(self, counts: Mapping[str, int]) -> list[str]:
        return []

    def why_empty(self, metrics: Mapping[str, Any]) -> str:
        return "all answers to a prompt are ranked the same" if "all_tied" in metrics else "no term counts anything"

    def opening(self, key: str) -> str:
        return f"the first example, {key}; what is learnt is between « and »:"
