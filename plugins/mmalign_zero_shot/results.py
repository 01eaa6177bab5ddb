"""Answers as files and lines: `--out results.{jsonl,csv,parquet}` and `--json`.

    write_results(path, results)               # whole or not at all

JSON lines hold {"image", "predictions": [{"label", "object", "score", "cosine"}, ...]}, best first, or {"image",
"error"}. Where the best label is not good enough, the one prediction is "none of these", without object, score and
cosine, and "rejected" holds the best label with the reason.
CSV and parquet have a row a prediction: image, rank (from 1), label, object, score, cosine, truth, error, note; what is
absent is empty. The note of "none of these" says what was best.
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmalign.files import write_atomically
from mmalign.printable import json_text

NONE_OF_THESE = "none of these"
COLUMNS = ("image", "rank", "label", "object", "score", "cosine", "truth", "error", "note")


@dataclass(frozen=True)
class Prediction:
    """label: the text shown; object: what filled it; score: 0 to 1; cosine: of picture and text, -1 to 1.

    "none of these" has no object, score and cosine.
    """

    label: str
    object: str | None
    score: float | None
    cosine: float | None = None

    def as_dict(self) -> dict[str, str | float | None]:
        return {"label": self.label, "object": self.object, "score": self.score, "cosine": self.cosine}


@dataclass(frozen=True)
class Rejected:
    """The best label, which is not good enough. reason: "cosine 0.14, below 0.18"."""

    best: Prediction
    reason: str

    def as_dict(self) -> dict[str, str | float | None]:
        return {**self.best.as_dict(), "reason": self.reason}

    def __str__(self) -> str:
        return f"best: {self.best.object or self.best.label}, {self.reason}"


@dataclass(frozen=True)
class ImageResult:
    """What became of one image: `predictions`, best first, or `error`. truth: its class where that is known.

    rejected: what was best where the prediction is "none of these".
    """

    image: str
    predictions: Sequence[Prediction] = ()
    error: str = ""
    truth: str | None = None
    rejected: Rejected | None = None

    def as_dict(self) -> dict[str, object]:
        known = {} if self.truth is None else {"truth": self.truth}
        if self.error:
            return {"image": self.image, **known, "error": self.error}
        predictions = [prediction.as_dict() for prediction in self.predictions]
        rejected = {} if self.rejected is None else {"rejected": self.rejected.as_dict()}
        return {"image": self.image, **known, "predictions": predictions, **rejected}

    def as_json(self) -> str:
        """One line. What is no valid Unicode in a file name, and what a terminal would obey, is escaped."""
        return json_text(self.as_dict())

    def rows(self) -> Iterator[tuple[object, ...]]:
        if self.error:
            yield (self.image, None, None, None, None, None, self.truth, self.error, None)
        note = None if self.rejected is None else str(self.rejected)
        for rank, prediction in enumerate(self.predictions, start=1):
            yield (self.image, rank, *prediction.as_dict().values(), self.truth, None, note)


def write_results(path: Path, results: Sequence[ImageResult]) -> None:
    """Write the file of that suffix; an existing one is replaced whole. Raises MmalignError (full disk, rights)."""
    writers = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}
    write_atomically(path, lambda temporary: writers[path.suffix](temporary, results))


def _jsonl(path: Path, results: Sequence[ImageResult]) -> None:
    path.write_text("".join(result.as_json() + "\n" for result in results), encoding="utf-8")


def _csv(path: Path, results: Sequence[ImageResult]) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(row for result in results for row in result.rows())


def _parquet(path: Path, results: Sequence[ImageResult]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    text, number = pa.string(), pa.float32()
    types = (text, pa.int32(), text, text, number, number, text, text, text)
    schema = pa.schema(list(zip(COLUMNS, types, strict=True)))
    rows = [row for result in results for row in result.rows()]
    columns = [[_text(row[place]) for row in rows] for place in range(len(COLUMNS))]
    pq.write_table(pa.table([pa.array(c, t) for c, t in zip(columns, types, strict=True)], schema=schema), path)


def _text(value: object) -> object:
    """Parquet holds valid Unicode only: escape what is not."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
