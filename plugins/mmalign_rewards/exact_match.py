"""Whether the answer is right: `--set rollout.rewards='[{"name": "exact-match", "after": "####"}]'`.

1 where the answer, without white space around it, is the example's solution, else 0. With `after`, only the text behind
the last match of that expression is compared: an answer without a match is wrong, a solution without one is taken whole
(GSM8K writes "... #### 42" in both).

The data set takes the solution from the first of the columns final_answer, answer, ground_truth and solution that it
has, as text, and its log names that column. `column` names another; a number in it also matches another way to write
it: 2.0 matches 2.
"""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import regex
from pydantic import BaseModel, ConfigDict, Field

from mmalign.errors import DataError, UsageError, did_you_mean
from mmalign_rewards.patterns import Expression, after_last

if TYPE_CHECKING:
    from mmalign.rl.answers import Answers


class ExactMatchConfig(BaseModel):
    """Which text of the answer to compare, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    column: str = Field("", description="column of the data to compare with; empty: the data set's solution")
    after: Expression = Field(
        "", description="regular expression; the text behind its last match is compared; empty: the whole answer"
    )
    ignore_case: bool = Field(False, description="treat upper and lower case as equal")
    seconds: float = Field(
        1.0, gt=0, description="time limit of the search in one answer, in seconds; beyond it the run stops"
    )


class ExactMatch:
    """Scores the answer alone, without its prompt."""

    Config: ClassVar[type[BaseModel]] = ExactMatchConfig

    def __init__(self, config: ExactMatchConfig) -> None:
        self.config = config
        self._marker = regex.compile(config.after) if config.after else None

    def check_columns(self, columns: Sequence[str]) -> None:
        """Raises UsageError where `column` is not one of them."""
        if self.config.column and self.config.column not in columns:
            near = did_you_mean(self.config.column, columns)
            raise UsageError(
                f"the data have no column {self.config.column!r}; they have "
                f"{', '.join(columns) or 'none besides the prompt'}",
                hint=f"{near} Name one with the option column.".strip(),
            )

    def score(self, answers: "Answers") -> Sequence[float]:
        """[M], 0 or 1. Raises DataError for an example without a solution."""
        solutions: Sequence[Any] = answers.solutions
        if self.config.column:
            self.check_columns(answers.column_names())
            solutions = answers.column(self.config.column)
        require_solutions(answers, "exact-match compares answers with it", solutions)
        return [float(self._is(*pair)) for pair in zip(answers.texts, solutions, strict=True)]

    def _is(self, answer: str, solution: Any) -> bool:
        said = self._final(answer)
        if said is None:
            return False
        if not isinstance(solution, str):
            is_number = isinstance(solution, int | float) and not isinstance(solution, bool)
            return self._plain(said) == self._plain(as_text(solution)) or (is_number and _number(said) == solution)
        right = self._final(solution)
        return self._plain(said) == self._plain(solution if right is None else right)

    def _final(self, text: str) -> str | None:
        return text if self._marker is None else after_last(self._marker, text, seconds=self.config.seconds)

    def _plain(self, text: str) -> str:
        return text.strip().casefold() if self.config.ignore_case else text.strip()


def as_text(value: Any) -> str:
    """A number or truth value as Python writes it, a list as JSON; else the text itself."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else str(value)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def require_solutions(answers: "Answers", why: str, solutions: Sequence[Any]) -> None:
    """solutions: one for each answer. Raise DataError that names the first example without one."""
    missing = [key for key, value in zip(answers.keys, solutions, strict=True) if value is None or value == ""]
    if missing:
        raise DataError(
            f"example {missing[0]} has no solution, and {why} ({len(set(missing))} such examples in this batch)",
            hint="Give the prompts a column solution, answer or ground_truth, or name theirs with the option column.",
        )
