"""Tokenises a text, and tells which ids lie in given spans of its characters.

    ids, is_inside = tokenise_spans(tokenizer, "Hello world", [(6, 11)])            # is_inside: [False, True]

A token that lies only partly in a span counts as inside: half a token cannot be learnt.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def tokenise_spans(
    tokenizer: "PreTrainedTokenizerBase", text: str, spans: Sequence[tuple[int, int]]
) -> tuple[list[int], list[bool]]:
    """spans: (start, end) in characters, in order, not overlapping. No special tokens are added."""
    if not tokenizer.is_fast:
        return tokenise_spans_by_beginnings(tokenizer, text, spans)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    is_inside, reached, remaining = [], 0, list(spans)
    for start, end in encoded["offset_mapping"]:
        # Some tokenizers leave leading white space out of a token's offsets, so a token reaches back to the end of the
        # one before it. Others drop white space: a token with text is outside a span that ends before its own offset.
        reaches_from, reached = min(start, reached), max(end, reached)
        while remaining and remaining[0][1] <= (start if start < end else reaches_from):
            remaining.pop(0)
        is_inside.append(bool(remaining) and reached > remaining[0][0])
    return encoded["input_ids"], is_inside


def tokenise_spans_by_beginnings(
    tokenizer: "PreTrainedTokenizerBase", text: str, spans: Sequence[tuple[int, int]]
) -> tuple[list[int], list[bool]]:
    """The same for tokenizers that give no offsets: cuts where the ids of a beginning of the text end."""
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    is_inside = [False] * len(ids)
    for span in spans:
        first, last = (
            num_shared(tokenizer(text[:end], add_special_tokens=False, verbose=False)["input_ids"], ids) for end in span
        )
        is_inside[first:last] = [True] * (last - first)
    return ids, is_inside


def num_shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Number of ids that both begin with."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
