"""Draw tokens so that a row's text depends on its own seed alone, not on what else is in the batch.

u = uniforms(seeds, step=7)                          # [N], one number for each row and step
tokens, logps = draw(logits, Sampling(temperature=0.7), u)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """max_tokens: of an answer. temperature: 0 takes the most probable token. top_p: draw among the most probable
    tokens that make up this much of the probability; 1: among all."""

    max_tokens: int = 64
    temperature: float = 1.0
    top_p: float = 1.0


class Generated(NamedTuple):
    """ids: N answers, the end token included where it was drawn. logps: of each token as it was drawn, temperature
    and top-p included. ended: [N] bool, the end token came before `max_tokens`."""

    ids: list[Tensor]
    logps: list[Tensor]
    ended: list[bool]


def uniforms(seeds: Sequence[int], step: int) -> Tensor:
    """[N] float64 in [0, 1): a hash of (seed, step), by the finaliser of SplitMix64 (Steele 2014)."""
    with np.errstate(over="ignore"):
        x = np.asarray([seed % 2**64 for seed in seeds], np.uint64) * np.uint64(0xD1342543DE82EF95)
        x = x + np.uint64(step + 1) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    return torch.from_numpy((x >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def draw(logits: Tensor, sampling: Sampling, u: Tensor) -> tuple[Tensor, Tensor]:
    """logits: [N, V]; u: [N] from `uniforms` -> tokens [N] int64 and their log-probabilities [N], by the inverse of the
    cumulative distribution."""
    if sampling.temperature == 0:
        logp, token = logits.float().log_softmax(1).max(1)
        return token, logp
    p = (logits.float() / sampling.temperature).softmax(1).double()
    if sampling.top_p < 1:
        sorted_p, order = p.sort(1, descending=True)
        keep = sorted_p.cumsum(1) - sorted_p < sampling.top_p  # the first is always kept
        p = torch.zeros_like(p).scatter(1, order, sorted_p * keep)
    cumulative = p.cumsum(1)
    target = u.to(p.device)[:, None] * cumulative[:, -1:]
    token = torch.searchsorted(cumulative, target, right=True).clamp(max=p.shape[1] - 1)
    chosen = p.gather(1, token) / cumulative[:, -1:]
    return token[:, 0], chosen.log()[:, 0].float()
