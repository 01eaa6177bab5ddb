"""Whether the answer is right: `--set rollout.rewards='[{"name": "exact-match", "after": "####"}]'`.

1 where the answer, without white space around it, is the example's solution, else 0. With `after`, only what follows
the last match of that expression is compared: an answer without it is wrong, a solution without it is taken whole
(GSM8K writes "... #### 42" in both).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import regex
from pydantic import BaseModel, ConfigDict, Field

from mmalign.errors import DataError
from mmalign_rewards.patterns import Expression, after_last

if TYPE_CHECKING:
    from mmalign.rl.answers import Answers


class ExactMatchConfig(BaseModel):
    """What of the answer to compare, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    after: Expression = Field(
        "", description="regular expression; what follows its last match is compared; empty: the whole answer"
    )
    ignore_case: bool = Field(False, description="take upper and lower case as the same")
    seconds: float = Field(1.0, gt=0, description="longest search in one answer, in seconds; beyond it the run stops")


class ExactMatch:
    """Of the answer alone, without its prompt."""

    Config: ClassVar[type[BaseModel]] = ExactMatchConfig

    def __init__(self, config: ExactMatchConfig) -> None:
        self.config = config
        self._marker = regex.compile(config.after) if config.after else None

    def score(self, answers: "Answers") -> Sequence[float]:
        """[M], 0 or 1. Raises DataError for an example without a solution."""
        require_solutions(answers, "exact-match compares answers with it")
        return [float(self._is(*pair)) for pair in zip(answers.texts, answers.solutions, strict=True)]

    def _is(self, answer: str, solution: str) -> bool:
        said, right = self._final(answer), self._final(solution)
        return said is not None and self._plain(said) == self._plain(solution if right is None else right)

    def _final(self, text: str) -> str | None:
        return text if self._marker is None else after_last(self._marker, text, seconds=self.config.seconds)

    def _plain(self, text: str) -> str:
        return text.strip().casefold() if self.config.ignore_case else text.strip()


def require_solutions(answers: "Answers", why: str) -> None:
    """Raise DataError that names the first example without a solution."""
    missing = [key for key, solution in zip(answers.keys, answers.solutions, strict=True) if not solution]
    if missing:
        raise DataError(
            f"example {missing[0]} has no solution, and {why} ({len(set(missing))} such examples in this batch)",
            hint="Give the prompts a column solution, answer or ground_truth.",
        )
