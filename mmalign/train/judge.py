"""Compare held-out metrics before and after training: which are better, which worse, which too uncertain to tell.

    rows = judge(before, after, parts_before, parts_after, directions)
    for line in advice(rows, main, plan, best_step, dealt=True): say(line)

The 95% interval of the difference, after minus before, is

- "paired" if the same examples were measured both times in the same parts (`Estimates`): the jackknife over parts
  (Tukey 1958; Efron & Tibshirani 1993, ch. 11) with Student's t, which cancels out examples hard for both models;
- else "intervals", from both metrics' own intervals (`x_low`, `x_high`) as if they were independent (Zou & Donner
  2008): too wide if the same examples were measured.

A metric with neither, or whose better direction is unknown, is not judged.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from mmalign.evaluate.intervals import is_bound

FEW_HELDOUT = 20  # examples: with fewer, an interval says little
FEWEST_PARTS, MOST_PARTS = 5, 32
Direction = Literal["low", "high"]
Verdict = Literal["better", "worse", "no clear difference", "too few", ""]
MARKS = {"better": "✓ better", "worse": "✗ worse", "no clear difference": "no clear difference", "": ""}
_Sums = Mapping[str, tuple[float, float]]  # name -> (sum, count)


class Judged(NamedTuple):
    """One metric. low, high: ends of the interval of its difference, or None; by: "paired", "intervals" or "";
    examples: number measured, 0 if unknown."""

    name: str
    before: float | None
    after: float | None
    verdict: Verdict = ""
    low: float | None = None
    high: float | None = None
    by: str = ""
    examples: int = 0

    @property
    def told(self) -> str:
        """The verdict with its mark, in words."""
        if self.verdict == "too few":
            return f"only {self.examples:,} held-out examples"
        return MARKS[self.verdict]


class Estimates:
    """Leave-one-part-out sums and counts of one measurement.

    estimates.add({"accuracy": (6, 8)})             # a part's sums and counts, by name
    estimates.without()                             # [{"accuracy": (sum, count) of all other parts}, ...]
    """

    def __init__(self) -> None:
        self._parts: list[dict[str, tuple[float, float]]] = []

    def add(self, part: _Sums) -> None:
        self._parts.append(dict(part))

    def without(self) -> list[dict[str, tuple[float, float]]]:
        """Sums and counts of all parts but one, an entry per part; more than MOST_PARTS are joined with neighbours."""
        size = -(-len(self._parts) // MOST_PARTS) or 1
        joined = [_add(self._parts[start : start + size]) for start in range(0, len(self._parts), size)]
        whole = _add(joined)
        return [_subtract(whole, part) for part in joined]


def _subtract(whole: _Sums, part: _Sums) -> dict[str, tuple[float, float]]:
    nothing = (0.0, 0.0)
    return {
        name: (total - part.get(name, nothing)[0], count - part.get(name, nothing)[1])
        for name, (total, count) in whole.items()
    }


def _add(parts: Sequence[_Sums]) -> dict[str, tuple[float, float]]:
    totals: dict[str, tuple[float, float]] = {}
    for part in parts:
        for name, (total, count) in part.items():
            so_far = totals.get(name, (0.0, 0.0))
            totals[name] = (so_far[0] + total, so_far[1] + count)
    return totals


def judge(
    before: Mapping[str, float],
    after: Mapping[str, float],
    parts_before: Mapping[str, Sequence[float]],
    parts_after: Mapping[str, Sequence[float]],
    directions: Mapping[str, Direction],
) -> list[Judged]:
    """Judge all metrics, in order, but the ends of intervals. parts_*: name -> leave-one-part-out values."""
    names = {**before, **after}
    rows = []
    for name in (name for name in names if not is_bound(name, names)):
        row = Judged(name, before.get(name), after.get(name), examples=_examples(name, after))
        if name in directions and row.before is not None and row.after is not None:
            row = _judged(row, _interval(name, before, after, parts_before, parts_after), directions[name])
        rows.append(row)
    return rows


def _judged(row: Judged, interval: tuple[float, float, str] | None, better: Direction) -> Judged:
    if interval is None:
        few = 0 < row.examples < FEW_HELDOUT
        return row._replace(verdict="too few") if few else row
    low, high, by = interval
    row = row._replace(low=low, high=high, by=by)
    if 0 < row.examples < FEW_HELDOUT:
        return row._replace(verdict="too few")
    if low <= 0 <= high:
        return row._replace(verdict="no clear difference")
    return row._replace(verdict="better" if (low > 0) == (better == "high") else "worse")


def _interval(
    name: str,
    before: Mapping[str, float],
    after: Mapping[str, float],
    parts_before: Mapping[str, Sequence[float]],
    parts_after: Mapping[str, Sequence[float]],
) -> tuple[float, float, str] | None:
    difference = after[name] - before[name]
    if not math.isfinite(difference):
        return None
    old, new = parts_before.get(name, ()), parts_after.get(name, ())
    if len(old) == len(new) >= FEWEST_PARTS:
        half = jackknife([n - o for o, n in zip(old, new, strict=True)])
        return difference - half, difference + half, "paired"
    ends = [values.get(f"{name}_{end}") for values in (before, after) for end in ("low", "high")]
    if any(end is None for end in ends):
        return None
    low_before, high_before, low_after, high_after = (end for end in ends if end is not None)
    down = math.hypot(after[name] - low_after, high_before - before[name])
    up = math.hypot(high_after - after[name], before[name] - low_before)
    return difference - down, difference + up, "intervals"


def jackknife(estimates: Sequence[float]) -> float:
    """Half the width of the 95% interval of an estimate, from its leave-one-part-out values."""
    number = len(estimates)
    mean = sum(estimates) / number
    variance = (number - 1) / number * sum((value - mean) ** 2 for value in estimates)
    return student(number - 1) * math.sqrt(variance)


def student(freedom: int) -> float:
    """The 97.5% point of Student's t (Abramowitz & Stegun 26.7.5); within 0.01 from 4 degrees of freedom on."""
    z, v = 1.959964, freedom
    terms = (
        z,
        (z**3 + z) / (4 * v),
        (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2),
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3),
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * v**4),
    )
    return sum(terms)


