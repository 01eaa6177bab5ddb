"""What `mmalign evaluate` prints and writes: a table, one JSON document, an HTML report.

A metric `x` that comes with `x_low` and `x_high` is shown with that 95% interval.
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmalign.cli.app import emit, emit_json
from mmalign.cli.table import table
from mmalign.contract.specs import EvaluationSpec
from mmalign.evaluate.intervals import is_bound
from mmalign.files import write_text
from mmalign.printable import json_text

if TYPE_CHECKING:
    from mmalign.evaluate.parts import Part

HEADER = ("evaluation", "metric", "value", "95% interval")

# Counts of what was not measured as it stands, in words for a warning.
LOSSES = {
    "unreadable": "examples could not be read and are left out",
    "left_out": "examples could not be used and are left out",
    "truncated": "examples are longer than the context and were cut",
    "fewer_shots": "questions have fewer shots than asked for, so as to fit the context",
}


@dataclass(frozen=True)
class Result:
    """What one evaluation found. options: as set by the user."""

    name: str
    spec: EvaluationSpec
    part: "Part"
    options: Mapping[str, Any]
    metrics: Mapping[str, float]

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """(metric, value, 95% interval or "")."""
        for name, value in self.metrics.items():
            if is_bound(name, self.metrics):
                continue
            low, high = (self.metrics.get(f"{name}_{end}") for end in ("low", "high"))
            yield name, number(value), "" if low is None or high is None else f"{low:.4f} to {high:.4f}"

    def as_dict(self) -> dict[str, Any]:
        return {
            "evaluation": self.name,
            "dataset": self.part.entry.spec.name,
            "kind": self.part.kind,
            "split": self.part.split,
            "data": dict(self.part.dataset.report()),
            "options": dict(self.options),
            "primary": self.spec.primary,
            "higher_is_better": self.spec.higher_is_better,
            "metrics": dict(self.metrics),
        }


@dataclass(frozen=True)
class Report:
    """One call. facts: the backbone's own description; left_out: evaluation -> why."""

    backbone: str
    family: str
    device: str
    facts: Mapping[str, Any]
    results: Sequence[Result]
    left_out: Mapping[str, str]


def number(value: float) -> str:
    """Counts in full, the rest to four digits."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}" if abs(value) < 1 else f"{value:,.4g}"


def print_report(report: Report, as_json: bool) -> None:
    if as_json:
        emit_json(_document(report))
        return
    emit(table(HEADER, _rows(report)))


def write_out(path: Path, report: Report) -> None:
    """The document of --json as .json, or the table as .csv; raises MmalignError where it cannot be written."""
    if path.suffix == ".json":
        write_text(path, json_text({"schema": 1, **_document(report)}, indent=2) + "\n")
        return
    lines = io.StringIO()
    csv.writer(lines, lineterminator="\n").writerows([HEADER, *_rows(report)])
    write_text(path, lines.getvalue())


def _document(report: Report) -> dict[str, Any]:
    facts = {"backbone": report.backbone, "family": report.family, "device": report.device}
    results = [result.as_dict() for result in report.results]
    return {**facts, "results": results, "left_out": dict(report.left_out)}


def _rows(report: Report) -> list[list[str]]:
    return [[result.name, *row] for result in report.results for row in result.rows()]


def write_html(path: Path, report: Report) -> None:
    """Raises MmalignError where the file cannot be written."""
    from mmalign.report import write_report

    context = {
        "title": "Evaluation",
        "subtitle": f"{report.backbone} ({report.family}) on {report.device}",
        "primary": [(f"{r.name}: {r.spec.primary}", number(r.metrics[r.spec.primary])) for r in report.results],
        "settings": [(name, str(value)) for name, value in report.facts.items()],
        "header": HEADER[1:],
        "results": [
            {
                "title": result.name,
                "note": f"{result.spec.summary}. Measured on {len(result.part.dataset):,} {result.part.kind} examples "
                f"of {result.part.dataset.report()['source']}, {result.part.split}.",
                "options": [f"{key}={value}" for key, value in result.options.items()],
                "rows": list(result.rows()),
            }
            for result in report.results
        ],
        "left_out": list(report.left_out.items()),
    }
    write_report(path, Path(__file__).with_name("evaluate.html"), context)
