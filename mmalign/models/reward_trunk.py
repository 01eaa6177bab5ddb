"""Reward models that a backbone of the same family takes up: to start a critic from, or to score beside the policy.

read = backbone.scorer_adapter(Path("runs/reward/model"), "reward", trains=False)
read.head; read.mean
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import nn


class ReadScorer(NamedTuple):
    """A trained reward model as parts: a backbone with `hidden_states`, a head [H] -> 1, and the mean to take off."""

    backbone: Any
    head: "nn.Linear"
    mean: float


@runtime_checkable
class ReadsScorers(Protocol):
    """A backbone that takes up saved reward models which read its own tokens."""

    def scorer_copy(self, folder: Path) -> ReadScorer:
        """A trunk of its own, with its `module` and `hidden_width`. Raises CheckpointError."""
        ...

    def scorer_adapter(self, folder: Path, name: str, *, trains: bool) -> ReadScorer:
        """This backbone, whose module has the reward model's adapter under that name from then on.

        Raises CheckpointError where the reward model was not trained with an adapter on these very weights.
        """
        ...
