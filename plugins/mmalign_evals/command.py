"""`mmalign evaluate`: measure a model on held-out data."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmalign.cli.app import App, CatalogName, json_option, pass_app, quiet_option, settings_of
from mmalign.contract.trained import FILE as RECORD
from mmalign.errors import EXIT_OK, DataError, IncompatibleError, MmalignError, NonFiniteError, UsageError
from mmalign.models.hub import CHAT_TEMPLATE
from mmalign.models.load import load_model, require_source
from mmalign.registry.views import through
from mmalign_evals import output

if TYPE_CHECKING:
    import torch
    from pydantic import BaseModel

    from mmalign.contract.evaluation import Runtime
    from mmalign.contract.source import Source
    from mmalign.contract.trained import TrainedBy
    from mmalign.evaluate.parts import Part
    from mmalign_evals.choose import Task

_EPILOG = """\b
Examples:
  mmalign evaluate --backbone runs/sft/model
  mmalign evaluate perplexity --backbone ./model --dataset held_out.txt
  mmalign evaluate zero-shot retrieval --backbone clip-lite --html report.html
  mmalign evaluate perplexity --backbone ./model --split test --json

\b
Without NAME: all that fit the model; the others are named with the reason.
Without --dataset: what the model's own run held out (and answers are compared
as that run did), else the default data of an evaluation's kind of example.
Without --split: of a data set what it holds out, of a file everything in it.
Options of an evaluation: mmalign show NAME --options
Exit codes: 0 ok, 1 failed, 2 wrong usage, 3 no usable data, 4 NaN or infinite."""


@click.command("evaluate", epilog=_EPILOG)
@click.argument("names", nargs=-1, metavar="[NAME]...", type=CatalogName("evaluations"))
@click.option("--backbone", metavar="MODEL", required=True, help="A name, prefix:reference or folder.")
@click.option("--dataset", metavar="DATA", help="What to measure on: a name, file, glob or folder.")
@click.option("--split", default="", metavar="PART", help="validation, test or train.")
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="Examples at once.")
@click.option("--device", default="auto", show_default=True, metavar="DEVICE", help="auto, cpu, cuda or mps.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Write the results as .json or .csv.")
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Write a report, in one file.")
@click.option("--force", is_flag=True, help="Let --out and --html replace files.")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="As evaluation.max_examples=500; repeatable.")
@json_option
@quiet_option
@pass_app
def command(app: App, **options: Any) -> int:
    """Measure a model with the evaluations NAME on held-out data."""
    return run_evaluate(app, Options(**options))


_SECTIONS = ("backbone", "dataset", "evaluation")


READING = ("context_length", "template")  # options of backbones that decide which ids a text or a conversation becomes


@dataclass(frozen=True)
class Options:
    """The command's options, as typed."""

    names: tuple[str, ...]
    backbone: str
    dataset: str | None
    split: str
    batch_size: int
    device: str
    out: Path | None
    html: Path | None
    force: bool
    sets: tuple[str, ...]
    as_json: bool


def run_evaluate(app: App, options: Options) -> int:
    """Returns the exit code. Everything that can be refused is refused before a model loads."""
    settings = settings_of(options.sets, "evaluate", _SECTIONS)
    for path, suffixes in ((options.out, (".json", ".csv")), (options.html, (".html", ".htm"))):
        if path is not None:
            from mmalign.files import check_out

            check_out(path, options.force, suffixes)
    from mmalign_evals.choose import select

    source = require_source(app.catalog, options.backbone, (), "evaluate")
    trained = _record(app, source)
    tasks, left_out = select(
        app.catalog, source, options.names, options.dataset, options.split, settings["dataset"], trained
    )
    for name, why in left_out.items():
        app.say(f"left out: {name}: {why}")
    unnamed = options.dataset is None and "path" not in settings["dataset"]
    parts = _open_all(app, tasks, source, left_out, unnamed=unnamed, named=bool(options.names))
    chosen = _options(app, [task for task, _ in parts], settings["evaluation"])

    from mmalign.config.validate import build
    from mmalign.contract.evaluation import Runtime

    runtime = Runtime.choose(options.device, options.batch_size)
    reading = _reading(app, source, trained, settings["backbone"])
    hint = f"All options: mmalign show {source.entry.spec.name} --options"
    config = build(app.catalog.load_config(source.entry), {**reading, **settings["backbone"]}, "backbone", hint=hint)
    backbone = load_model(app.catalog, source, config, device=runtime.device, say=app.say)
    facts = dict(backbone.describe())
    if facts.get("pretrained") is False:
        app.warn(f"{source.reference} has random weights: its figures are those of chance")
    reading |= {name: settings["backbone"][name] for name in READING if name in settings["backbone"]}
    load_other = partial(_load_other, app, device=runtime.device, trained=trained, reading=reading)
    runtime = replace(runtime, trained=trained)
    results = []
    for (task, part), values in zip(parts, chosen, strict=True):
        if trained is not None:
            _say_whose_rows(app, trained, task, part)
        seen = partial(_seen, task, part, config)
        with_other = replace(runtime, load_model=partial(load_other, task=task, seen=seen))
        result = _measure(app, task, part, seen(backbone), with_other, values, named=bool(options.names))
        if isinstance(result, str):
            left_out[app.catalog.display_name(task.evaluation)] = result
        else:
            results.append(result)
    if not results:
        raise DataError("nothing could be measured", hint="The reasons are above.")
    run = output.Report(source.reference, source.family.name, str(runtime.device), facts, results, left_out)
    if options.out is not None:
        output.write_out(options.out, run)
        app.say(f"results: {options.out}")
    if options.html is not None:
        output.write_html(options.html, run)
        app.say(f"report: {options.html}")
    output.print_report(run, options.as_json)
    return EXIT_OK


