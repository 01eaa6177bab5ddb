r"""Losses of preferences, by name. All take and return [N] tensors, one element a pair (`kto`: an answer); divide by N.

Let w, l be the chosen and the rejected answer, log pi(y) the sum of its tokens' log-probabilities (their mean, where an
objective normalises by length), and

    m = (log pi(w) - log ref(w)) - (log pi(l) - log ref(l)),

the difference of implicit rewards divided by beta. Reference-free losses take log ref = 0.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


def sigmoid(margin: Tensor, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """-(1-e) log sigmoid(beta m) - e log sigmoid(-beta m): DPO for e = 0 (Rafailov 2023, equation 7); for e > 0
    conservative DPO, where a label is wrong with probability e (Mitchell 2023)."""
    z = beta * margin
    return -(1 - label_smoothing) * F.logsigmoid(z) - label_smoothing * F.logsigmoid(-z)


def robust(margin: Tensor, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """[-(1-e) log sigmoid(beta m) + e log sigmoid(-beta m)] / (1 - 2e): unbiased where labels are flipped with
    probability e (Chowdhury 2024, equation 12)."""
    z = beta * margin
    smoothed = -(1 - label_smoothing) * F.logsigmoid(z) + label_smoothing * F.logsigmoid(-z)
    return smoothed / (1 - 2 * label_smoothing)


def ipo(margin: Tensor, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """(m - 1/(2 beta))^2 (Azar 2023, equation 17). Ignores label_smoothing."""
    return (margin - 1 / (2 * beta)).square()


def hinge(margin: Tensor, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """max(0, 1 - beta m): SLiC's loss on implicit rewards (Liu 2023, RSO)."""
    return F.relu(1 - beta * margin)


PAIR_LOSSES: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "sigmoid": sigmoid,
    "robust": robust,
    "ipo": ipo,
    "hinge": hinge,
}


def simpo(margin: Tensor, beta: float, gamma: float) -> Tensor:
    """-log sigmoid(beta m - gamma), m a difference of mean log-probabilities with log ref = 0 (Meng 2024, equation
    6)."""
    return -F.logsigmoid(beta * margin - gamma)


def orpo(chosen: Tensor, rejected: Tensor) -> Tensor:
    """-log sigmoid of the log odds ratio (Hong 2024, equation 7); arguments as `odds_ratio`."""
    return -F.logsigmoid(odds_ratio(chosen, rejected))


def odds_ratio(chosen: Tensor, rejected: Tensor) -> Tensor:
    """log odds(w) - log odds(l), odds = p/(1-p), log p the mean log-probability of a token (Hong 2024, eq. 4).

    chosen, rejected: [N] mean log-probabilities, below 0.
    """

    # log(1 - e^x) without loss near 0 and near -infinity (Maechler 2012)
    def log1mexp(x: Tensor) -> Tensor:
        x = x.clamp(max=-torch.finfo(x.dtype).tiny)
        return torch.where(x > -0.6931472, torch.log(-torch.expm1(x)), torch.log1p(-torch.exp(x)))

    return (chosen - rejected) - (log1mexp(chosen) - log1mexp(rejected))


def kto(
    ratio: Tensor, wanted: Tensor, z0: Tensor, beta: float, desirable_weight: float, undesirable_weight: float
) -> Tensor:
    """lambda_D (1 - sigmoid(beta (r - z0))) where an answer is wanted, else lambda_U (1 - sigmoid(beta (z0 - r)))
    (Ethayarajh 2024, equation 7).

    ratio: [N], r = log pi(y|x) - log ref(y|x); wanted: [N] bool; z0: [N] or 0-D, the reference point, without gradient.
    """
    z = beta * (ratio - z0)
    return torch.where(wanted, desirable_weight * torch.sigmoid(-z), undesirable_weight * torch.sigmoid(z))


# Answers that were ranked ---------------------------------------------------------------------------------------------
# N prompts with up to K answers. scores: [N, K]; ranks: [N, K], the lowest is the best, equal ranks are ties;
# present: [N, K] bool, the answers that exist. A prompt whose answers all tie teaches nothing: its loss is 0 and its
# count is 0.


class RankedPairs(NamedTuple):
    """Per prompt, [N] each. losses: the mean over its untied pairs; counted: 1 where it has any; margins: the sum of
    score differences over these pairs; pairs: their number; right: how many have the better answer scored higher, an
    equal score counting half; right_apart, pairs_apart: the same for pairs whose ranks are at least `apart` from each
    other."""

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

    A prompt with many answers weighs no more than one with few, because its pairs are averaged first. Pairs whose ranks
    are no more than `tie` apart are left out or, with `split_ties`, count as half a win for each side.
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
        # half of each order
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
    """-log of the probability that answers are drawn best first, divided by the number of draws (Plackett 1975, Luce
    1959).

        -1/D sum_d [ r_d - log sum_{j not better than d} exp r_j ]

    The draws d are the answers that are better than another one; tied answers are in each other's denominators (Breslow
    1974). With two answers it equals `ranked_pairs`. Returns (loss [N], counted [N] in {0, 1}).
    """
    worse_or_equal = present[:, None, :] & (ranks[:, None, :] >= ranks[:, :, None])  # j for draw d = row
    denominators = scores[:, None, :].masked_fill(~worse_or_equal, -torch.inf)
    draws = present & (present[:, None, :] & (ranks[:, None, :] > ranks[:, :, None])).any(2)
    # A row without a draw has no finite entry where its answer is absent: keep it out of the logarithm.
    lse = denominators.masked_fill(~draws[:, :, None], 0.0).logsumexp(2)
    losses = (lse - scores).masked_fill(~draws, 0.0).sum(1)
    number = draws.sum(1)
    return losses / number.clamp(min=1), (number > 0).to(scores.dtype)
