"""The ranks of a batch's answers, whatever kind of example said them.

ranks, present = ranks_of(batch, scores)     # [N, K] each
"""

import torch
from torch import Tensor

from mmalign.data.batch import Batch


def ranks_of(batch: Batch, scores: Tensor) -> tuple[Tensor, Tensor]:
    """(ranks, present), in the type and on the device of scores [N, K]; the answers of a preference are in order."""
    counts = batch["sequences"].counts.to(scores.device)
    place = torch.arange(scores.shape[1], device=scores.device).expand(scores.shape)
    present = place < counts[:, None]
    if "ranks" not in batch:
        return place.to(scores.dtype) + 1, present
    ranks = torch.zeros_like(scores)
    ranks[present] = torch.tensor([r for row in batch["ranks"] for r in row], dtype=scores.dtype).to(scores.device)
    return ranks, present


def num_ranked(batch: Batch, *, tie: float = 0.0, split_ties: bool = False) -> int:
    """Prompts that teach something: with ranks more than `tie` apart (or, with ties split, with two answers).

    Places that a preference stands for are 1 apart.
    """
    if "ranks" not in batch:
        return len(batch) if tie < 1 or split_ties else 0
    return sum(max(ranks) - min(ranks) > tie or (split_ties and len(ranks) > 1) for ranks in batch["ranks"])
