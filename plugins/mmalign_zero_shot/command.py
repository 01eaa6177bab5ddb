"""`mmalign zero-shot`: names what is in pictures, from labels that the user writes.

JSON lines: {"image", "predictions": [{"label", "object", "score", "cosine"}]} or {"image", "error"}. "rejected" is the
best label where the answer is "none of these". With --eval there is also "truth", and {"evaluation"} at the end.
"""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmalign.cli.app import App, backbone_settings, pass_app, quiet_option
from mmalign.errors import EXIT_DATA, EXIT_OK, UsageError
from mmalign.files import check_out
from mmalign_zero_shot import output
from mmalign_zero_shot.inputs import SAMPLES, Inputs, from_arguments, from_dataset, match_classes
from mmalign_zero_shot.labels import (
    DEFAULT_PATTERN,
    Label,
    build_labels,
    placeholder,
    read_labels,
    read_names,
    read_templates,
)
from mmalign_zero_shot.output import ImageResult, write_results

if TYPE_CHECKING:
    from mmalign.contract.backbone import DualEncoder
    from mmalign.contract.evaluation import Runtime
    from mmalign.contract.source import Source
    from mmalign_zero_shot.classifier import Classifier, Limits

_PATH = click.Path(path_type=Path)

_EPILOG = """\b
Examples:
  mmalign zero-shot photo.jpg --labels cat,dog,fox
  mmalign zero-shot holiday/ --labels "a photo of a <object>" --objects cat,dog
  mmalign zero-shot holiday/ --labels "sea, calm" --labels "sea, rough" --html report.html
  mmalign zero-shot animals/ --eval --templates openai-7 --out results.csv
  find . -name '*.jpg' | mmalign zero-shot - --labels @names.txt --json
\b
One --labels with commas is a list; for a label with a comma repeat it, or give @file.
Scores share 100% among the labels, right or wrong; the cosine says whether one fits.
Exit codes: 0 if any image could be used, 3 if none, 2 wrong usage."""


