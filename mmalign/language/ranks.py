"""The ranks of a batch's answers, whatever kind of example said them.

ranks, present = ranks_of(batch, scores)     # [N, K] each
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mmalign.contract.batch import Batch


def rank_lists(batch: Batch) -> Sequence[Sequence[float]]:
    """The ranks of each prompt's answers; those of a preference are in order."""
    return batch["ranks"] if "ranks" in batch else [(1.0, 2.0)] * len(batch)


def ranks_of(batch: Batch, scores: Tensor) -> tuple[Tensor, Tensor]:
    """(ranks, present) of `rank_lists`, in the type and on the device of scores [N, K]."""
    counts = batch["sequences"].counts.to(scores.device)
    place = torch.arange(scores.shape[1], device=scores.device).expand(scores.shape)
    present = place < counts[:, None]
    ranks = torch.zeros_like(scores)
    ranks[present] = torch.tensor([r for row in rank_lists(batch) for r in row], dtype=scores.dtype).to(scores.device)
    return ranks, present


def num_ranked(batch: Batch, *, tie: float = 0.0, split_ties: bool = False) -> int:
    """Prompts that teach something: with ranks more than `tie` apart (or, with ties split, with two answers)."""
    return sum(max(ranks) - min(ranks) > tie or (split_ties and len(ranks) > 1) for ranks in rank_lists(batch))
