"""What the prompts and answers of a data set hold, for checks before a model is loaded.

pair, key = first_pair(dataset) or (None, "")         # (("image", "text"), "pairs.jsonl:1")
require_pairs("dpo on clip-lite learns from", dataset, pairs, "pairs.jsonl", hint="...")
"""

from collections.abc import Iterator, Set
from typing import Any

from mmalign.contract.capabilities import Pair, in_words
from mmalign.contract.examples import HasAnswers, pair_of
from mmalign.errors import DataError, IncompatibleError


def readable(data: Any) -> Iterator[Any]:
    """The readable examples, in order."""
    for index in range(len(data)):
        try:
            yield data[index]
        except DataError:
            continue


def first_pair(data: Any) -> tuple[Pair, str] | None:
    """The contents of the first readable example, and its key; None where examples have no prompt."""
    example = next(iter(readable(data)), None)
    return (pair_of(example), example.key) if isinstance(example, HasAnswers) else None


def require_pairs(who: str, data: Any, pairs: Set[Pair], name: str, hint: str) -> None:
    """Raise IncompatibleError where the first example has a prompt and answers that are none of `pairs`.

    who: the model and what it does, as the start of a sentence: "dpo on clip-lite learns from". name: of the data.
    """
    first = first_pair(data)
    if first is None:
        return
    pair, key = first
    if pair not in pairs:
        wanted = " or ".join(in_words(each) for each in sorted(pairs) if list(map(bool, each)) == list(map(bool, pair)))
        raise IncompatibleError(f"{name} holds {in_words(pair)} ({key}); {who} {wanted or 'none such'}", hint=hint)
