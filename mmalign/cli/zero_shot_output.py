"""What `mmalign zero-shot` prints and writes: lines for people, JSON lines, the confusion matrix, the HTML report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmalign.evaluate.inputs import Inputs, plain
from mmalign.evaluate.labels import Label
from mmalign.evaluate.results import ImageResult
from mmalign.files import write_atomically
from mmalign.printable import json_text, printable

if TYPE_CHECKING:
    from mmalign.evaluate.accuracy import Accuracy, Mistake

MAX_CARDS = 200
_MAX_NAME = 48
_WORST_CLASSES = 10


@dataclass(frozen=True)
class Facts:
    """What a report says about how its numbers came about."""

    backbone: str
    described: Mapping[str, Any]
    device: str
    template_set: str
    templates: Sequence[str]


def name_width(names: Sequence[str]) -> int:
    """The column width that fits most names."""
    return min(_MAX_NAME, max(map(len, names), default=0))


def print_results(results: Sequence[ImageResult], as_json: bool, width: int = 0) -> None:
    """One line an image on stdout."""
    for result in results:
        click.echo(result.as_json() if as_json else line(result, width))


def line(result: ImageResult, width: int = 0) -> str:
    """`cat.jpg  a photo of a cat  62.1%  (lynx 8.3%, dog 1.0%)`: the best label, then the others by their objects."""
    name = printable(result.image).ljust(width)
    if result.error:
        return f"{name}  error: {printable(result.error)}"
    first, *others = result.predictions
    if first.score is None:
        return f"{name}  {first.label}"
    more = ", ".join(f"{text} {other.score:.1%}" for text, other in zip(short_names(result)[1:], others, strict=True))
    truth = "" if result.truth is None else f"  [is {printable(result.truth)}]"
    return f"{name}  {first.label}  {first.score:.1%}{f'  ({more})' if more else ''}{truth}"


def short_names(result: ImageResult) -> list[str]:
    """The best label in full, the others by their objects, unless two labels share an object."""
    objects = [prediction.object or prediction.label for prediction in result.predictions]
    labels = [prediction.label for prediction in result.predictions]
    return [*labels[:1], *(objects if len(set(objects)) == len(objects) else labels)[1:]]


def print_accuracy(accuracy: "Accuracy", labels: Sequence[Label], as_json: bool) -> None:
    """The measured shares with their intervals, the weakest classes and the worst examples."""
    summary = accuracy.summary()
    if as_json:
        click.echo(json_text({"evaluation": summary | {"by_class": by_class(accuracy, labels)}}))
        return
    click.echo("")
    for k in (1, 5):
        low, high = summary[f"top{k}_low"], summary[f"top{k}_high"]
        click.echo(f"top-{k}  {summary[f'top{k}']:.1%}  (95% interval {low:.1%} to {high:.1%})")
    click.echo(f"{summary['examples']} images, mean of the classes {summary['mean_class_top1']:.1%}")
    rows = sorted(by_class(accuracy, labels).items(), key=lambda item: item[1]["top1"])
    weak = [(name, row) for name, row in rows if row["top1"] < 1][:_WORST_CLASSES]
    if weak:
        click.echo("\nweakest classes")
        for name, row in weak:
            click.echo(f"  {printable(name)}  {row['top1']:.1%} of {row['examples']}")
    if accuracy.worst:
        click.echo("\nworst examples")
        for mistake in accuracy.worst[:_WORST_CLASSES]:
            click.echo(f"  {_mistake(mistake, labels)}")


def by_class(accuracy: "Accuracy", labels: Sequence[Label]) -> dict[str, dict[str, float]]:
    """Object -> its top-1 share and number of examples."""
    return {
        labels[label].object: {"top1": hits / count, "examples": count} for label, hits, count in accuracy.by_class()
    }


def write_confusion(accuracy: "Accuracy", labels: Sequence[Label], path: Path | None) -> Path:
    """Write the picture to `path`, or to the first free name of confusion.png, confusion-2.png, ..."""
    from mmalign.evaluate.confusion import confusion_figure
    from mmalign.report import png_bytes

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
    accuracy: "Accuracy | None",
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
    write_report(path, "zero_shot.html", context | _accuracy_context(accuracy, labels, results, refs))


def _accuracy_context(
    accuracy: "Accuracy | None", labels: Sequence[Label], results: Sequence[ImageResult], refs: Mapping[str, Any]
) -> dict[str, Any]:
    if accuracy is None:
        return {"accuracy": [], "figures": [], "worst": [], "tables": []}
    from mmalign.evaluate.confusion import confusion_figure
    from mmalign.report import png_data_uri

    summary, by_name = accuracy.summary(), {result.image: result for result in results}
    figure = confusion_figure(accuracy.confusion, [label.object for label in labels])
    rows = [(name, row["examples"], f"{row['top1']:.1%}") for name, row in by_class(accuracy, labels).items()]
    shares = [(f"top-{k}", summary[f"top{k}"], summary[f"top{k}_low"], summary[f"top{k}_high"]) for k in (1, 5)]
    return {
        "accuracy": shares,
        "figures": [("Confusion matrix", png_data_uri(figure))],
        "worst": [_card(by_name[mistake.image], refs) for mistake in accuracy.worst],
        "tables": [{"title": "Classes", "header": ["class", "images", "top-1"], "rows": rows}],
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
            {"label": text, "score": prediction.score}
            for text, prediction in zip(short_names(result), result.predictions, strict=True)
        ],
        "truth": result.truth,
        "right": right,
    }


def _mistake(mistake: "Mistake", labels: Sequence[Label]) -> str:
    truth, predicted = labels[mistake.truth].object, labels[mistake.predicted].object
    return f"{printable(mistake.image)}  {predicted} {mistake.score:.1%}, is {truth}"
