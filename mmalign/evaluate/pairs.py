"""How often a score orders two answers to a prompt as people did, with an interval that accounts for shared prompts.

    accuracy = PairAccuracy(gap=0.5)                           # pairs whose ranks are half a point or more apart
    accuracy.add(scores, ranks=(1.0, 2.0, 2.0))                # scores: [K], of the answers to one prompt
    accuracy.summary("accuracy")                               # {"accuracy": 0.7, "accuracy_low": ..., ...}

Pairs whose ranks tie have no right order and are left out; a pair whose scores tie counts as half right.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mmalign.errors import DataError
from mmalign.evaluate.intervals import with_interval

_ROUNDING = 1e-9  # ranks are differences of ratings in floating point


@dataclass
class PairAccuracy:
    """gap: smallest difference of two ranks; tie: ranks no more than this apart are tied.

    right, pairs: one entry for each prompt; tied: number of tied pairs.
    """

    gap: float = 0.0
    tie: float = field(default=0.0, kw_only=True)
    right: list[float] = field(default_factory=list)
    pairs: list[int] = field(default_factory=list)
    tied: int = 0

    def add(self, scores: Tensor, ranks: Sequence[float]) -> None:
        """scores: [K], higher is better; ranks: K, lower is better."""
        rank = torch.tensor(ranks, dtype=torch.float64, device=scores.device)
        apart = rank[None, :] - rank[:, None]  # positive where row i is better than column j
        counted = (apart > self.tie) & (apart >= self.gap - _ROUNDING)
        difference = scores[:, None] - scores[None, :]
        self.right.append(float((difference > 0)[counted].sum() + 0.5 * (difference == 0)[counted].sum()))
        self.pairs.append(int(counted.sum()))
        self.tied += int((apart.abs() <= self.tie).sum() - len(ranks)) // 2

    def require(self) -> None:
        """Raises DataError where no pair has a right order."""
        if not sum(self.pairs):
            raise DataError("the answers to each prompt tie in rank, so no pair has a right order")

    def summary(self, name: str) -> dict[str, float]:
        """The share and its 95% interval; nothing where there are no pairs.

        Wilson's interval for an effective number of pairs, which as independent pairs would have the variance seen
        between prompts. The answers to a prompt share pairs, so its K (K - 1) / 2 pairs say less than as many prompts
        with one pair each.
        """
        num_pairs = sum(self.pairs)
        if not num_pairs:
            return {}
        share = sum(self.right) / num_pairs
        spread = sum((w - share * n) ** 2 for w, n in zip(self.right, self.pairs, strict=True)) / num_pairs**2
        independent = share * (1 - share) / spread if spread else sum(n > 0 for n in self.pairs)
        size = min(num_pairs, independent)
        return with_interval(name, share * size, size) | {name: share}
