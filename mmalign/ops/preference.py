r"""Losses of preferences, by name. All take and return [N] tensors, an element a pair (`kto`: an answer); divide by N.

Let w, l be the chosen and the rejected answer, log pi(y) the sum of its tokens' log-probabilities (their mean, where
an objective normalises by length), and

    m = (log pi(w) - log ref(w)) - (log pi(l) - log ref(l)),

the difference of implicit rewards over beta. Reference-free losses take ref = 0.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def sigmoid(margin: Tensor, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """-(1-e) log sigmoid(beta m) - e log sigmoid(-beta m): DPO (Rafailov 2023, equation 7), e = 0; conservative DPO
    (Mitchell 2023) takes labels to be wrong with probability e."""
    z = beta * margin
    return -(1 - label_smoothing) * F.logsigmoid(z) - label_smoothing * F.logsigmoid(-z)


def robust(margin: Tensor, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """[-(1-e) log sigmoid(beta m) + e log sigmoid(-beta m)] / (1 - 2e): unbiased under labels that are flipped with
    probability e (Chowdhury 2024, equation 12)."""
    z = beta * margin
    smoothed = -(1 - label_smoothing) * F.logsigmoid(z) + label_smoothing * F.logsigmoid(-z)
    return smoothed / (1 - 2 * label_smoothing)


def ipo(margin: Tensor, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """(m - 1/(2 beta))^2 (Azar 2023, equation 17). Labels are taken as they are."""
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
    """-log sigmoid(beta m - gamma), m a difference of mean log-probabilities, ref = 0 (Meng 2024, equation 6)."""
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
