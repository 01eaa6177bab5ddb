"""The table of an online objective's steps: a row per step, with as many columns as fit the terminal.

    table = StepTable(60, watched=("score", "kl"), say=print)
    table.row(1, {"score": 0.2, "kl": 0.01, "entropy": 4.1}, {"rollout": 0.8, "learning": 0.2}, 12.5, "12 min")

It leaves out the least important columns that do not fit, and says how many are only in metrics.jsonl.
"""

from collections.abc import Mapping, Sequence

from mmalign.display import Say

HEADER_EVERY = 20  # rows
_NARROWEST = 8  # columns of a cell: "-2.8e-05" and "-0.00028" fit
_GAP = 2


class StepTable:
    """watched: metrics in the order of their importance; others follow in their own order, then shares of time."""

    def __init__(self, steps: int, watched: Sequence[str], say: Say) -> None:
        self._total, self._watched, self._say = f"step/{steps}", watched, say
        self._rows = self._left_out = 0
        self._header: tuple[str, ...] = ()

    def row(
        self,
        step: int,
        metrics: Mapping[str, float],
        shares: Mapping[str, float],
        seconds: float,
        left: str,
        width: int = 0,
    ) -> None:
        """Print a row, after the header every HEADER_EVERY rows or if columns change. width: of the terminal; 0: no
        limit."""
        cells = {name: _number(value) for name, value in metrics.items()}
        cells |= {name: f"{value:.0%}" for name, value in shares.items()}
        cells |= {"s": f"{seconds:.1f}", "left": left}
        first = [name for name in self._watched if name in cells]
        importance = [*first, "left", "s", *(n for n in (*metrics, *shares) if n not in first)]
        kept = self._fitting(importance, width) if width else set(cells)
        names = [name for name in cells if name in kept]
        if self._rows % HEADER_EVERY == 0 or tuple(names) != self._header:
            self._rows, self._header = 0, tuple(names)
            self._line(self._total, {name: _title(name) for name in names})
            if len(cells) - len(names) != self._left_out:
                self._left_out = len(cells) - len(names)
                self._say(f"({self._left_out} more columns: see metrics.jsonl, or use a wider terminal)")
        self._line(str(step), {name: cells[name] for name in names})
        self._rows += 1

    def _fitting(self, names: Sequence[str], width: int) -> set[str]:
        """Names whose columns fit, the most important first."""
        room, kept = width - len(self._total), set()
        for name in names:
            if _width(name) + _GAP <= room:
                room -= _width(name) + _GAP
                kept.add(name)
        return kept

    def _line(self, first: str, cells: Mapping[str, str]) -> None:
        columns = (f"{text:>{_width(name)}}" for name, text in cells.items())
        self._say((" " * _GAP).join([f"{first:>{len(self._total)}}", *columns]))


def _number(value: float) -> str:
    """Three digits, or two if three do not fit: 0.203, -0.00028, -2.8e-05."""
    text = f"{value:.3g}"
    return text if len(text) <= _NARROWEST else f"{value:.1e}" if abs(value) < 1e-4 else f"{value:.2g}"


def _title(name: str) -> str:
    return name.replace("_", " ")


def _width(name: str) -> int:
    return max(_NARROWEST, len(name))
