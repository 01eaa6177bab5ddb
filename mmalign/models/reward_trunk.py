"""Reward models that a backbone of the same family loads, to start a critic from or to score beside the policy.

scorer = backbone.scorer_adapter(Path("runs/reward/model"), "reward", trains=False)
scorer.head; scorer.mean
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import nn


class ReadScorer(NamedTuple):
    """A trained reward model as parts: a backbone with `hidden_states`, a head [H] -> 1, and the mean to subtract."""

    backbone: Any
    head: "nn.Linear"
    mean: float


@runtime_checkable
class ReadsScorers(Protocol):
    """A backbone that loads saved reward models with its own tokenizer."""

    def scorer_copy(self, folder: Path) -> ReadScorer:
        """A separate trunk, with its `module` and `hidden_width`. Raises CheckpointError."""
        ...

    def scorer_adapter(self, folder: Path, name: str, *, trains: bool) -> ReadScorer:
        """This backbone, whose module then has the reward model's adapter under that name.

        Raises CheckpointError where the reward model was not trained with an adapter on these very weights.
        """
        ...
