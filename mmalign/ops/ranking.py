r"""Losses over answers that were ranked: pairs (Bradley-Terry and its kin) and whole lists (Plackett-Luce).

    found = ranked_pairs(scores, ranks, present)       # found.losses, found.counted: [N] each

Shapes: N prompts with up to K answers. scores: [N, K]; ranks: [N, K], the lowest the best, equal ranks are ties;
present: [N, K] bool, the answers that exist. A prompt whose answers all tie teaches nothing: its loss is 0 and it
counts 0.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class RankedPairs(NamedTuple):
    """[N] each. losses: the mean over a prompt's pairs; counted: 1 where it has any; margins: the sum of score
    differences over untied pairs; right: of those `pairs`, how many have the better answer scored higher, an equal
    score half; right_apart, pairs_apart: the same where ranks are at least `apart` from each other."""

    losses: Tensor
    counted: Tensor
    margins: Tensor
    right: Tensor
    pairs: Tensor
    right_apart: Tensor
    pairs_apart: Tensor


def bradley_terry(difference: Tensor, gap: Tensor) -> Tensor:
    """-log sigmoid(r_w - r_l)."""
    return F.softplus(-difference)


def ranked_pairs(
    scores: Tensor,
    ranks: Tensor,
    present: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor] = bradley_terry,
    *,
    tie: float = 0.0,
    split_ties: bool = False,
    apart: float = 1.0,
) -> RankedPairs:
    """The mean over a prompt's pairs (w, l) of loss(r_w - r_l, rank_l - rank_w) (Ouyang 2022, equation 1).

    All pairs of a prompt are one element, so that a prompt with many answers weighs no more than one with few. Ties, of
    ranks no more than `tie` apart, are left out or, with `split_ties`, half a win for each side.
    """
    difference = scores[:, :, None] - scores[:, None, :]
    gap = ranks[:, None, :] - ranks[:, :, None]  # positive where row i is better than column j
    both = present[:, :, None] & present[:, None, :]
    better = both & (gap > tie)
    losses = loss(difference, gap).masked_fill(~better, 0.0)
    weight = better.to(scores.dtype)
    if split_ties:
        upper = torch.ones(scores.shape[1], scores.shape[1], dtype=torch.bool, device=scores.device).triu(1)
        tied = both & (gap.abs() <= tie) & upper
        # half of either order
        even = (loss(difference, gap) + loss(-difference, gap)) / 2
        losses = losses + even.masked_fill(~tied, 0.0)
        weight = weight + tied.to(scores.dtype)
    total = weight.sum((1, 2))
    detached = difference.detach()
    right = (detached > 0).to(scores.dtype) + 0.5 * (detached == 0).to(scores.dtype)
    far = both & (gap >= apart - 1e-6) & better  # ranks may be differences of ratings, rounded
    return RankedPairs(
        losses.sum((1, 2)) / total.clamp(min=1),
        (total > 0).to(scores.dtype),
        detached.masked_fill(~better, 0.0).sum((1, 2)),
        right.masked_fill(~better, 0.0).sum((1, 2)),
        better.sum((1, 2)),
        right.masked_fill(~far, 0.0).sum((1, 2)),
        far.sum((1, 2)),
    )


def plackett_luce(scores: Tensor, ranks: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """-log of the probability that answers are drawn best first, over the number of draws (Plackett 1975, Luce 1959).

        -1/D sum_d [ r_d - log sum_{j not better than d} exp r_j ]

    The draws d are the answers that are better than another one; tied answers stand in each other's denominators
    (Breslow 1974). With two answers it is `ranked_pairs`. Returns (loss [N], counted [N] in {0, 1}).
    """
    worse_or_equal = present[:, None, :] & (ranks[:, None, :] >= ranks[:, :, None])  # j for draw d = row
    denominators = scores[:, None, :].masked_fill(~worse_or_equal, -torch.inf)
    draws = present & (present[:, None, :] & (ranks[:, None, :] > ranks[:, :, None])).any(2)
    # A row without a draw has no finite entry where its answer is absent: keep it out of the logarithm.
    lse = denominators.masked_fill(~draws[:, :, None], 0.0).logsumexp(2)
    losses = (lse - scores).masked_fill(~draws, 0.0).sum(1)
    number = draws.sum(1)
    return losses / number.clamp(min=1), (number > 0).to(scores.dtype)
