r"""Whether the answer has a given form: `--set rollout.rewards='[{"name": "regex", "pattern": "Answer: \\d+"}]'`.

1 where the expression matches, else 0. A negative weight makes a match a penalty.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import regex
from pydantic import BaseModel, ConfigDict, Field

from mmalign_rewards.patterns import Expression, matches

if TYPE_CHECKING:
    from mmalign.rl.answers import Answers


class RegexMatchConfig(BaseModel):
    """The expression to look for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pattern: Expression = Field(
        examples=[r"\bcat\b"], description="Python's regular expression; (?i) at its start ignores case"
    )
    match: Literal["search", "full"] = Field(
        "search", description="search: anywhere in the answer; full: the whole answer"
    )
    seconds: float = Field(
        1.0, gt=0, description="time limit of the search in one answer, in seconds; beyond it the run stops"
    )


class RegexMatch:
    """Scores the answer alone, without its prompt."""

    Config: ClassVar[type[BaseModel]] = RegexMatchConfig

    def __init__(self, config: RegexMatchConfig) -> None:
        self.config = config
        self._pattern = regex.compile(config.pattern)

    def score(self, answers: "Answers") -> Sequence[float]:
        """[M], 0 or 1. Raises RewardError at the time limit."""
        full, seconds = self.config.match == "full", self.config.seconds
        return [float(matches(self._pattern, text, full=full, seconds=seconds)) for text in answers.texts]
