"""Draws tokens such that a row's text depends on its own seed only, not on the rest of the batch.

u = uniforms(seeds, step=7)                          # [N], one number for each row and step
tokens, logps = draw(logits, Sampling(temperature=0.7), u)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmalign.hashing import splitmix64

_BLOCK = 256  # tokens


@dataclass(frozen=True)
class Sampling:
    """max_tokens: of an answer. temperature: 0 takes the most probable token. top_p: draw among the most probable
    tokens that make up this share of the probability; 1: among all."""

    max_tokens: int = 64
    temperature: float = 1.0
    top_p: float = 1.0


class Generated(NamedTuple):
    """ids: N answers, with the end token where it was drawn. logps: of each token as it was drawn, with temperature and
    top-p applied. ended: [N] bool, whether the end token came before `max_tokens`."""

    ids: list[Tensor]
    logps: list[Tensor]
    ended: list[bool]


def uniforms(seeds: Sequence[int], step: int) -> Tensor:
    """[N] float64 in [0, 1): a hash of (seed, step), by the finaliser of SplitMix64 (Steele 2014)."""
    with np.errstate(over="ignore"):
        x = np.asarray([seed % 2**64 for seed in seeds], np.uint64) * np.uint64(0xD1342543DE82EF95)
        x = splitmix64(x + np.uint64(step + 1) * np.uint64(0x9E3779B97F4A7C15))
    return torch.from_numpy((x >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def draw(logits: Tensor, sampling: Sampling, u: Tensor) -> tuple[Tensor, Tensor]:
    """logits: [N, V]; u: [N] from `uniforms` -> tokens [N] int64 and their log-probabilities [N], by the inverse of the
    cumulative distribution."""
    z = logits.float()
    if sampling.temperature == 0:
        highest, token = z.max(1)
        return token, highest - z.logsumexp(1)
    p = (z if sampling.temperature == 1 else z / sampling.temperature).softmax(1)
    if sampling.top_p < 1:
        sorted_p, order = p.double().sort(1, descending=True)
        keep = sorted_p.cumsum(1) - sorted_p < sampling.top_p  # the first is always kept
        p = torch.zeros_like(sorted_p).scatter(1, order, sorted_p * keep)
    # First the block of tokens, by the sums of blocks, then the token in it: a cumulative sum of all tokens in float64
    # would cost more than the probabilities.
    whole = p.shape[1] // _BLOCK * _BLOCK
    sums = torch.cat([p[:, :whole].unflatten(1, (-1, _BLOCK)).sum(2), p[:, whole:].sum(1, keepdim=True)], 1).double()
    cumulative = sums.cumsum(1)
    mass = cumulative[:, -1:]
    target = u.to(p.device)[:, None] * mass
    block = _first_above(cumulative, target)
    members = block * _BLOCK + torch.arange(_BLOCK, device=p.device)
    within = p.gather(1, members.clamp(max=p.shape[1] - 1)).double() * (members < p.shape[1])
    before = cumulative.gather(1, block) - sums.gather(1, block)
    token = block * _BLOCK + _first_above(within.cumsum(1), target - before)
    return token[:, 0], (p.gather(1, token) / mass).log()[:, 0].float()


def _first_above(cumulative: Tensor, target: Tensor) -> Tensor:
    """[N, 1]: the first position where the sum exceeds the target. Where rounding puts the target at or above the whole
    sum: the last position that adds to it. cumulative: [N, n]; target: [N, 1]."""
    below = torch.nextafter(cumulative[:, -1:], torch.zeros_like(target))
    position = torch.searchsorted(cumulative, torch.minimum(target, below), right=True)
    return position.clamp(max=cumulative.shape[1] - 1)  # NaN is above all