def _options(app: App, tasks: "list[Task]", section: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each evaluation's share of the section, checked: the options that it knows, and those that none knows."""
    from mmalign.evaluate.runner import evaluation_config

    fields = [set(app.catalog.load_config(task.evaluation).model_fields) for task in tasks]
    known = set[str]().union(*fields)
    chosen = [{key: value for key, value in section.items() if key in own or key not in known} for own in fields]
    for task, values in zip(tasks, chosen, strict=True):
        evaluation_config(app.catalog, task.evaluation, values)
    return chosen


def _measure(
    app: App, task: "Task", part: "Part", backbone: Any, runtime: "Runtime", values: Mapping[str, Any], *, named: bool
) -> "output.Result | str":
    """A result or, of an evaluation that nobody asked for by name, why its data cannot be used."""
    from mmalign.evaluate.runner import run_evaluation

    name = app.catalog.display_name(task.evaluation)
    app.say(f"{name}: {len(part.dataset):,} {part.kind} examples of {part.entry.spec.name}, {part.split}")
    for reason, count in part.dataset.report()["skipped"].items():
        app.warn(f"{name}: {count:,} rows left out of the data: {reason}")
    try:
        metrics = run_evaluation(app.catalog, task.evaluation, backbone, part, runtime, values)
    except DataError as error:
        if named:
            raise
        app.warn(f"left out: {name}: {error.message}")
        return error.message
    wrong = [metric for metric, value in metrics.items() if not math.isfinite(value)]
    if wrong:
        raise NonFiniteError(f"{name}: {', '.join(wrong)} is NaN or infinite", hint="Are the model's weights sound?")
    for metric, what in output.LOSSES.items():
        if metrics.get(metric):
            app.warn(f"{name}: {metrics[metric]:,} {what}")
    return output.Result(name, task.evaluation.spec, part, values, metrics)


def _record(app: App, source: "Source") -> "TrainedBy | None":
    """What the model's own run says of it; says how that run compared answers, and what of it cannot be had."""
    from mmalign.contract.trained import read_record

    trained = read_record(source.path if source.path and source.path.is_dir() else None)
    if trained is None or trained.comparison is None:
        return trained
    compared = trained.comparison.by
    if compared == "log-probabilities":
        compared += ", means over tokens" if trained.comparison.per_token else ", sums over tokens"
    if trained.comparison.reference:
        try:
            if not trained.reference:
                raise UsageError("it started from random weights, which no file holds")
            require_source(app.catalog, trained.reference, (), "evaluate")
        except MmalignError as error:
            app.warn(
                f"the model's run ({trained.objective}) compared answers with a reference that cannot be had: "
                f"{error.message}. Without it accuracy is not the run's own (--set evaluation.reference=MODEL)"
            )
            return replace(trained, reference="")
        compared += f", less those of its reference {trained.reference}"
    app.say(f"the model's run ({trained.objective}) compared answers by their {compared}")
    return trained


def _open_all(
    app: App, tasks: "list[Task]", source: "Source", left_out: dict[str, str], *, unnamed: bool, named: bool
) -> "list[tuple[Task, Part]]":
    """The tasks with their data. Where nobody named the evaluations, those that do not read the data's prompts or
    answers go to `left_out`; raises IncompatibleError where none remains."""
    parts = []
    for task in tasks:
        part = _open(app, task, source, unnamed)
        try:
            task.require_pairs(part.dataset, part.dataset.report()["source"], source.reference)
        except IncompatibleError as error:
            if named or len(tasks) == 1:
                raise
            app.say(f"left out: {error.message}")
            left_out[app.catalog.display_name(task.evaluation)] = error.message
            continue
        parts.append((task, part))
    if not parts:
        raise IncompatibleError("no evaluation reads these data", hint="The reasons are above.")
    return parts


def _seen(task: "Task", part: "Part", config: "BaseModel", model: Any) -> Any:
    """The model as the task's view of it, if the evaluation runs on one. config: the backbone's options."""
    view = task.verdict.view
    return model if view is None else through(view, model, config, data=(part.dataset,))


def _open(app: App, task: "Task", source: "Source", unnamed: bool) -> "Part":
    """The task's data. unnamed: the user named none, so that those of the model's run come from its record."""
    try:
        return task.open(app.catalog)
    except DataError as error:
        if not (task.own and unnamed and source.path):
            raise
        raise DataError(
            f"the data of the model's run, which {source.path / RECORD} names, cannot be read: {error.message}",
            hint=f"Measure it on other data: mmalign evaluate --backbone {source.reference} --dataset DATA",
        ) from error


def _reading(app: App, source: "Source", trained: "TrainedBy | None", asked: Mapping[str, Any]) -> dict[str, Any]:
    """How the model's run read texts: its options of `READING`, where they were set and the model has them.

    asked: the user's own, which go before; says where they differ from the run's. The template is the one saved with
    the model, as the run's file may be gone or another by now.
    """
    if trained is None:
        return {}
    known = app.catalog.load_config(source.entry).model_fields
    stated = {name: trained.backbone[name] for name in READING if name in known and name in trained.backbone}
    for name in sorted(stated.keys() & asked.keys()):
        if str(asked[name] or "") != str(stated[name] or ""):
            had = f"backbone.{name}={stated[name]}" if stated[name] else f"no backbone.{name}"
            app.warn(f"the model's run had {had}: with backbone.{name}={asked[name]} figures are not the run's own")
    values = {name: value for name, value in stated.items() if value}
    if "template" in values and source.path is not None and (source.path / CHAT_TEMPLATE).is_file():
        values["template"] = str(source.path / CHAT_TEMPLATE)
    return values


def _say_whose_rows(app: App, trained: "TrainedBy", task: "Task", part: "Part") -> None:
    """Whether the model's own run learnt from the rows that are measured."""
    from mmalign_evals.choose import HELD_OUT, is_own

    name = app.catalog.display_name(task.evaluation)
    if not task.own and not is_own(trained, task.dataset, task.path):
        app.say(f"{name}: not the data of the model's run: whether it learnt any of these rows is not known")
        return
    if task.kind != trained.kind:
        app.say(f"{name}: the data of the model's run, which learnt {trained.kind} examples of them")
        return
    learnt = part.sibling("train")
    if part.split in ("train", "all"):
        app.warn(f"{name}: the model's run learnt these rows: the figures say little of others")
    elif learnt is None or learnt.fingerprint() != trained.fingerprint:
        app.warn(f"{name}: the data or their options differ from the run's: it may have learnt some of these rows")
    elif part.split == HELD_OUT and trained.measured < len(part.dataset):
        app.say(f"{name}: held out by the model's run, which measured the first {trained.measured:,} of them")
    else:
        app.say(f"{name}: held out by the model's run")


def _load_other(
    app: App,
    reference: str,
    *,
    task: "Task",
    seen: "Callable[[Any], Any]",
    device: "torch.device",
    trained: "TrainedBy | None",
    reading: Mapping[str, Any],
) -> Any:
    """Another model that an evaluation compares with: it must be able to do what is asked of the first, through the
    same view (`seen`), if there is one.

    The one that the model's run started from is loaded with the run's options, but for its adapter. reading: options
    of `READING` that the first model has; any other reads texts by them, too.
    """
    view, needs = task.verdict.view, task.evaluation.spec.needs
    needs = needs if view is None else tuple(map(str, sorted(view.source)))
    source = require_source(app.catalog, reference, needs, "evaluation.reference")
    own = trained is not None and reference == trained.reference
    options = {key: value for key, value in trained.backbone.items() if key != "lora"} if own and trained else {}
    known = app.catalog.load_config(source.entry).model_fields
    options |= {name: value for name, value in reading.items() if name in known}
    return seen(load_model(app.catalog, source, options, needs=needs, device=device, say=app.say))
