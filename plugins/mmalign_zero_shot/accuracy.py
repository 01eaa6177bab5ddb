"""Accuracy of a zero-shot classifier on labelled images: top-1, top-5, by class, the confusions, the worst examples.

accuracy = Accuracy(num_labels)
accuracy.add("cat/1.jpg", truth=3, row=scores)       # scores: [C]
accuracy.summary()                                   # {"examples", "top1", "top1_low", "top1_high", "top5", ...}
"""

import heapq
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mmalign.evaluate.intervals import with_interval

NUM_WORST = 24


@dataclass(frozen=True, order=True)
class Mistake:
    """A wrongly named image. margin: the winner's score minus the true label's; the largest margin is the worst
    mistake."""

    margin: float
    image: str
    truth: int
    predicted: int
    score: float


@dataclass
class Accuracy:
    """num_labels: C, the classes and all other labels to choose from. confusion: [C, C] counts, truth x predicted."""

    num_labels: int
    ranks: list[int] = field(default_factory=list)
    worst_heap: list[Mistake] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.confusion = torch.zeros(self.num_labels, self.num_labels, dtype=torch.int64)

    def add(self, image: str, truth: int, row: Tensor) -> None:
        """row: [C] scores. A label that ties with the true one counts as ranked before it."""
        target = row[truth]
        self.ranks.append(int((row >= target).sum()) - 1)
        others = row.clone()
        others[truth] = -torch.inf
        # In a tie the wrong label is the prediction, as in the ranks.
        predicted = truth if self.ranks[-1] == 0 else int(others.argmax())
        self.confusion[truth, predicted] += 1
        if predicted != truth:
            score = float(row[predicted])
            mistake = Mistake(score - float(target), image, truth, predicted, score)
            keep = heapq.heappush if len(self.worst_heap) < NUM_WORST else heapq.heappushpop
            keep(self.worst_heap, mistake)

    @property
    def worst(self) -> list[Mistake]:
        """The most confident mistakes, worst first."""
        return sorted(self.worst_heap, reverse=True)

    def hits(self, k: int) -> int:
        return sum(rank < k for rank in self.ranks)

    def summary(self) -> dict[str, float]:
        """Shares from 0 to 1 with their 95% intervals, the number of examples, and the mean over classes of top-1."""
        size = len(self.ranks)
        metrics: dict[str, float] = {"examples": size}
        for k in (1, 5):
            metrics |= with_interval(f"top{k}", self.hits(k), size)
        shares = [hits / count for _, hits, count in self.by_class()]
        metrics["mean_class_top1"] = sum(shares) / max(len(shares), 1)
        return metrics

    def by_class(self) -> list[tuple[int, int, int]]:
        """(label, hits, examples) for every label that has examples."""
        counts = self.confusion.sum(1).tolist()
        hits = self.confusion.diagonal().tolist()
        return [(label, hits[label], count) for label, count in enumerate(counts) if count]
