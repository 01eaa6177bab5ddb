"""95% intervals of shares, as metrics: `x_low` and `x_high` beside `x`.

wilson(61, 100)                                             # (0.512, 0.700)
with_interval("top1", 61, 100)                              # {"top1": 0.61, "top1_low": 0.512, "top1_high": 0.700}
"""

import math
from collections.abc import Container

_BOUNDS = ("_low", "_high")


def wilson(hits: float, total: float, z: float = 1.959964) -> tuple[float, float]:
    """The 95% interval of a proportion (Wilson 1927): inside [0, 1], and valid for few examples and for 0% and 100%.

    hits, total: counts, or those of an effective sample size.
    """
    if total == 0:
        return 0.0, 1.0
    share, inverse = hits / total, z * z / total
    centre = (share + inverse / 2) / (1 + inverse)
    half = z * math.sqrt(share * (1 - share) / total + inverse / (4 * total)) / (1 + inverse)
    return max(0.0, centre - half), min(1.0, centre + half)


def with_interval(name: str, hits: float, total: float) -> dict[str, float]:
    """A share and its interval, as metrics."""
    low, high = wilson(hits, total)
    return {name: hits / total if total else 0.0, f"{name}_low": low, f"{name}_high": high}


def is_bound(name: str, metrics: Container[str]) -> bool:
    """Whether a metric is a bound of another metric's interval."""
    return any(name.endswith(end) and name.removesuffix(end) in metrics for end in _BOUNDS)
