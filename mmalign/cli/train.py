"""`mmalign train`: one command for every objective, backbone and data set."""

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from mmalign.cli.app import App, CatalogName, emit, json_option, pass_app, quiet_option
from mmalign.cli.live import run_display
from mmalign.errors import UsageError
from mmalign.printable import json_text
from mmalign.stop import Interrupted
from mmalign.train.layers import load_layers

_EPILOG = """\b
Examples:
  mmalign train --objective contrastive
  mmalign train --objective contrastive --dataset pairs.csv --set train.steps=500
  mmalign train --objective ppo --backbone runs/sft/model --dataset prompts.jsonl --reward vader
  mmalign train --objective grpo --reward '{"name": "function", "function": "mine.py:score"}'
  mmalign train --objective contrastive --backbone open_clip:ViT-B-32/openai --dry-run
  mmalign train --resume runs/contrastive-20260101-120000

All options of an objective: mmalign config show contrastive
Rewards and their options: mmalign list rewards; mmalign show regex --options
"""


@click.command("train", epilog=_EPILOG)
@click.option(
    "--objective", type=CatalogName("objectives"), metavar="NAME", help="What to learn: mmalign list objectives."
)
@click.option("--backbone", metavar="MODEL", help="What to train: a name, prefix:reference or folder.")
@click.option("--dataset", metavar="DATA", help="What to learn from: a name, file, tar, glob or folder.")
@click.option(
    "-c",
    "--config",
    "configs",
    multiple=True,
    type=click.Path(path_type=Path),
    help="YAML file, or a packaged recipe's name; repeatable.",
)
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="One option, as train.steps=100; repeatable.")
@click.option(
    "--reward",
    "rewards",
    multiple=True,
    metavar="REWARD",
    help="What scores sampled answers: NAME[=WEIGHT], or JSON with options; repeatable.",
)
@click.option("--environment", metavar="NAME", help="What replies to sampled answers: mmalign list environments.")
@click.option(
    "--tracker", "trackers", multiple=True, metavar="NAME", help="What gets every record: mmalign list trackers."
)
@click.option("--out", type=click.Path(path_type=Path), help="Run folder; default runs/<objective>-<time>.")
@click.option("--seed", type=click.IntRange(min=0), help="Short for --set train.seed=N.")
@click.option("--device", default="auto", show_default=True, metavar="DEVICE", help="auto, cpu, cuda or mps.")
@click.option(
    "--resume", type=click.Path(path_type=Path), metavar="RUN", help="Go on with an interrupted run, exactly."
)
@click.option("--allow-change", is_flag=True, help="With --resume: accept changed options.")
@click.option("--dry-run", is_flag=True, help="Show the plan: memory, disk, time, the first example; train nothing.")
@click.option("--options", "with_options", is_flag=True, help="With --dry-run: show every option, too.")
@json_option
@quiet_option
@pass_app
def command(app: App, **options: Any) -> int:
    """Train a backbone with an objective."""
    return run_train(app, **options)


SCHEMA = 1


_SHOWN_SAMPLES = 2


def run_train(
    app: App,
    *,
    objective: str | None,
    backbone: str | None,
    dataset: str | None,
    configs: tuple[Path, ...],
    sets: tuple[str, ...],
    rewards: tuple[str, ...],
    environment: str | None,
    trackers: tuple[str, ...],
    out: Path | None,
    seed: int | None,
    device: str,
    resume: Path | None,
    allow_change: bool,
    dry_run: bool,
    with_options: bool,
    as_json: bool,
) -> int:
    """Resolve, then plan, resume or start. Returns the exit code."""
    if with_options and not dry_run:
        raise UsageError("--options goes with --dry-run", hint="All options: mmalign config show OBJECTIVE")
    names = {"objective": objective, "backbone": backbone, "dataset": dataset}
    given = {name: value for name, value in names.items() if value is not None}
    _require_once(
        sets, {"--reward": bool(rewards), "--environment": environment is not None, "--seed": seed is not None}
    )
    sets = (*sets, *(() if seed is None else (f"train.seed={seed}",)))
    if rewards:
        sets = (f"rollout.rewards={json.dumps([_reward(text) for text in rewards])}", *sets)
    if environment is not None:
        sets = (f"rollout.environment={json.dumps({'name': environment})}", *sets)
    sets = (*(f"trackers.{name}={{}}" for name in trackers), *sets)
    try:
        if resume is not None:
            if given or configs or rewards or environment or out or dry_run:
                raise UsageError(
                    "--resume takes the run's own options", hint="Change some with --set and --allow-change."
                )
            from mmalign.train import run as launch

            with run_display(app) as say:
                outcome = launch.resume(
                    resume, app.catalog, sets=sets, allow_change=allow_change, device=device, say=say
                )
        else:
            plan = _resolve(app, given, configs, sets)
            if dry_run:
                return _dry_run(app, plan, device, with_options, as_json)
            from mmalign.train import run as launch

            with run_display(app) as say:
                outcome = launch.start(plan, app.catalog, folder=out, device=device, say=say)
    except Interrupted as interruption:
        if interruption.folder is not None:
            app.say(f"go on: mmalign train --resume {interruption.folder}")
        raise
    if outcome is not None:
        _print_outcome(app, outcome, as_json)
    return 0


