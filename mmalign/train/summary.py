"""The summary of a run as text: for the terminal and for pages.

    what_was_read(summary)                                  # "96 prompts with 384 answers"
    table = [metric_header(), *metric_rows(summary["judged"])]

A summary is what `finish` writes to run.json.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmalign.contract.feed import LOGGED
from mmalign.train.judge import Judged

_NOT_USED = ("heldout/left_out", "heldout/unreadable")


def what_was_read(summary: Mapping[str, Any]) -> str:
    """ "32 examples", or "96 prompts with 384 answers"."""
    counts, number = summary["counts"], f"{summary['examples']:,}"
    return f"{number} prompts with {counts['answers']:,} answers" if "answers" in counts else f"{number} examples"


def metric_header(uninterpolated: Mapping[str, float] | None = None) -> list[str]:
    return ["held-out", "before", *(["trained"] if uninterpolated else []), "after", "95% of the change", "verdict"]


def metric_rows(
    rows: Sequence[Mapping[str, Any]], uninterpolated: Mapping[str, float] | None = None
) -> list[tuple[str, ...]]:
    """(name, before, [trained,] after, interval of the change, verdict) as text. rows: of `judge`, as JSON.

    Counts of unused examples are left out if they are 0.
    """

    def cells(row: Judged) -> tuple[str, ...]:
        trained = [_number(uninterpolated.get(row.name))] if uninterpolated else []
        interval = "" if row.low is None or row.high is None else f"{row.low:+.3g} to {row.high:+.3g}"
        return (row.name, _number(row.before), *trained, _number(row.after), interval, row.told)

    judged = [Judged(**row) for row in rows]
    return [cells(row) for row in judged if row.name not in _NOT_USED or row.before or row.after]


def verdict_note(rows: Sequence[Mapping[str, Any]]) -> str:
    """How the intervals were computed, in a sentence; empty if there are none."""
    ways = {row["by"] for row in rows} - {""}
    texts = {
        "paired": "on the same examples both times (jackknife over parts of the held-out data)",
        "intervals": "from the two metrics' own intervals",
    }
    note = [f"95% interval of the change: {'; or '.join(texts[way] for way in sorted(ways))}."] if ways else []
    few = any(row["verdict"] == "too few" for row in rows)
    return " ".join([*note, *(["There are too few held-out examples to tell better from worse."] if few else [])])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def total_counts(records: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Counts of all steps, from the lines of metrics.jsonl: so a resumed run counts no step twice."""
    totals: Counter[str] = Counter()
    for record in records:
        totals.update({name.removeprefix(LOGGED): n for name, n in record.items() if name.startswith(LOGGED)})
    return dict(totals)
