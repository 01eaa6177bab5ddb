"""Runs open_clip's text towers no further than needed.

    encode_text(module, tokens, tokenizer.pad_id, tokenizer.end_id, context_length)     # [N, D], not normalised

A causal tower's feature at the end token depends on nothing behind it, so the padding need not be computed. This is
exact, and about 6 times as fast on short labels. Towers that pool elsewhere, or attend both ways, get the full padded
length.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, cast

import torch
from torch import Tensor, nn

from mmalign.errors import DataError

if TYPE_CHECKING:
    from open_clip.transformer import Transformer

    from mmalign.contract.batch import Ragged
    from mmalign_clip.build import OpenClipModule


class _Tower(Protocol):
    """The common members of a TextTransformer and a CLIP, which holds the parts of its text tower itself."""

    token_embedding: nn.Embedding
    positional_embedding: Tensor
    transformer: "Transformer"
    attn_mask: Tensor | None
    ln_final: nn.Module
    text_projection: Tensor | nn.Linear | None


def encode_text(module: "OpenClipModule", tokens: "Ragged", pad_id: int, end_id: int, context_length: int) -> Tensor:
    """tokens: N rows of ids, each closed by `end_id` -> [N, D]; raises DataError for a row beyond the context."""
    longest = longest_row(tokens, context_length)
    if not can_trim(module, pad_id, end_id):
        # CoCa's method normalises by default; the others have the same argument
        return at_least_one(lambda ids: module.encode_text(ids, normalize=False), tokens.padded(pad_id, context_length))
    return at_least_one(lambda ids: _encode_trimmed(module, ids), tokens.padded(pad_id, longest))


def longest_row(tokens: "Ragged", context_length: int) -> int:
    """The length of the longest row, at least 1; raises DataError beyond the context."""
    longest = max(tokens.lengths.tolist(), default=1)
    if longest > context_length:
        raise DataError(f"a text has {longest} tokens and the model takes {context_length}")
    return longest


def at_least_one(tower: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """tower(rows). For no rows: [0, D] that still depends on every parameter, with gradients of zero.

    Attention in both libraries fails on an empty batch, which an uneven last micro-batch can be.
    """
    return tower(rows) if len(rows) else tower(rows.new_zeros(1, *rows.shape[1:]))[:0]


def can_trim(module: "OpenClipModule", pad_id: int, end_id: int) -> bool:
    """Whether the padding of a row cannot change its feature: causal attention, pooled at or before the end token."""
    tower = _tower(module)
    if tower is None or tower[0].attn_mask is None:
        return False
    _, pool, eos_id = tower
    # argmax takes the first of the highest ids: padding must not outrank the end token
    return pool == "first" or (pool == "argmax" and pad_id <= end_id) or (pool == "eos" and eos_id == end_id)


def _tower(module: "OpenClipModule") -> tuple[_Tower, str, int] | None:
    """(parts, pool type, end id) of open_clip's own text towers without an appended class token."""
    from open_clip import CLIP
    from open_clip.transformer import TextTransformer

    if isinstance(module, CLIP):
        return cast(_Tower, module), str(module.text_pool_type), cast(int, module.text_eos_id)
    text = module.text
    if isinstance(text, TextTransformer) and text.cls_emb is None and not text.output_tokens:
        return cast(_Tower, text), text.pool_type, text.eos_id
    return None


def _encode_trimmed(module: "OpenClipModule", ids: Tensor) -> Tensor:
    """ids: [N, T] with T as small as the longest row -> [N, D] (source: open_clip 3.3 `CLIP.encode_text`)."""
    from open_clip.transformer import text_global_pool

    parts = _tower(module)
    assert parts is not None and parts[0].attn_mask is not None
    tower, pool, eos_id = parts
    length = ids.shape[1]
    dtype = tower.transformer.get_cast_dtype()
    x = tower.token_embedding(ids).to(dtype) + tower.positional_embedding[:length].to(dtype)
    x = tower.transformer(x, attn_mask=parts[0].attn_mask[:length, :length])
    # The norm is per token: pooling first leaves [N, width] to normalise instead of [N, T, width]
    x = tower.ln_final(text_global_pool(x, ids, pool, eos_token_id=eos_id))
    projection = tower.text_projection
    if projection is None:
        return x
    return projection(x) if isinstance(projection, nn.Linear) else x @ projection


def unit(features: Tensor) -> Tensor:
    """[N, D] of unit length; half precision is widened first, so that lengths are 1 to float32's precision."""
    if features.dtype in (torch.float16, torch.bfloat16):
        features = features.float()
    return nn.functional.normalize(features, dim=-1)
