"""The contract of rewards, which score answers, and what a reward may need before it scores.

    class Short:
        Config = ShortConfig
        def __init__(self, config): ...
        def score(self, answers): return [-len(text) for text in answers.texts]

Return a `RewardSpec` for it from `register_rewards`; `mmalign plugins check` then tries it out.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from mmalign.language.protocols import AnswersProcessor, ScoresSequences

if TYPE_CHECKING:
    import torch
    from pydantic import BaseModel
    from torch import Tensor

    from mmalign.contract.capabilities import Pair
    from mmalign.registry.catalog import Catalog
    from mmalign.rl.answers import Answers


class Reward(Protocol):
    """A scorer of answers, higher for better."""

    Config: "ClassVar[type[BaseModel]]"

    def __init__(self, config: Any) -> None: ...

    def score(self, answers: "Answers") -> "Tensor | Sequence[float | None]":
        """[M], finite; None in a list: no score for that answer. An exception stops the run."""
        ...


@runtime_checkable
class OpensModels(Protocol):
    """A reward that loads models of its own."""

    def open(self, catalog: "Catalog", device: "torch.device", say: Callable[[str], None]) -> None:
        """Load the models; called once, before the first `score`."""
        ...


class PolicyTrunk(Protocol):
    """The policy's weights, on which a reward model may run as an adapter. lends: whether they are frozen."""

    lends: bool
    processor: AnswersProcessor

    def add_scorer(self, folder: Path, name: str) -> ScoresSequences:
        """Load a reward model as a frozen adapter of that name; raises CheckpointError, with the reason."""
        ...


@runtime_checkable
class SharesTrunk(Protocol):
    """A reward that can run as an adapter on the policy's weights instead of loading its own model."""

    def share(self, trunk: PolicyTrunk, name: str, say: Callable[[str], None]) -> None:
        """Called before `open`. name: for its adapter."""
        ...


@runtime_checkable
class ReadsColumns(Protocol):
    """A reward that reads columns of the data by their names (`answers.column(name)`)."""

    def check_columns(self, columns: Sequence[str]) -> None:
        """Called before training with the data's columns; raise UsageError if one that the reward needs is missing."""
        ...


@runtime_checkable
class ReadsPairs(Protocol):
    """A reward that reads only some contents of prompts and answers, such as texts to pictures."""

    def check_pair(self, pair: "Pair") -> None:
        """Called after `open` and before training; raise UsageError for contents that the reward does not read."""
        ...
