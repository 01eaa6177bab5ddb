"""Pictures of a run's lines of metrics.jsonl, for reports of runs and of pipelines.

figure = draw_curves(records)
figure = reward_against_kl(records)          # None where the records have no KL
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mmalign.train.counts import LOGGED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FRONTIER = "Reward against KL from where it began"
_NOT_CURVES = ("step", "peak_memory_mb")
_FIRST = ("score", "kl", "entropy", "length")  # of an online objective: what one looks at
_EXACT = ("learning_rate", "scale", "beta")  # no noise to average away


def draw_curves(records: Sequence[Mapping[str, Any]]) -> "Figure":
    """One small panel a metric: the raw values, thin, and their running mean.

    Where answers are sampled the loss is left out, a direction to go and no figure, and counts, which are shares, too.
    """
    from matplotlib.figure import Figure

    names = _names(records)
    columns = min(3, max(1, len(names)))
    lines = max(1, -(-len(names) // columns))
    figure = Figure(figsize=(4.0 * columns, 2.5 * lines))
    # Fixed margins: a layout engine draws everything several times over.
    figure.subplots_adjust(left=0.06, right=0.985, top=1 - 0.14 / lines, bottom=0.16 / lines, wspace=0.22, hspace=0.42)
    for place, name in enumerate(names):
        axes = figure.add_subplot(lines, columns, place + 1)
        steps = [record["step"] for record in records if name in record and record[name] is not None]
        values = [record[name] for record in records if name in record and record[name] is not None]
        noisy = name not in _EXACT
        axes.plot(steps, values, color="#4477aa", linewidth=0.8 if noisy else 1.6, alpha=0.4 if noisy else 1.0)
        if noisy:
            axes.plot(steps, running_mean(values), color="#4477aa", linewidth=1.6)
        axes.set_title(name.replace("_", " "), fontsize=9)
        axes.tick_params(labelsize=7)
        axes.ticklabel_format(useOffset=False)
        axes.locator_params(nbins=5)
        axes.locator_params("x", integer=True)  # there is no half step
        axes.grid(alpha=0.25)
    return figure


def reward_against_kl(records: Sequence[Mapping[str, Any]]) -> "Figure | None":
    """A point a step, coloured by it; None where the records have not both."""
    from matplotlib.figure import Figure

    both = [r for r in records if r.get("kl") is not None and r.get("score") is not None]
    if not both:
        return None
    figure = Figure(figsize=(5.2, 3.6))
    figure.subplots_adjust(left=0.13, right=0.97, top=0.97, bottom=0.14)
    axes = figure.add_subplot(1, 1, 1)
    x, y = [r["kl"] for r in both], [r["score"] for r in both]
    axes.plot(x, y, color="#bbbbbb", linewidth=0.8, zorder=1)
    points = axes.scatter(x, y, c=[r["step"] for r in both], cmap="viridis", s=18, zorder=2)
    figure.colorbar(points, ax=axes, label="step").ax.locator_params("y", integer=True)
    axes.set_xlabel("KL, nats an answer")
    axes.set_ylabel("reward")
    axes.grid(alpha=0.25)
    return figure


def running_mean(values: Sequence[float], memory: float = 0.9) -> list[float]:
    """Exponential mean, corrected for its start."""
    means, total, weight = [], 0.0, 0.0
    for value in values:
        total, weight = memory * total + value, memory * weight + 1
        means.append(total / weight)
    return means


def _names(records: Sequence[Mapping[str, Any]]) -> list[str]:
    found = [name for name in dict.fromkeys(name for record in records for name in record) if name not in _NOT_CURVES]
    if f"{LOGGED}answers" not in found:
        return found
    shown = [name for name in found if name not in ("loss", *_FIRST) and not name.startswith(LOGGED)]
    return [*(name for name in _FIRST if name in found), *shown]
