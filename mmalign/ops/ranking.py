r"""Losses over answers that were ranked: pairs (Bradley-Terry) and whole lists (Plackett-Luce).

    sums, counted = ranked_pairs(scores, ranks, present)       # [N] each

Shapes: N prompts with up to K answers. scores: [N, K]; ranks: [N, K], 1 the best, equal ranks are ties; present:
[N, K] bool, the answers that exist. A prompt whose answers all tie teaches nothing: its loss is 0 and it counts 0.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def ranked_pairs(
    scores: Tensor, ranks: Tensor, present: Tensor, *, margin: float = 0.0, split_ties: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """-mean over pairs of log sigmoid(r_w - r_l - margin * (rank_l - rank_w)), for each prompt (Ouyang 2022, eq. 1).

    All pairs of a prompt are one element, so that a prompt with many answers weighs no more than one with few. Ties are
    left out or, with `split_ties`, half a win for each side. Returns (loss [N], counted [N] in {0, 1}, right [N] pairs
    in the right order, an equal score half, pairs [N]).
    """
    difference = scores[:, :, None] - scores[:, None, :]
    gap = ranks[:, None, :] - ranks[:, :, None]  # positive where row i is better than column j
    both = present[:, :, None] & present[:, None, :]
    better = both & (gap > 0)
    losses = F.softplus(-(difference - margin * gap)).masked_fill(~better, 0.0)
    weight = better.to(scores.dtype)
    if split_ties:
        upper = torch.ones(scores.shape[1], scores.shape[1], dtype=torch.bool, device=scores.device).triu(1)
        tied = both & (gap == 0) & upper
        # half of either order
        even = (F.softplus(-difference) + F.softplus(difference)) / 2
        losses = losses + even.masked_fill(~tied, 0.0)
        weight = weight + tied.to(scores.dtype)
    total = weight.sum((1, 2))
    counted = (total > 0).to(scores.dtype)
    right = ((difference > 0) & better).sum((1, 2)) + 0.5 * ((difference == 0) & better).sum((1, 2))
    return losses.sum((1, 2)) / total.clamp(min=1), counted, right.detach(), better.sum((1, 2))


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
