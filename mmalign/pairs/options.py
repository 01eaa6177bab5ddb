"""The candidate texts of a dual encoder: as an option, or collected from the data.

class Config(BaseModel): candidates: Candidates = CANDIDATES
texts = candidates_of(config.candidates, [data, heldout], required=True)
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from mmalign.contract.dataset import ListsAnswers
from mmalign.contract.examples import HasAnswers, Prompt
from mmalign.errors import DataError, UsageError
from mmalign.reading import read_text

_MAX_BYTES = 64 << 20


def _read(value: Any) -> Any:
    """ "@names.txt" as the lines of that file; raises ValueError."""
    if not isinstance(value, str):
        return value
    if not value.startswith("@"):
        raise ValueError("a list of texts, or @FILE with one a line")
    try:
        lines = read_text(Path(value[1:]).expanduser(), most=_MAX_BYTES).splitlines()
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {value[1:]}: {error}") from error
    return [line.strip() for line in lines if line.strip()]


Candidates = Annotated[tuple[str, ...], BeforeValidator(_read)]
CANDIDATES: Any = Field(
    (),
    description="texts that are the possible answers to a picture, as a list or @FILE with one a line, where an "
    "objective of language models trains this model; empty: the data's own answers",
)


def candidates_of(given: Sequence[str], parts: Iterable[Any], *, required: bool) -> tuple[str, ...]:
    """The given texts, or the distinct text answers (of prompts: the solutions) in the parts of the data, in their
    order. required: there must be some, because answers are sampled. Raises UsageError, also for a text given twice."""
    if given:
        if len(set(given)) < len(given):
            twice = Counter(given).most_common(1)[0][0]
            raise UsageError(f"backbone.candidates: {twice!r} is in the list twice", hint="Leave one of them out.")
        return tuple(given)
    texts = dict.fromkeys(text for part in parts if part is not None for text in _text_answers(part))
    if required and not texts:
        raise UsageError(
            "prompts without solutions say nothing of the possible answers",
            hint='Name them: --set \'backbone.candidates=["a cat", "a dog"]\', or a file, @names.txt',
        )
    return tuple(texts)


def _text_answers(part: Any) -> Iterator[str]:
    if isinstance(part, ListsAnswers):
        yield from part.text_answers()
        return
    for index in range(len(part)):
        try:
            example = part[index]
        except DataError:
            continue  # is counted where it is trained on
        if isinstance(example, Prompt):
            yield from filter(None, [example.solution])
        elif isinstance(example, HasAnswers):
            yield from (answer for answer in example.answers() if isinstance(answer, str))
