"""Columns of a table other than the prompt, in the form that rewards get: with their own names and values.

columns = Columns(named="")             # of one data set
text = columns.add(row)                 # JSON of one row's, for each row
columns.of(json.loads(text))            # {"answer": 5, "level": None, ...}, the same names for every row
columns.solution(values)                # "5": the right answer
"""

import datetime
import decimal
import json
from collections.abc import Mapping
from typing import Any

# Columns that hold the right answer, in order of preference: final answers before worked ones, because sets of
# competition mathematics have both ("answer": "42" beside "solution": "We see that ...").
SOLUTIONS = ("final_answer", "answer", "ground_truth", "solution")


class Columns:
    """Names are those of all rows: a column that a row of JSON lines lacks has the value None there.

    named: the column with the right answer, where the user named it.
    """

    def __init__(self, named: str = "") -> None:
        self._names: dict[str, bool] = {}  # whether any row has a value
        self._named = named
        self._unfit: set[str] = set()

    def add(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The row's columns as JSON values; columns that hold bytes are left out, and named in `notes`."""
        kept = {}
        for name, value in row.items():
            try:
                kept[name] = value if _is_plain(value) else json.loads(json.dumps(value, default=_as_json))
            except TypeError:
                self._unfit.add(name)
                continue
            self._names[name] = self._names.get(name, False) or value is not None
        return kept

    @property
    def solution_column(self) -> str:
        """The column with the right answer, or "" where there is none."""
        if self._named:
            return self._named
        return next((name for name in SOLUTIONS if self._names.get(name)), "")

    def of(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The row's values under all names."""
        return dict.fromkeys(self._names) | dict(row)

    def solution(self, row: Mapping[str, Any]) -> str:
        """The right answer as text: lists as JSON, 2.0 as "2" (a table with a gap turns whole numbers into floats), ""
        where the row has none."""
        value = row.get(self.solution_column)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if value is None or isinstance(value, str):
            return value or ""
        return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else str(value)

    def notes(self) -> list[str]:
        """Sentences for the log."""
        notes, chosen = [], self.solution_column
        others = [name for name in SOLUTIONS if self._names.get(name) and name != chosen]
        if chosen:
            more = ""
            if others and not self._named:
                more = f' ({", ".join(others)} is there, too; --set \'dataset.columns={{"solution": "{others[0]}"}}\')'
            notes.append(f"right answers are in the column {chosen}{more}")
        if self._unfit:
            notes.append(f"rewards do not get columns of bytes: {', '.join(sorted(self._unfit))}")
        return notes


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


def _as_json(value: Any) -> Any:
    """A value of parquet that JSON lacks, converted; raises TypeError for bytes."""
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, decimal.Decimal):
        return float(value)
    raise TypeError(type(value).__name__)
