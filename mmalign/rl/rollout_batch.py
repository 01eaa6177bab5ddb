"""Columns of sampled batches, as online objectives read and write them.

    spread(advantage.flatten(), sequences)       # [M], one an answer -> [P], one an action token
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

REWARD = "reward "  # before a reward's name, in a column's
OTHER_SAMPLER = "other sampler"  # [N] bool: answers are an engine's, whose log-probabilities are not the policy's
UNSCORED = "unscored"  # [N, K] bool: no reward had a score for the answer; there where any has none
_Metrics = dict[str, tuple[Tensor | float, Tensor | float]]


def per_prompt(values: Tensor, sequences: Sequences) -> Ragged:
    """values: [P] -> N rows, each of all answers to one prompt: a column of a batch."""
    lengths = torch.zeros(len(sequences), dtype=torch.int64).index_add(0, sequences.owner, sequences.num_labels())
    return Ragged.of_lengths(values, lengths)


def answer_offsets(sequences: Sequences) -> Tensor:
    """[M + 1] int64 on the CPU: where each answer's action tokens begin."""
    return torch.cat([torch.zeros(1, dtype=torch.int64), sequences.num_labels().cumsum(0)])


def spread(values: Tensor, sequences: Sequences) -> Tensor:
    """values: [M] -> [P]: what is said of an answer, at each of its action tokens."""
    lengths = sequences.num_labels()
    return values.repeat_interleave(lengths.to(values.device), output_size=int(lengths.sum()))


def action_logps(backbone: "CausalLM", batch: Batch, ctx: "Context", temperature: float) -> Ragged:
    """Log-probabilities of the sampled tokens, without gradient, as a column."""

    def ask(part: Batch) -> Tensor:
        hidden = backbone.hidden_states(part["sequences"])
        return backbone.token_logps(hidden, temperature=temperature).logps

    return per_prompt(ctx.map(ask, batch), batch["sequences"])


def old_logps(batch: Batch, logps: Tensor) -> Tensor:
    """[P]: of the policy that sampled. Until its first update that is the policy as it is: then `logps` themselves,
    detached, so that ratios are exactly 1; afterwards the column `old`."""
    new = logps.detach()
    if "update" not in batch:
        return new
    old = batch["old"]
    first = (batch["update"] == 0).repeat_interleave(old.lengths.to(new.device), output_size=len(new))
    return torch.where(first, new, old.values)


def sampler_weights(batch: Batch, old: Tensor, limit: float, *, whole: bool = False) -> tuple[Tensor | float, _Metrics]:
    """What to multiply a policy loss by, because answers came from another distribution than the policy's: truncated
    importance weights min(pi_old / pi_sampler, limit), [P] or, where a `whole` answer is one action, [M], without
    gradient (Yao 2025, "Your efficient RL framework secretly brings you off-policy RL training"). 1.0 where the policy
    itself drew, and with limit 0. old: [P], the policy's log-probabilities when it sampled.

    Metrics, (sum, count): sampler_gap, nats between the two at a token, in size; where answers are another sampler's
    sampler_weight, and sampler_truncated, the share of weights above the limit.
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
    """(sum, count) each. score: the weighted sum of rewards, of the answers that have one; length: in action tokens;
    ended: the share of answers that ended by themselves; empty: of those that say nothing."""
    sequences, score = batch["sequences"], batch["score"]
    answers = score.numel()
    lengths = sequences.num_labels()
    found: _Metrics = {"score": (score.sum(), scored(batch).sum())}
    parts = {name: column for name, column in batch.columns.items() if name.startswith(REWARD)}
    if len(parts) > 1:
        found |= {
            name: (column.nansum(), (~column.isnan()).sum())
            for name, column in parts.items()
            if isinstance(column, Tensor)
        }
    return found | {
        "length": (float(lengths.sum()), answers),
        "ended": (batch["ended"].sum(), answers),
        "empty": (float(sum(not text.strip() for texts in batch["written"] for text in texts)), answers),
    }
