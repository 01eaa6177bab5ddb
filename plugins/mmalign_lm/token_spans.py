"""Ids of a text, and which of them lie in given spans of its characters.

    ids, is_inside = tokenise_spans(tokenizer, "Hello world", [(6, 11)])            # is_inside: [False, True]

A token that lies in a span only in part is inside: it cannot be learnt by halves.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def tokenise_spans(
    tokenizer: "PreTrainedTokenizerBase", text: str, spans: Sequence[tuple[int, int]]
) -> tuple[list[int], list[bool]]:
    """spans: (start, end) in characters, in order, apart. No special tokens are added."""
    if not tokenizer.is_fast:
        return tokenise_spans_by_beginnings(tokenizer, text, spans)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    is_inside, reached, remaining = [], 0, list(spans)
    for start, end in encoded["offset_mapping"]:
        # Some tokenizers leave white space out of a token's place: it reaches from the token before. A token that
        # holds more than white space is behind a span that ends ahead of its own place: others drop white space.
        reaches_from, reached = min(start, reached), max(end, reached)
        while remaining and remaining[0][1] <= (start if start < end else reaches_from):
            remaining.pop(0)
        is_inside.append(bool(remaining) and reached > remaining[0][0])
    return encoded["input_ids"], is_inside


def tokenise_spans_by_beginnings(
    tokenizer: "PreTrainedTokenizerBase", text: str, spans: Sequence[tuple[int, int]]
) -> tuple[list[int], list[bool]]:
    """The same for tokenizers that do not tell where a token stands: cut where the ids of a beginning end."""
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    is_inside = [False] * len(ids)
    for span in spans:
        first, last = (
            num_shared(tokenizer(text[:end], add_special_tokens=False, verbose=False)["input_ids"], ids) for end in span
        )
        is_inside[first:last] = [True] * (last - first)
    return ids, is_inside


def num_shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Ids that both begin with."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
