"""The answers that rewards score, as text and as tokens, each with its example.

    answers.texts[0], answers.solutions[0], answers.column("difficulty")[0]

N prompts and M answers in all, grouped by prompt in the order of the batch.
"""

from collections.abc import Mapping
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from typing import Any

from mmalign.contract.examples import Content
from mmalign.language.protocols import AnswersProcessor
from mmalign.language.sequences import Sequences


@dataclass(frozen=True)
class Answers:
    """M entries of each. keys: of the examples; prompts: as the data set gave them; texts: what the policy wrote,
    without the end token; solutions: the example's right answer, or ""; ended: whether the end token came before the
    limit. columns: the example's other columns by name, or () if no example has any.

    sequences: the N prompts with their M answers as tokens of `processor`, the policy's.
    """

    keys: tuple[str, ...]
    prompts: tuple[Content, ...]
    texts: tuple[str, ...]
    solutions: tuple[str, ...]
    ended: tuple[bool, ...]
    sequences: Sequences
    processor: AnswersProcessor
    columns: tuple[Mapping[str, Any], ...] = ()

    def column_names(self) -> tuple[str, ...]:
        """Names of the columns that any example has, in the order of the data."""
        return tuple(dict.fromkeys(name for row in self.columns for name in row))

    def column(self, name: str) -> list[Any]:
        """M values, None where an example has none."""
        return [row.get(name) for row in self.columns] if self.columns else [None] * len(self)

    def __len__(self) -> int:
        return len(self.texts)

    def select(self, rows: Rows[int]) -> "Answers":
        """The answers at `rows`, in that order, each with a copy of its prompt."""
        return Answers(
            keys=tuple(self.keys[row] for row in rows),
            prompts=tuple(self.prompts[row] for row in rows),
            texts=tuple(self.texts[row] for row in rows),
            solutions=tuple(self.solutions[row] for row in rows),
            ended=tuple(self.ended[row] for row in rows),
            sequences=self.sequences.one_by_one(rows),
            processor=self.processor,
            columns=tuple(self.columns[row] for row in rows) if self.columns else (),
        )
