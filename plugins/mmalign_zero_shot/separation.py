"""How well the best cosine separates right answers from answers where the right label is not among those given.

    separation = Separation()
    separation.add(cosines, truth=3)        # cosines: [C]; used with all labels, and without the true label
    separation.summary()                    # {"auroc": 0.93, "min_cosine": 0.19, "kept": 0.85, "wrongly_named": 0.1}

Both halves come from the same labelled pictures. A right answer should be kept; an answer given without the picture's
own label should be "none of these".
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from torch import Tensor


@dataclass
class Separation:
    """present: the best cosine of each picture named correctly; absent: each picture's best cosine without its own
    label."""

    present: list[float] = field(default_factory=list)
    absent: list[float] = field(default_factory=list)

    def add(self, cosines: Tensor, truth: int) -> None:
        """cosines: [C]. A picture whose label is the only one has no wrong labels and is left out."""
        if len(cosines) < 2:
            return
        others = cosines.clone()
        others[truth] = -math.inf
        self.absent.append(float(others.max()))
        if cosines[truth] > others.max():
            self.present.append(float(cosines[truth]))

    def shares(self, min_cosine: float) -> tuple[float, float]:
        """(share of right answers kept, share of pictures named without their label) at a threshold; needs some of
        both."""
        return _share(sorted(self.present), min_cosine), _share(sorted(self.absent), min_cosine)

    def summary(self) -> dict[str, float]:
        """The area under the ROC curve, and the threshold with the largest difference between the two shares on these
        data.

        Empty where no answer is right.
        """
        if not self.present:
            return {}
        present, absent = sorted(self.present), sorted(self.absent)
        values = sorted({*present, *absent})
        thresholds = [values[0], *((low + high) / 2 for low, high in pairwise(values))]
        best = max(thresholds, key=lambda value: _share(present, value) - _share(absent, value))
        return {
            "auroc": auroc(present, absent),
            "min_cosine": best,
            "kept": _share(present, best),
            "wrongly_named": _share(absent, best),
        }


def auroc(positive: Sequence[float], negative: Sequence[float]) -> float:
    """The probability that a positive is above a negative, a tie counting half: the area under the ROC curve."""
    ordered = sorted(negative)
    below = sum(bisect_left(ordered, value) + bisect_right(ordered, value) for value in positive) / 2
    return below / (len(positive) * len(negative))


def _share(ordered: Sequence[float], least: float) -> float:
    """The share of the values, in ascending order, that reach `least`."""
    return 1 - bisect_left(ordered, least) / len(ordered)
