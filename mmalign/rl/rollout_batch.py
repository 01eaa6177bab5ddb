"""Columns of sampled batches, for online objectives.

    spread(advantage.flatten(), sequences)       # [M], one per answer -> [P], one per action token
    rollout_metrics(batch)                       # score, each reward, length, share that ended

N prompts with K answers each, M = N K; P action tokens, in the order of the answers.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmalign.contract.batch import Batch, Ragged
from mmalign.language.sequences import Sequences
from mmalign.ops import sum_rows
from mmalign.ops.policy_gradient import truncated_weights

if TYPE_CHECKING:
    from mmalign.contract.objective import Context
    from mmalign.language.protocols import CausalLM

REWARD = "reward "  # prefix of the column of a reward's scores
OTHER_SAMPLER = "other sampler"  # [N] bool: answers are an engine's, whose log-probabilities are not the policy's
UNSCORED = "unscored"  # [N, K] bool: no reward scored the answer; absent if all have a score
_Metrics = dict[str, tuple[Tensor | float, Tensor | float]]


def per_prompt(values: Tensor, sequences: Sequences) -> Ragged:
    """values: [P] -> a column of N rows, each with all answers to one prompt."""
    lengths = torch.zeros(len(sequences), dtype=torch.int64).index_add(0, sequences.owner, sequences.num_labels())
    return Ragged.of_lengths(values, lengths)


def answer_offsets(sequences: Sequences) -> Tensor:
    """[M + 1] int64 on the CPU: where each answer's action tokens begin."""
    return torch.cat([torch.zeros(1, dtype=torch.int64), sequences.num_labels().cumsum(0)])


def spread(values: Tensor, sequences: Sequences) -> Tensor:
    """values: [M] -> [P]: repeat an answer's value for each of its action tokens."""
    lengths = sequences.num_labels()
    return values.repeat_interleave(lengths.to(values.device), output_size=int(lengths.sum()))


def action_logps(backbone: "CausalLM", batch: Batch, ctx: "Context", temperature: float) -> Ragged:
    """Log-probabilities of the sampled tokens, without gradient, as a column."""

    def logps(chunk: Batch) -> Tensor:
        hidden = backbone.hidden_states(chunk["sequences"])
        return backbone.token_logps(hidden, temperature=temperature).logps

    return per_prompt(ctx.map(logps, batch), batch["sequences"])


def old_logps(batch: Batch, logps: Tensor) -> Tensor:
    """[P]: log-probabilities of the policy that sampled. In a step's first update these are `logps`, detached, so that
    ratios are exactly 1; then they are the column `old`."""
    new = logps.detach()
    if "update" not in batch:
        return new
    old = batch["old"]
    first = (batch["update"] == 0).repeat_interleave(old.lengths.to(new.device), output_size=len(new))
    return torch.where(first, new, old.values)


def sampler_weights(batch: Batch, old: Tensor, limit: float, *, whole: bool = False) -> tuple[Tensor | float, _Metrics]:
    """(factor of the policy loss, metrics), for answers from another distribution than the policy's.

    The factor is a truncated importance weight min(pi_old / pi_sampler, limit) without gradient, [P] or, if a `whole`
    answer is one action, [M] (Yao 2025, "Your efficient RL framework secretly brings you off-policy RL training"). It
    is 1.0 if the policy itself sampled or limit is 0. old: [P], the policy's log-probabilities when it sampled.

    Metrics, (sum, count): sampler_gap, the absolute difference of log-probabilities per token, in nats; for another
    sampler also sampler_weight, and sampler_truncated, the share of weights above the limit.
    """
    gap = old - batch["sampler_logps"].values.to(old)
    metrics: _Metrics = {"sampler_gap": (gap.abs().sum(), len(gap))}
    if OTHER_SAMPLER not in batch or not limit:
        return 1.0, metrics
    weights, truncated = truncated_weights(sum_rows(gap, answer_offsets(batch["sequences"])) if whole else gap, limit)
    counted = {"sampler_weight": weights.sum(), "sampler_truncated": truncated.sum()}
    return weights, metrics | {name: (total, len(weights)) for name, total in counted.items()}


def scored(batch: Batch) -> Tensor:
    """[N, K] bool: answers that any reward scored. The others have neither a score nor siblings to be better than."""
    return ~batch[UNSCORED] if UNSCORED in batch else torch.ones_like(batch["score"], dtype=torch.bool)


def rollout_metrics(batch: Batch) -> _Metrics:
    """(sum, count) each. score: the weighted sum of rewards, over answers that have one; length: in action tokens;
    ended: share of answers that ended by themselves; empty: share of answers without text."""
    sequences, score = batch["sequences"], batch["score"]
    answers = score.numel()
    lengths = sequences.num_labels()
    metrics: _Metrics = {"score": (score.sum(), scored(batch).sum())}
    rewards = {name: column for name, column in batch.columns.items() if name.startswith(REWARD)}
    if len(rewards) > 1:
        metrics |= {
            name: (column.nansum(), (~column.isnan()).sum())
            for name, column in rewards.items()
            if isinstance(column, Tensor)
        }
    return metrics | {
        "length": (float(lengths.sum()), answers),
        "ended": (batch["ended"].sum(), answers),
        "empty": (float(sum(not text.strip() for texts in batch["written"] for text in texts)), answers),
    }
