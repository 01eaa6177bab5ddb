r"""Pure tensor maths of policy-gradient methods on ragged rows of action tokens.

    advantages, returns = gae(rewards, values, offsets, gamma=1.0, lam=0.95)
    losses, clipped = clipped_policy_loss(logps, old, advantages, low=0.2, high=0.2)

Shapes: P action tokens of M answers, those of one together; offsets: [M + 1] int64 on the CPU. N prompts with K
answers each. Log-probabilities are in nats.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from mmalign.contract.batch import Ragged

KLEstimator = Literal["k1", "k2", "k3"]


def gae(rewards: Tensor, values: Tensor, offsets: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Advantages and returns A + V, [P] each, by A_t = r_t + gamma V_{t+1} - V_t + gamma lam A_{t+1}; both are 0 after
    an answer's end (Schulman 2016, equation 16)."""
    r, v = (Ragged(flat, offsets).padded(0) for flat in (rewards, values))
    following = torch.cat([v[:, 1:], v.new_zeros(len(v), 1)], 1)
    delta = r + gamma * following - v  # 0 behind the end, where all three are
    found = torch.zeros_like(delta)
    last = delta.new_zeros(len(delta))
    for t in range(delta.shape[1] - 1, -1, -1):
        last = delta[:, t] + gamma * lam * last
        found[:, t] = last
    lengths = offsets.diff()
    row = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    column = torch.arange(len(row)) - offsets[:-1][row]
    advantages = found[row.to(found.device), column.to(found.device)]
    return advantages, advantages + values


def whiten(values: Tensor, total: Callable[[Tensor], Tensor], *, eps: float = 1e-8) -> Tensor:
    """values: [P], less their mean and over their standard deviation (biased), of all processes: `total` sums over
    them. Two passes, so that the squares of a large mean do not drown the variance."""
    count, mean = mean_of_all(values, total)
    variance = float(total((values.double() - mean).square().sum()[None].cpu())) / max(1.0, count)
    return (values - mean) / (variance + eps) ** 0.5


def mean_of_all(values: Tensor, total: Callable[[Tensor], Tensor]) -> tuple[float, float]:
    """values: [P] -> (how many there are in all processes, their mean)."""
    sums = total(torch.stack([values.double().sum().cpu(), torch.tensor(float(len(values)), dtype=torch.float64)]))
    return float(sums[1]), float(sums[0]) / max(1.0, float(sums[1]))


def kl_estimate(logps: Tensor, reference: Tensor, kind: KLEstimator) -> Tensor:
    """Per token, of KL(policy || reference) at tokens that the policy drew (Schulman 2020, "Approximating KL
    divergence"): k1 = log p - log q, unbiased; k2 = (log p - log q)^2 / 2, whose gradient is that of the divergence; k3
    = q/p - 1 - log q/p, unbiased and never negative."""
    ratio = reference - logps
    if kind == "k1":
        return -ratio
    return ratio.square() / 2 if kind == "k2" else ratio.exp() - 1 - ratio


def steered(kl: float, answers: float, target: float, horizon: float) -> float:
    """By what to multiply the cost of distance after a batch of so many answers, of mean distance `kl`, so that it
    comes to `target`: 1 + answers/horizon clip(kl/target - 1, -0.2, 0.2), 0.8 to 1.2 (Ziegler 2019, section 2.2)."""
    return min(1.2, max(0.8, 1 + min(0.2, max(-0.2, kl / target - 1)) * answers / horizon))


def clipped_policy_loss(
    logps: Tensor, old: Tensor, advantages: Tensor, low: float, high: float
) -> tuple[Tensor, Tensor]:
    """max(-A ratio, -A clip(ratio, 1 - low, 1 + high)), ratio = exp(logps - old), and where the clip holds it: like
    `logps` each (Schulman 2017, equation 7; Yu 2025 for a higher upper bound)."""
    gap = logps - old
    # A gain is held from 1 + high on. Where a ratio would be infinite, the gradient of what is held is 0, and not NaN.
    ratio = torch.where(advantages < 0, gap, gap.clamp(max=1 + math.log1p(high))).exp()
    free, held = -advantages * ratio, -advantages * ratio.clamp(1 - low, 1 + high)
    return torch.maximum(free, held), (held > free).detach()


def truncated_weights(log_ratio: Tensor, limit: float) -> tuple[Tensor, Tensor]:
    """min(exp(log_ratio), limit), without gradient, and where the limit holds it (Ionides 2008; Yao 2025)."""
    ratio = log_ratio.detach().exp()
    return ratio.clamp(max=limit), ratio > limit


def clipped_value_loss(values: Tensor, old: Tensor, returns: Tensor, clip: float) -> Tensor:
    """Half the larger of (V - R)^2 and (clip(V, old - clip, old + clip) - R)^2; clip 0: the first alone."""
    free = (values - returns).square()
    if not clip:
        return free / 2
    return torch.maximum(free, (values.clamp(old - clip, old + clip) - returns).square()) / 2


def leave_one_out(scores: Tensor, scored: Tensor | None = None) -> Tensor:
    """scores: [N, K] -> each less the mean of the others of its prompt (Ahmadian 2024, equation 8). K >= 2.

    scored: [N, K] bool; the others are no siblings, and get 0, as does one that has no sibling.
    """
    if scored is not None and not bool(scored.all()):
        count = scored.sum(1, keepdim=True)
        held = scores.masked_fill(~scored, 0.0)
        others = (held.sum(1, keepdim=True) - held) / (count - 1).clamp(min=1)
        return (held - others).masked_fill(~scored | (count < 2), 0.0)
    scores, others = _beside_the_first(scores), scores.shape[1] - 1
    return scores - (scores.sum(1, keepdim=True) - scores) / others


def group_relative(scores: Tensor, *, scale: bool, eps: float = 1e-4, scored: Tensor | None = None) -> Tensor:
    """scores: [N, K] -> each less its prompt's mean, over its standard deviation (unbiased) with `scale` (Shao 2024,
    section 4.1.2; without, Liu 2025).

    scored: [N, K] bool; the others count in neither, and get 0, as in TRL.
    """
    if scored is not None and not bool(scored.all()):
        count = scored.sum(1, keepdim=True)
        held = scores.masked_fill(~scored, 0.0)
        centred = (held - held.sum(1, keepdim=True) / count.clamp(min=1)).masked_fill(~scored, 0.0)
        deviation = (centred.square().sum(1, keepdim=True) / (count - 1).clamp(min=1)).sqrt()
        return centred / (deviation + eps) if scale else centred
    scores = _beside_the_first(scores)
    centred = scores - scores.mean(1, keepdim=True)
    return centred / (scores.std(1, keepdim=True) + eps) if scale else centred


def _beside_the_first(scores: Tensor) -> Tensor:
    """Differences are what counts, and those of equal scores are then 0 to the bit, whatever a mean would round."""
    return scores - scores[:, :1]
