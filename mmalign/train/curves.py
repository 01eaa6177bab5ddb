"""Plots of metrics.jsonl, for the reports of runs and pipelines.

figure = draw_curves(records)
figure = reward_against_kl(records)          # None if the records have no KL
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mmalign.contract.feed import LOGGED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FRONTIER = "Reward against KL from the reference"
_NOT_CURVES = ("step", "peak_memory_mb")
_FIRST = ("score", "kl", "entropy", "length")  # the first panels of an online objective
_EXACT = ("learning_rate", "scale", "beta")  # no noise to average away


def draw_curves(records: Sequence[Mapping[str, Any]]) -> "Figure":
    """One panel per metric: the raw values, thin, and a smoothed line.

    Online objectives have no panel for the loss, whose value means nothing, and none for counts, shown as shares.
    """
    from matplotlib.figure import Figure

    names = _names(records)
    columns = min(3, max(1, len(names)))
    lines = max(1, -(-len(names) // columns))
    width, height = 4.0 * columns, 2.5 * lines
    figure = Figure(figsize=(width, height))
    # Fixed margins, in inches: a layout engine draws everything several times over.
    panel = (width - 0.72 - 0.2 - 0.78 * (columns - 1)) / columns
    figure.subplots_adjust(
        left=0.72 / width, right=1 - 0.2 / width, top=1 - 0.35 / height, bottom=0.4 / height, wspace=0.78 / panel,
        hspace=0.42,
    )  # fmt: skip
    for number, name in enumerate(names, 1):
        axes = figure.add_subplot(lines, columns, number)
        steps = [record["step"] for record in records if name in record and record[name] is not None]
        values = [record[name] for record in records if name in record and record[name] is not None]
        noisy = name not in _EXACT
        axes.plot(steps, values, color="#4477aa", linewidth=0.8 if noisy else 1.6, alpha=0.4 if noisy else 1.0)
        if noisy:
            axes.plot(steps, smooth(values), color="#4477aa", linewidth=1.6)
        axes.set_title(name.replace("_", " "), fontsize=9)
        axes.tick_params(labelsize=7)
        axes.ticklabel_format(useOffset=False)
        axes.locator_params(nbins=5)
        axes.locator_params("x", integer=True)  # there is no half step
        axes.grid(alpha=0.25)
    return figure


def reward_against_kl(records: Sequence[Mapping[str, Any]]) -> "Figure | None":
    """One point per step, coloured by the step; None if no record has both."""
    from matplotlib.figure import Figure

    both = [r for r in records if r.get("kl") is not None and r.get("score") is not None]
    if not both:
        return None
    figure = Figure(figsize=(5.2, 3.6))
    figure.subplots_adjust(left=0.17, right=0.95, top=0.96, bottom=0.15)
    axes = figure.add_subplot(1, 1, 1)
    x, y = [r["kl"] for r in both], [r["score"] for r in both]
    axes.plot(x, y, color="#bbbbbb", linewidth=0.8, zorder=1)
    points = axes.scatter(x, y, c=[r["step"] for r in both], cmap="viridis", s=18, zorder=2)
    figure.colorbar(points, ax=axes, label="step").ax.locator_params("y", integer=True)
    axes.set_xlabel("KL, nats an answer")
    axes.set_ylabel("reward")
    axes.grid(alpha=0.25)
    return figure


def smooth(values: Sequence[float], memory: float = 0.9) -> list[float]:
    """Local linear regression on both sides of each point, weighted by memory^distance (Fan & Gijbels 1996).

    Unlike a running mean, it does not lag behind a trend, even at the ends.
    """
    import numpy as np

    y = np.asarray(values, dtype=np.float64)
    if len(y) < 3:
        return y.tolist()
    reach = min(len(y) - 1, int(np.ceil(np.log(1e-4) / np.log(memory))))
    distance = np.arange(-reach, reach + 1)
    kernel = memory ** np.abs(distance)

    def sums(weights: "np.ndarray", of: "np.ndarray") -> "np.ndarray":
        return np.convolve(of, weights[::-1], mode="full")[reach : reach + len(of)]

    ones = np.ones_like(y)
    weight, first, second = (sums(kernel * distance**power, ones) for power in (0, 1, 2))
    level, slope = sums(kernel, y), sums(kernel * distance, y)
    return ((second * level - first * slope) / (weight * second - first**2)).tolist()


def _names(records: Sequence[Mapping[str, Any]]) -> list[str]:
    names = [name for name in dict.fromkeys(name for record in records for name in record) if name not in _NOT_CURVES]
    if f"{LOGGED}answers" not in names:
        return names
    shown = [name for name in names if name not in ("loss", *_FIRST) and not name.startswith(LOGGED)]
    return [*(name for name in _FIRST if name in names), *shown]
