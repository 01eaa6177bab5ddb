r"""Pure tensor maths of policy-gradient methods on ragged rows of action tokens.

    advantages, returns = gae(rewards, values, offsets, gamma=1.0, lam=0.95)
    losses, clipped = clipped_policy_loss(logps, old, advantages, low=0.2, high=0.2)

Shapes: P action tokens of M answers, one answer after another; offsets: [M + 1] int64 on the CPU. N prompts with K
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
    """Advantages A_t = r_t + gamma V_{t+1} - V_t + gamma lam A_{t+1} and returns A + V, [P] each. V and A are 0 after
    an answer's end (Schulman 2016, equation 16)."""
    r, v = (Ragged(flat, offsets).padded(0) for flat in (rewards, values))
    following = torch.cat([v[:, 1:], v.new_zeros(len(v), 1)], 1)
    delta = r + gamma * following - v  # all three are 0 behind the end, and so is delta
    padded = torch.zeros_like(delta)
    last = delta.new_zeros(len(delta))
    for t in range(delta.shape[1] - 1, -1, -1):
        last = delta[:, t] + gamma * lam * last
        padded[:, t] = last
    lengths = offsets.diff()
    row = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    column = torch.arange(len(row)) - offsets[:-1][row]
    advantages = padded[row.to(padded.device), column.to(padded.device)]
    return advantages, advantages + values


def whiten(values: Tensor, total: Callable[[Tensor], Tensor], *, eps: float = 1e-8) -> Tensor:
    """(values - mean) / standard deviation (biased), over the values [P] of all processes; `total` sums over processes.
    Takes two passes, so that the squares of a large mean do not drown the variance."""
    count, mean = mean_of_all(values, total)
    variance = float(total((values.double() - mean).square().sum()[None].cpu())) / max(1.0, count)
    return (values - mean) / (variance + eps) ** 0.5


def mean_of_all(values: Tensor, total: Callable[[Tensor], Tensor]) -> tuple[float, float]:
    """values: [P] -> (number of values, their mean), over all processes."""
    sums = total(torch.stack([values.double().sum().cpu(), torch.tensor(float(len(values)), dtype=torch.float64)]))
    return float(sums[1]), float(sums[0]) / max(1.0, float(sums[1]))


def kl_estimate(logps: Tensor, reference: Tensor, kind: KLEstimator) -> Tensor:
    """An estimate of KL(policy || reference) at each token that the policy drew (Schulman 2020, "Approximating KL
    divergence"): k1 = log p - log q, unbiased; k2 = (log p - log q)^2 / 2, whose gradient is the divergence's; k3 = q/p
    - 1 - log q/p, unbiased and never negative."""
    ratio = reference - logps
    if kind == "k1":
        return -ratio
    return ratio.square() / 2 if kind == "k2" else ratio.exp() - 1 - ratio


def steered(kl: float, answers: float, target: float, horizon: float) -> float:
    """The factor, 0.8 to 1.2, that steers the cost of distance so that the KL comes to `target`: 1 + answers/horizon
    clip(kl/target - 1, -0.2, 0.2), after a batch of `answers` with mean distance `kl` (Ziegler 2019, section 2.2)."""
    return min(1.2, max(0.8, 1 + min(0.2, max(-0.2, kl / target - 1)) * answers / horizon))


def clipped_policy_loss(
    logps: Tensor, old: Tensor, advantages: Tensor, low: float, high: float
) -> tuple[Tensor, Tensor]:
    """Returns max(-A ratio, -A clip(ratio, 1 - low, 1 + high)), ratio = exp(logps - old), and whether the clip is
    active, both shaped like `logps` (Schulman 2017, equation 7; Yu 2025 for a higher upper bound)."""
    gap = logps - old
    # For A >= 0 the loss is flat from 1 + high on. Clamping there makes the gradient 0 instead of NaN for a huge gap.
    ratio = torch.where(advantages < 0, gap, gap.clamp(max=1 + math.log1p(high))).exp()
    unclipped, clipped = -advantages * ratio, -advantages * ratio.clamp(1 - low, 1 + high)
    return torch.maximum(unclipped, clipped), (clipped > unclipped).detach()


def truncated_weights(log_ratio: Tensor, limit: float) -> tuple[Tensor, Tensor]:
    """Returns min(exp(log_ratio), limit), without gradient, and whether the limit is active (Ionides 2008; Yao
    2025)."""
    ratio = log_ratio.detach().exp()
    return ratio.clamp(max=limit), ratio > limit


def clipped_value_loss(values: Tensor, old: Tensor, returns: Tensor, clip: float) -> Tensor:
    """Half the larger of (V - R)^2 and (clip(V, old - clip, old + clip) - R)^2; with clip 0, half the first."""
    unclipped = (values - returns).square()
    if not clip:
        return unclipped / 2
    return torch.maximum(unclipped, (values.clamp(old - clip, old + clip) - returns).square()) / 2


def leave_one_out(scores: Tensor, scored: Tensor | None = None) -> Tensor:
    """scores: [N, K], K >= 2 -> each minus the mean of the other answers to its prompt (Ahmadian 2024, equation 8).

    scored: [N, K] bool. Answers not scored get 0 and are in no mean; an answer without another scored one gets 0 too.
    """
    if scored is not None and not bool(scored.all()):
        count = scored.sum(1, keepdim=True)
        held = scores.masked_fill(~scored, 0.0)
        others = (held.sum(1, keepdim=True) - held) / (count - 1).clamp(min=1)
        return (held - others).masked_fill(~scored | (count < 2), 0.0)
    scores, others = _beside_the_first(scores), scores.shape[1] - 1
    return scores - (scores.sum(1, keepdim=True) - scores) / others


def group_relative(scores: Tensor, *, scale: bool, eps: float = 1e-4, scored: Tensor | None = None) -> Tensor:
    """scores: [N, K] -> each minus its prompt's mean and, with `scale`, divided by the standard deviation (unbiased)
    (Shao 2024, section 4.1.2; without scale, Liu 2025).

    scored: [N, K] bool. Answers not scored get 0 and are in neither mean nor deviation, as in TRL.
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
    """Scores minus the first. Only differences matter, and those of equal scores are then exactly 0, whatever the mean
    rounds."""
    return scores - scores[:, :1]