def _examples(name: str, values: Mapping[str, float]) -> int:
    group = name.partition("/")[0]
    # Prefer answers: a few prompts with many answers each may be enough, and the jackknife accounts for prompts.
    names = (f"{group}/{unit}" for unit in ("answers", "examples"))
    return int(next((values[name] for name in names if name in values), 0))


def advice(rows: Sequence[Judged], main: str, plan: Any, best_step: int | None, *, dealt: bool) -> list[str]:
    """What to try next, judged by `main`, the metric that picks the best checkpoint. best_step: where it was best.
    dealt: `dataset.holdout` split the held-out examples off the training data."""
    row = next((row for row in rows if row.name == main), None)
    train = plan.train
    if row is None or not row.verdict:
        return []
    options = plan.configs["dataset"].model_dump()
    more = []
    if row.verdict in ("too few", "no clear difference") and dealt and "holdout" in options:
        share = min(0.5, max(0.1, 2 * float(options["holdout"])))
        if share > options["holdout"]:
            more = [f"more held-out data, for a clear verdict: --set dataset.holdout={share:g}"]
    elif row.verdict == "too few":
        more = ["more held-out data, for a clear verdict: a data set with a larger validation split"]
    slower = f"a smaller learning rate: --set train.learning_rate={train.learning_rate / 3:.2g}"
    if row.verdict == "worse":
        steps = best_step or max(1, train.steps // 2)
        return [f"fewer passes over the data: {_length(train, min(steps, max(1, train.steps - 1)))}", slower]
    if row.verdict == "no clear difference":
        return [*more, f"more training: {_length(train, 2 * train.steps)}"]
    return more


def _length(train: Any, steps: int) -> str:
    """The option for this many steps, in the unit that the user chose."""
    if train.epochs:
        return f"--set train.epochs={train.epochs * steps / train.steps:.2g}"
    return f"--set train.steps={steps}"