@click.command("zero-shot", epilog=_EPILOG)
@click.argument("images", nargs=-1, metavar="[IMAGES, FOLDERS, GLOBS, -]...")
@click.option("--labels", multiple=True, metavar="TEXT", help="cat,dog or @file; may hold <object>; repeatable.")
@click.option("--objects", metavar="NAMES", help="Words for <object>: cat,dog or @file. Default: the backbone's own.")
@click.option("--templates", default="plain", show_default=True, help="plain, openai-7, openai-80 or @file; averaged.")
@click.option("--backbone", metavar="MODEL", help="A name, prefix:reference or folder. Default: the embedded CLIP.")
@click.option("--top-k", type=click.IntRange(min=1), default=5, show_default=True, help="Answers for an image.")
@click.option(
    "--min-cosine",
    type=click.FloatRange(-1, 1),
    help="Least cosine of the best label, else: none of these. Default: the model's.",
)
@click.option("--threshold", type=click.FloatRange(0, 1), default=0.0, help="Least score of a label to name.")
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="Images at once.")
@click.option("--device", default="auto", show_default=True, metavar="DEVICE", help="auto, cpu, cuda or mps.")
@click.option("--eval", "evaluate", is_flag=True, help="Measure accuracy on class folders.")
@click.option("--confusion", type=_PATH, metavar="PNG", help="With --eval: file of the confusion matrix.")
@click.option("--out", type=_PATH, metavar="FILE", help="Write results as .jsonl, .csv or .parquet.")
@click.option("--html", type=_PATH, metavar="FILE", help="Write a report with thumbnails, in one file.")
@click.option("--force", is_flag=True, help="Let --out, --html and --confusion replace files.")
@click.option(
    "--set", "sets", multiple=True, metavar="KEY=VALUE", help="An option of the backbone, backbone.key=value."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each image on stdout.")
@quiet_option
@pass_app
def command(app: App, **options: Any) -> int:
    """Name what is in IMAGES with labels of your own; without images, in the sample photographs."""
    return run_zero_shot(app, Options(**options))


NEEDS = ("encode_image", "encode_text", "contrastive_head")


Advance = Callable[[int, int], None]


@dataclass(frozen=True)
class Options:
    """The command's options, as the user typed them."""

    images: tuple[str, ...]
    labels: tuple[str, ...]
    objects: str | None
    templates: str
    backbone: str | None
    top_k: int
    threshold: float
    min_cosine: float | None
    batch_size: int
    device: str
    evaluate: bool
    confusion: Path | None
    out: Path | None
    html: Path | None
    force: bool
    sets: tuple[str, ...]
    as_json: bool


@dataclass(frozen=True)
class Question:
    """The labels to choose from, before the backbone's vocabulary is known. objects: None to use that vocabulary.

    notes: how the labels were read.
    """

    patterns: tuple[str, ...]
    objects: list[str] | None
    templates: tuple[str, ...] | None
    notes: tuple[str, ...] = ()

    def labels(self, vocabulary: tuple[str, ...]) -> tuple[list[Label], list[str]]:
        return build_labels(self.patterns, self.objects, vocabulary, self.templates)


def run_zero_shot(app: App, options: Options) -> int:
    """Returns the exit code. Every check that can refuse a request runs before a model is loaded."""
    question = _question(options)
    _check_outputs(options)
    source = _source(app, options)
    settings = backbone_settings(options.sets, "zero-shot")
    inputs = _inputs(app, options)
    question = _with_classes(app, question, inputs, options)
    if not inputs.refs:
        results = [ImageResult(name, error=reason) for name, reason in inputs.problems]
        output.print_results(results, options.as_json)
        return _finish(app, options, results, 0.0)
    classifier, backbone, runtime, config, warnings = _load(app, options, source, settings, question)
    match = match_classes(inputs.classes, [label.object for label in classifier.labels]) if options.evaluate else []
    started = time.perf_counter()
    limits = _limits(app, options, config, classifier)
    results, measured = _answer(app, options, inputs, classifier, backbone, runtime, match, limits)
    code = _finish(app, options, results, time.perf_counter() - started)
    facts = output.Facts(
        source.reference, config, str(runtime.device), options.templates, question.templates or (), limits.cosine
    )
    if measured is not None:
        output.print_measured(measured, classifier.labels, options.as_json)
        if options.confusion or not options.html:
            path = output.write_confusion(measured.accuracy, classifier.labels, options.confusion)
            app.say(f"confusion matrix: {path}")
    if options.html:
        output.write_html(options.html, facts, inputs, results, classifier.labels, measured, warnings)
        app.say(f"report: {options.html}")
    return code


def _question(options: Options) -> Question:
    """The labels as typed, checked as far as possible without the backbone; raises UsageError."""
    objects = None if options.objects is None else read_names(options.objects)
    patterns, notes = read_labels(options.labels or ((DEFAULT_PATTERN,) if options.evaluate else ()))
    question = Question(tuple(patterns), objects, read_templates(options.templates), tuple(notes))
    question.labels(("object",))
    if options.threshold and options.evaluate:
        raise UsageError("--threshold has no meaning with --eval", hint="Accuracy is measured on the best label.")
    if options.confusion and not options.evaluate:
        raise UsageError("--confusion needs --eval", hint="Only a labelled folder has a confusion matrix.")
    return question


def _check_outputs(options: Options) -> None:
    for path, suffixes in (
        (options.out, (".jsonl", ".csv", ".parquet")),
        (options.html, (".html", ".htm")),
        (options.confusion, (".png",)),
    ):
        if path is not None:
            check_out(path, options.force, suffixes)


def _source(app: App, options: Options) -> "Source":
    """The backbone's source; raises IncompatibleError where its family cannot do zero-shot classification."""
    reference = options.backbone or app.catalog.default("backbones", "image-label").spec.name
    from mmalign.models.load import require_source

    return require_source(app.catalog, reference, NEEDS, "zero-shot")


def _inputs(app: App, options: Options) -> Inputs:
    if options.evaluate:
        if len(options.images) > 1 or "-" in options.images:
            raise UsageError("--eval takes one folder", hint="Give a folder that contains one folder for each class.")
        inputs = from_dataset(app.catalog, Path(options.images[0]).expanduser() if options.images else None)
    elif options.images:
        inputs = from_arguments(options.images, sys.stdin.buffer)
    else:
        inputs = from_dataset(app.catalog, None)
    for note in inputs.notes:
        app.warn(note)
    if not options.images:
        app.say(f"no image given: using the {len(inputs.refs)} sample photographs of the data set {SAMPLES}")
    return inputs


def _with_classes(app: App, question: Question, inputs: Inputs, options: Options) -> Question:
    """With --eval, the classes fill the placeholder, unless the user named objects."""
    if not options.evaluate or question.objects is not None:
        return question
    names = [" ".join(name.replace("_", " ").split()) for name in inputs.classes]
    if names != list(inputs.classes):
        app.say("underscores in the folders' names are read as spaces")
    if not any(placeholder(pattern) for pattern in question.patterns):
        return question
    return replace(question, objects=names)


def _load(
    app: App, options: Options, source: "Source", settings: Mapping[str, Any], question: Question
) -> "tuple[Classifier, DualEncoder, Runtime, Mapping[str, Any], list[str]]":
    """The model on its device and the classifier; prints notes on both."""
    from mmalign.config.validate import build
    from mmalign.contract.evaluation import Runtime
    from mmalign.models.load import load_model
    from mmalign_zero_shot.cache import ClassifierCache
    from mmalign_zero_shot.classifier import Classifier, cached_classifier

    runtime = Runtime.choose(options.device, options.batch_size)
    config = build(app.catalog.load_config(source.entry), settings, "backbone")
    backbone = load_model(app.catalog, source, config, needs=NEEDS, device=runtime.device, say=app.say)
    facts = dict(backbone.describe())
    if facts.get("pretrained") is False:
        raise UsageError(
            f"{source.reference} has random weights, which name images at random",
            hint="Give a tag or a folder of trained weights, for example --backbone clip-lite.",
        )
    labels, notes = question.labels(backbone.vocabulary)
    for note in (*question.notes, *notes):
        app.say(f"note: {note}")
    if question.templates:
        app.say(_describe_templates(options.templates, question.templates))
    cache = ClassifierCache.default()
    settings = config.model_dump(mode="json")
    with _progress(app, "labels", shown=sum(len(label.prompts) for label in labels) > 2000) as advance:
        cached = cached_classifier(backbone, source, labels, runtime, cache, settings, advance)
    warnings = list(cache.warnings)
    if cached.num_long:
        limit = backbone.processor.context_length
        texts = sum(len(label.prompts) for label in labels)
        warnings.append(
            f"{cached.num_long} of {texts} label texts are over {limit} tokens; {cached.num_lost} tokens were cut off"
        )
    for warning in warnings:
        app.warn(warning)
    classifier = Classifier(labels, cached.weights.to(runtime.device), backbone.contrastive_head())
    return classifier, backbone, runtime, facts, warnings


def _answer(
    app: App,
    options: Options,
    inputs: Inputs,
    classifier: "Classifier",
    backbone: "DualEncoder",
    runtime: "Runtime",
    match: list[int],
    limits: "Limits",
) -> "tuple[list[ImageResult], output.Measured | None]":
    """Classify every image and print each answer at once. match: the label of each class, with --eval."""
    from mmalign_zero_shot.accuracy import Accuracy
    from mmalign_zero_shot.classifier import Limits, best, classify
    from mmalign_zero_shot.separation import Separation

    measured = None
    if options.evaluate:  # the labels include the right one of every picture, so the best label is the answer
        measured = output.Measured(Accuracy(len(classifier.labels)), Separation(), limits.cosine)
        limits = Limits()
    results = [ImageResult(name, error=reason) for name, reason in inputs.problems]
    output.print_results(results, options.as_json)
    width = output.name_width(inputs.names)
    with _progress(app, "images", shown=len(inputs.refs) > options.batch_size) as advance:
        for index, found in classify(classifier, backbone, inputs.refs, runtime):
            name, truth = inputs.names[index], inputs.classes[inputs.truths[index]] if measured else None
            if isinstance(found, str):
                result = ImageResult(name, error=found, truth=truth)
            else:
                predictions, rejected = best(found, classifier.labels, options.top_k, limits)
                result = ImageResult(name, predictions, truth=truth, rejected=rejected)
                if measured:
                    measured.add(name, match[inputs.truths[index]], found)
            results.append(result)
            output.print_results([result], options.as_json, width)
            advance(index + 1, len(inputs.refs))
    if not measured and limits.cosine is not None and options.min_cosine is None:
        none = sum(result.rejected is not None for result in results)
        if none:
            app.say(
                f"{none} of {len(results)} images show none of these labels: no cosine reaches {limits.cosine:g}, the "
                "model's calibrated threshold (--min-cosine sets another; -1 always names the best label)"
            )
    return results, measured


def _limits(app: App, options: Options, facts: Mapping[str, Any], classifier: "Classifier") -> "Limits":
    """The thresholds of the options, else of the model's calibration. Prints a note where a single label is given."""
    from mmalign_zero_shot.classifier import Limits

    calibrated = facts.get("min_cosine")  # plugins may have none
    cosine = calibrated if options.min_cosine is None else options.min_cosine
    if len(classifier.labels) == 1 and classifier.head.bias is None:
        app.say("note: a single label gets 100% whatever the picture shows; its cosine tells whether it fits")
    return Limits(options.threshold, cosine)


def _finish(app: App, options: Options, results: list[ImageResult], seconds: float) -> int:
    """Write --out, print the counts, and choose the exit code."""
    if options.out:
        write_results(options.out, results)
    failed = sum(bool(result.error) for result in results)
    done = len(results) - failed
    if failed:
        app.warn(f"{failed} of {len(results)} images could not be used")
    if done:
        app.say(f"{done} images in {seconds:.1f} s")
    return EXIT_OK if done else EXIT_DATA


def _describe_templates(name: str, templates: tuple[str, ...]) -> str:
    first = " | ".join(templates[:3])
    more = f" | and {len(templates) - 3} more" if len(templates) > 3 else ""
    return f"templates {name}, {len(templates)} averaged: {first}{more}"


@contextmanager
def _progress(app: App, what: str, shown: bool) -> Iterator[Advance]:
    """A bar on stderr for long work; none where stderr is not a terminal, or where lines on stdout already show
    progress."""
    if not shown or app.quiet or not sys.stderr.isatty() or (what == "images" and sys.stdout.isatty()):
        yield lambda done, total: None
        return
    from rich.progress import Progress

    with Progress(console=app.console, transient=True, redirect_stdout=False) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
