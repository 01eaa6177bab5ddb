"""The confusion matrix as a picture that stays readable with a thousand classes.

figure = confusion_figure(accuracy.confusion, names)       # a matplotlib Figure; report.png_data_uri(figure)
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_SHOWN = 40


def choose(confusion: Tensor, limit: int = MAX_SHOWN) -> list[int]:
    """The labels to show, in order: those with examples or predictions; past `limit`, those with the most mistakes."""
    examples, predicted = confusion.sum(1), confusion.sum(0)
    used = [label for label in range(len(confusion)) if examples[label] or predicted[label]]
    if len(used) <= limit:
        return used
    mistakes = examples + predicted - 2 * confusion.diagonal()
    return sorted(sorted(used, key=lambda label: (-int(mistakes[label]), label))[:limit])


def confusion_figure(confusion: Tensor, names: Sequence[str]) -> "Figure":
    """confusion: [C, C] counts, truth x predicted. Rows are shares of a class's examples; a capped matrix says so."""
    from matplotlib.figure import Figure  # without pyplot: no global state, no display

    shown = choose(confusion)
    num_used = int(((confusion.sum(1) + confusion.sum(0)) > 0).sum())
    shares = confusion[shown].double() / confusion[shown].sum(1, keepdim=True).clamp(min=1)
    picked = shares[:, shown].numpy()
    side = max(4.0, 0.26 * len(shown) + 2.2)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(picked, cmap="Blues", vmin=0, vmax=1)
    labels = [_short(names[label]) for label in shown]
    axes.set_xticks(range(len(shown)), labels, rotation=90, fontsize=8)
    axes.set_yticks(range(len(shown)), labels, fontsize=8)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true class")
    if len(shown) < num_used:
        axes.set_title(f"the {len(shown)} most confused of {num_used} classes", fontsize=10)
    if len(shown) <= MAX_SHOWN // 2:
        for row, label in enumerate(shown):
            for column, other in enumerate(shown):
                if count := int(confusion[label, other]):
                    colour = "white" if picked[row, column] > 0.5 else "black"
                    axes.text(column, row, str(count), ha="center", va="center", fontsize=7, color=colour)
    figure.colorbar(image, ax=axes, shrink=0.6, label="share of the true class")
    return figure


def _short(name: str) -> str:
    return name if len(name) <= 24 else f"{name[:22]}…"