def _require_once(sets: tuple[str, ...], given: Mapping[str, bool]) -> None:
    """Raises UsageError where an option and --set both say the same thing: one would be lost."""
    layers = load_layers(sets=sets)
    environment = layers["rollout"].get("environment", {})
    set_too = {
        "--reward": ("rollout.rewards", "rewards" in layers["rollout"]),
        "--environment": (
            "rollout.environment",
            "name" in environment if isinstance(environment, dict) else bool(environment),
        ),
        "--seed": ("train.seed", "seed" in layers["train"]),
    }
    for option, (key, there) in set_too.items():
        if given[option] and there:
            raise UsageError(f"{option} and --set {key} are both given", hint="Leave one of them out.")


def _reward(text: str) -> dict[str, Any]:
    """An entry of rollout.rewards; raises UsageError."""
    from mmalign.rl.config import reward_option

    try:
        return reward_option(text)
    except ValueError as error:
        hint = """As --reward vader=0.5, or --reward '{"name": "length", "target": 20}'; all: mmalign list rewards"""
        raise UsageError(f"--reward {text}: {error}", hint=hint) from None


def _resolve(app: App, names: Mapping[str, str], configs: tuple[Path, ...], sets: tuple[str, ...]) -> Any:
    from mmalign.train.options import run_layers
    from mmalign.train.plan import make_plan

    layers, notes = run_layers(app.catalog, names, configs, sets)
    for note in notes:
        app.say(note)
    if notes:
        objective = layers["objective"]["name"]
        app.say(f"every option of this run: mmalign config show {objective}, with the same names, files and --set")
    return make_plan(app.catalog, layers)


def _dry_run(app: App, plan: Any, device: str, with_options: bool, as_json: bool) -> int:
    """The plan, then the first example, then, where asked for, every option."""
    from mmalign.train.estimate import estimate
    from mmalign.train.run import headline

    figures = estimate(plan, device, app.say)
    if as_json:
        document = {
            "schema": SCHEMA,
            "plan": plan.to_dict(),
            "reasons": dict(plan.reasons),
            "estimate": figures.as_dict(),
        }
        click.echo(json_text(document, indent=2))
        return 0
    chosen = [f"default   {line}" for line in plan.explanations()]
    for line in (headline(plan), *chosen, *figures.lines(), "", *figures.first_example):
        emit(line)
    if with_options:
        emit(f"\n{plan.to_yaml()}")
    else:
        app.say(f"every option: add --options, or mmalign config show {plan.names()['objective']}")
    return 0


def _print_outcome(app: App, outcome: Any, as_json: bool) -> None:
    from mmalign.train.baselines import HEADER, table
    from mmalign.train.summary import metric_header, metric_rows, verdict_note, what_was_read

    if as_json:
        document = {"schema": SCHEMA, "run": str(outcome.folder), "model": str(outcome.model), **outcome.summary}
        click.echo(json_text(document, indent=2))
        return
    summary = outcome.summary
    tokens = f"{summary['tokens_per_second']} tokens a second, " if "tokens" in summary else ""
    app.say(
        f"{what_was_read(summary)} in {summary['seconds']} s, {summary['training_seconds']} s of them steps: "
        f"{summary['examples_per_second']} a second, {tokens}"
        f"peak memory {summary['peak_memory_mb']} MB, {summary['unreadable_samples']} unreadable samples, "
        f"{summary['truncated_texts']} truncated texts, "
        f"{summary['skipped_updates']} skipped updates"
    )
    for line in summary["told"]:
        app.say(f"  {line}")
    rows = metric_rows(summary["judged"])
    if rows:
        table_rows = [tuple(metric_header()), *rows]
        # The interval is in the report, too.
        _print_table(table_rows if _fits(table_rows) else [(*row[:3], row[-1]) for row in table_rows])
        for line in filter(None, (verdict_note(summary["judged"]), *(f"try {text}" for text in summary["advice"]))):
            app.say(line)
    if summary["comparison"]:
        emit()
        _print_table([HEADER, *table(summary["comparison"])])
    for sample in summary["samples"][:_SHOWN_SAMPLES]:
        emit(f"\n{sample['prompt']}\n  before: {_line(sample['before'])}\n  after:  {_line(sample['after'])}")
    report = outcome.folder / "report.html"
    app.say(f"model: {outcome.model}" + (f"   report: {report}" if report.is_file() else ""))
    for command in summary["next"][:1]:
        app.say(f"next: {command}")


def _fits(rows: Sequence[Sequence[str]]) -> bool:
    """Whether a table is no wider than the terminal, where there is one."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return not sys.stdout.isatty() or sum(widths) + 2 * (len(widths) - 1) <= shutil.get_terminal_size().columns


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    """The first column to the left, the others to the right, but for the last where it is the verdict."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        cells = [f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True)]
        if rows[0][-1] == "verdict":
            cells[-1] = others[-1]
        emit("  ".join([f"{first:<{widths[0]}}", *cells]).rstrip())


def _line(text: str) -> str:
    return " ".join(text.split())
