"""What `mmalign zero-shot` prints and writes: lines for people, `--out results.{jsonl,csv,parquet}`, the HTML report.

JSON lines hold {"image", "predictions": [{"label", "object", "score", "cosine"}, ...]}, best first, or {"image",
"error"}. Where the best label is not good enough, the one prediction is "none of these", without object, score and
cosine, and "rejected" holds the best label with the reason.
CSV and parquet have a row a prediction: image, rank (from 1), label, object, score, cosine, truth, error, note; what is
absent is empty. The note of "none of these" says what was best.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmalign.cli.app import emit
from mmalign.files import write_atomically
from mmalign.printable import json_text, printable
from mmalign_zero_shot.inputs import Inputs, plain
from mmalign_zero_shot.labels import Label

if TYPE_CHECKING:
    from mmalign_zero_shot.accuracy import Accuracy, Mistake
    from mmalign_zero_shot.classifier import Row
    from mmalign_zero_shot.separation import Separation

MAX_CARDS = 200
_MAX_NAME = 48
_WORST_CLASSES = 10
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


# For people -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Facts:
    """What a report says about how its numbers came about."""

    backbone: str
    described: Mapping[str, Any]
    device: str
    template_set: str
    templates: Sequence[str]
    min_cosine: float | None


@dataclass(frozen=True)
class Measured:
    """What --eval found. min_cosine: the threshold of "none of these" that is in force without --eval, or None."""

    accuracy: "Accuracy"
    separation: "Separation"
    min_cosine: float | None

    def add(self, image: str, truth: int, row: "Row") -> None:
        self.accuracy.add(image, truth, row.scores)
        self.separation.add(row.cosines, truth)

    def summary(self) -> dict[str, Any]:
        """The shares of `Accuracy`, and under "none_of_these" how well the cosine separates."""
        separates: dict[str, Any] = self.separation.summary()
        if separates and self.min_cosine is not None:
            kept, wrongly_named = self.separation.shares(self.min_cosine)
            in_force = {"min_cosine": self.min_cosine, "kept": kept, "wrongly_named": wrongly_named}
            separates["in_force"] = in_force
        return {**self.accuracy.summary(), **({"none_of_these": separates} if separates else {})}


def name_width(names: Sequence[str]) -> int:
    """The column width that fits most names."""
    return min(_MAX_NAME, max(map(len, names), default=0))


def print_results(results: Sequence[ImageResult], as_json: bool, width: int = 0) -> None:
    """One line an image on stdout."""
    for result in results:
        emit(result.as_json() if as_json else line(result, width))


def line(result: ImageResult, width: int = 0) -> str:
    """`cat.jpg  a photo of a cat  62.1%, cosine 0.42  (lynx 8.3%, 0.31; dog 1.0%, 0.08)`: the best label, then others.

    Or `cat.jpg  none of these  (best: lion, cosine 0.14, below 0.18)`.
    """
    name = printable(result.image).ljust(width)
    if result.error:
        return f"{name}  error: {printable(result.error)}"
    first, *others = result.predictions
    if result.rejected is not None:
        return f"{name}  {first.label}  ({result.rejected})"
    more = "; ".join(
        f"{text} {other.score:.1%}, {other.cosine:.2f}"
        for text, other in zip(short_names(result)[1:], others, strict=True)
    )
    truth = "" if result.truth is None else f"  [is {printable(result.truth)}]"
    shares = f"{first.score:.1%}, cosine {first.cosine:.2f}"
    return f"{name}  {first.label}  {shares}{f'  ({more})' if more else ''}{truth}"


def short_names(result: ImageResult) -> list[str]:
    """The best label in full, the others by their objects, unless two labels share an object."""
    objects = [prediction.object or prediction.label for prediction in result.predictions]
    labels = [prediction.label for prediction in result.predictions]
    return [*labels[:1], *(objects if len(set(objects)) == len(objects) else labels)[1:]]


def print_measured(measured: Measured, labels: Sequence[Label], as_json: bool) -> None:
    """The measured shares with their intervals, how well cosines separate, the weakest classes, the worst examples."""
    accuracy, summary = measured.accuracy, measured.summary()
    if as_json:
        click.echo(json_text({"evaluation": summary | {"by_class": by_class(accuracy, labels)}}))
        return
    emit("")
    for k in (1, 5):
        low, high = summary[f"top{k}_low"], summary[f"top{k}_high"]
        emit(f"top-{k}  {summary[f'top{k}']:.1%}  (95% interval {low:.1%} to {high:.1%})")
    emit(f"{summary['examples']} images, mean of the classes {summary['mean_class_top1']:.1%}")
    for name, value in _separation(summary):
        emit(f"{name}: {value}")
    rows = sorted(by_class(accuracy, labels).items(), key=lambda item: item[1]["top1"])
    weak = [(name, row) for name, row in rows if row["top1"] < 1][:_WORST_CLASSES]
    if weak:
        emit("\nweakest classes")
        for name, row in weak:
            emit(f"  {printable(name)}  {row['top1']:.1%} of {row['examples']}")
    if accuracy.worst:
        emit("\nworst examples")
        for mistake in accuracy.worst[:_WORST_CLASSES]:
            emit(f"  {_mistake(mistake, labels)}")


def _separation(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """In words: what the cosine says of pictures whose label is not among those given."""
    found = summary.get("none_of_these")
    if not found:
        return []

    def shares(entry: Mapping[str, float]) -> str:
        kept, wrongly = entry["kept"], entry["wrongly_named"]
        least = f"--min-cosine {entry['min_cosine']:.3f}"
        return f"{least} keeps {kept:.1%} of right answers, and names {wrongly:.1%} of images without their label"

    more = [("in force without --eval", shares(found["in_force"]))] if "in_force" in found else []
    return [("none of these", f"AUROC {found['auroc']:.3f}; best here: {shares(found)}"), *more]


def by_class(accuracy: "Accuracy", labels: Sequence[Label]) -> dict[str, dict[str, float]]:
    """Object -> its top-1 share and number of examples."""
    return {
        labels[label].object: {"top1": hits / count, "examples": count} for label, hits, count in accuracy.by_class()
    }


def write_confusion(accuracy: "Accuracy", labels: Sequence[Label], path: Path | None) -> Path:
    """Write the picture to `path`, or to the first free name of confusion.png, confusion-2.png, ..."""
    from mmalign.report import png_bytes
    from mmalign_zero_shot.confusion import confusion_figure

    target = path or Path("confusion.png")
    number = 1
    while path is None and target.exists():
        number += 1
        target = Path(f"confusion-{number}.png")
    data = png_bytes(confusion_figure(accuracy.confusion, [label.object for label in labels]))
    write_atomically(target, lambda temporary: temporary.write_bytes(data))
    return target


def write_html(
    path: Path,
    facts: Facts,
    inputs: Inputs,
    results: Sequence[ImageResult],
    labels: Sequence[Label],
    measured: Measured | None,
    warnings: Sequence[str],
) -> None:
    """The report: thumbnails and bars of the first MAX_CARDS images, every error, settings, accuracy if known."""
    from mmalign.report import write_report

    refs = dict(zip(inputs.names, inputs.refs, strict=True))
    answered = [result for result in results if not result.error]
    errors = [(printable(result.image), printable(result.error)) for result in results if result.error]
    settings = [
        ("backbone", facts.backbone),
        ("architecture", str(facts.described.get("architecture", "-"))),  # a plugin need not say it
        ("labels", len(labels)),
        ("could not be used", len(errors)),
        ("templates", facts.template_set),
        ("least cosine", "-" if facts.min_cosine is None else f"{facts.min_cosine:g}"),
        ("device", facts.device),
    ]
    context: dict[str, Any] = {
        "title": "Zero-shot classification",
        "subtitle": f"{len(answered)} images, {len(labels)} labels, {facts.backbone}",
        "settings": settings,
        "warnings": warnings,
        "errors": errors,
        "images": [_card(result, refs) for result in answered[:MAX_CARDS]],
        "num_left_out": max(0, len(answered) - MAX_CARDS),
        "labels": [label.text for label in labels],
        "templates": list(facts.templates),
    }
    write_report(
        path, Path(__file__).with_name("zero_shot.html"), context | _measured_context(measured, labels, results, refs)
    )


def _measured_context(
    measured: Measured | None, labels: Sequence[Label], results: Sequence[ImageResult], refs: Mapping[str, Any]
) -> dict[str, Any]:
    if measured is None:
        return {"accuracy": [], "figures": [], "worst": [], "tables": []}
    from mmalign.report import png_data_uri
    from mmalign_zero_shot.confusion import confusion_figure

    accuracy, summary, by_name = measured.accuracy, measured.summary(), {result.image: result for result in results}
    figure = confusion_figure(accuracy.confusion, [label.object for label in labels])
    rows = [(name, row["examples"], f"{row['top1']:.1%}") for name, row in by_class(accuracy, labels).items()]
    separation = _separation(summary)
    shares = [(f"top-{k}", summary[f"top{k}"], summary[f"top{k}_low"], summary[f"top{k}_high"]) for k in (1, 5)]
    return {
        "accuracy": shares,
        "figures": [("Confusion matrix", png_data_uri(figure))],
        "worst": [_card(by_name[mistake.image], refs) for mistake in accuracy.worst],
        "tables": [
            {"title": "Classes", "header": ["class", "images", "top-1"], "rows": rows},
            *({"title": "None of these", "header": ["", ""], "rows": rows} for rows in [separation] if rows),
        ],
    }


def _card(result: ImageResult, refs: Mapping[str, Any]) -> dict[str, Any]:
    from mmalign.data.images import open_image
    from mmalign.errors import BadSample
    from mmalign.report import thumbnail_data_uri

    try:
        uri = thumbnail_data_uri(open_image(refs[result.image]))
    except BadSample:
        uri = ""  # it could be read a moment ago; the answer stands
    right = result.truth is not None and plain(result.truth) == plain(result.predictions[0].object or "")
    return {
        "image": printable(result.image),
        "uri": uri,
        "predictions": [
            {"label": text, "score": prediction.score, "cosine": prediction.cosine}
            for text, prediction in zip(short_names(result), result.predictions, strict=True)
        ],
        "note": "" if result.rejected is None else str(result.rejected),
        "truth": result.truth,
        "right": right,
    }


def _mistake(mistake: "Mistake", labels: Sequence[Label]) -> str:
    truth, predicted = labels[mistake.truth].object, labels[mistake.predicted].object
    return f"{printable(mistake.image)}  {predicted} {mistake.score:.1%}, is {truth}"
