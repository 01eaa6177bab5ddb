"""Tokenizers that put the end token behind every text."""

import copy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def appends_end(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether the tokenizer puts the end token behind every text by itself."""
    return tokenizer("a")["input_ids"][-1:] == [tokenizer.eos_token_id]


def ending(tokenizer: "PreTrainedTokenizerBase") -> Any:
    """A copy of the tokenizer that appends the end token to every text, unless it does so already.

    A tokenizer not built on `tokenizers` cannot be changed so and is copied unchanged.
    """
    from tokenizers.processors import Sequence, TemplateProcessing

    tokenizer = copy.deepcopy(tokenizer)
    end = tokenizer.eos_token
    if not tokenizer.is_fast or appends_end(tokenizer):
        return tokenizer
    backend = tokenizer.backend_tokenizer
    ended = TemplateProcessing(
        single=f"$A {end}", pair=f"$A $B:1 {end}:1", special_tokens=[(end, tokenizer.eos_token_id)]
    )
    known = backend.post_processor
    backend.post_processor = ended if known is None else Sequence([known, ended])
    return tokenizer
