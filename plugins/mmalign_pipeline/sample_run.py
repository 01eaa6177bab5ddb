"""The bodies of `mmalign sample` and `mmalign rank`, apart from their options so that `--help` imports none of it."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmalign.cli.app import App, emit_json, settings_of
from mmalign.errors import EXIT_OK, UsageError
from mmalign.stop import Interrupted, StopRequest
from mmalign_pipeline.work import count_line, rank_to, sample_to


def run_sample(
    app: App,
    *,
    backbone: str,
    dataset: str,
    limit: int | None,
    out: Path,
    force: bool,
    device: str,
    sets: tuple[str, ...],
    as_json: bool,
    **drawing: Any,
) -> int:
    """Sample and write. Returns the exit code."""
    from mmalign_pipeline.sample import SampleConfig

    settings = settings_of(sets, "sample", ("backbone", "dataset"))
    _check_out(out, force)
    config = SampleConfig(
        backbone={"name": backbone, **settings["backbone"]},
        dataset={"name": dataset, **settings["dataset"]},
        limit=limit or 0,
        **drawing,
    )
    return _run(app, lambda: sample_to(app.catalog, config, out, device, app.say), out, as_json)


def run_rank(
    app: App,
    *,
    answers: Path,
    judges: tuple[str, ...],
    tie: float,
    out: Path | None,
    export: Path | None,
    read: Path | None,
    seed: int,
    force: bool,
    device: str,
    as_json: bool,
) -> int:
    """Rank by judges, write a sheet for people, or read one back. Returns the exit code."""
    from mmalign_pipeline.rank import RankConfig

    ways = {"--judge": bool(judges), "--export": export is not None, "--import": read is not None}
    if sum(ways.values()) != 1:
        raise UsageError(
            f"give one of {', '.join(ways)}", hint="A judge ranks at once; a sheet is exported, filled in and imported."
        )
    if export is not None:
        if out is not None:
            raise UsageError("--export writes only the sheet; use --out with --judge or --import")
        return _export(app, answers, export, seed, force, as_json)
    if out is None:
        raise UsageError("no file to write the rankings to", hint="Add --out rankings.jsonl")
    if read is not None and not read.is_file():
        raise UsageError(f"no sheet {read}", hint=f"Make it: mmalign rank {answers} --export {read}")
    _check_out(out, force)
    config = RankConfig(
        answers=str(answers), judge=tuple(map(_judge, judges)), sheet="" if read is None else str(read), tie=tie
    )
    return _run(app, lambda: rank_to(app.catalog, config, out, device, app.say), out, as_json)


def _export(app: App, answers: Path, sheet: Path, seed: int, force: bool, as_json: bool) -> int:
    from mmalign_pipeline.answers import read_answers
    from mmalign_pipeline.sheet import check_suffix, write_sheet

    check_suffix(sheet)
    _check_out(sheet, force)
    counts = write_sheet(sheet, read_answers(answers), seed)
    app.say(count_line(counts))
    app.say(f"fill in `rank`, 1 for the best, then: mmalign rank {answers} --import {sheet} --out rankings.jsonl")
    if as_json:
        emit_json({"out": str(sheet), **counts})
    return EXIT_OK


def _judge(text: str) -> dict[str, Any]:
    """A reward's name with its weight, or JSON with its options; raises UsageError."""
    from mmalign.rl.config import reward_option

    try:
        return reward_option(text)
    except ValueError as error:
        raise UsageError(
            f"--judge {text}: {error}", hint="""As --judge '{"name": "length", "target": 20}'"""
        ) from error


def _check_out(out: Path, force: bool) -> None:
    if out.exists() and (out.is_dir() or not force):
        raise UsageError(f"{out} exists already", hint="Add --force to replace it, or name another.")
    if not out.absolute().parent.is_dir():
        raise UsageError(f"{out}: no such folder", hint=f"mkdir -p {out.parent}")
    try:
        tempfile.TemporaryFile(dir=out.absolute().parent).close()  # fails before the work instead of after it
    except OSError as error:
        raise UsageError(f"cannot write to {out}: {error.strerror}", hint="Name another file.") from error


def _run(app: App, work: Callable[[], dict[str, int]], out: Path, as_json: bool) -> int:
    """A signal ends it at once: the file is written at the end, as a whole."""
    try:
        with StopRequest() as stop, stop.interrupts():
            counts = work()
    except Interrupted as interruption:
        app.say(f"stopped by {interruption}; nothing is written")
        interruption.told = True
        raise
    app.say(f"written: {out}")
    if as_json:
        emit_json({"out": str(out), **counts})
    return EXIT_OK
