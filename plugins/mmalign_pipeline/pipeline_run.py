"""The body of `mmalign pipeline`, apart from its options so that `--help` imports none of it."""

import os
import shlex
from pathlib import Path
from typing import Any

from mmalign.cli.app import App, emit, emit_json
from mmalign.cli.live import run_display
from mmalign.cli.table import table
from mmalign.errors import UsageError
from mmalign.stop import Interrupted
from mmalign.train.layers import recipe_path
from mmalign.train.run_folder import default_folder
from mmalign_pipeline.check import check_pipeline
from mmalign_pipeline.config import OUTPUTS, REPORT, Pipeline, read_pipeline
from mmalign_pipeline.folder import PipelineFolder
from mmalign_pipeline.stages import Outcome, run_pipeline, stages_between


def run(
    app: App,
    *,
    config: str,
    out: Path | None,
    until: str,
    start: str,
    sets: tuple[str, ...],
    device: str,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Read the pipeline, then show or run it. Returns the exit code."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(
            "a pipeline runs in one process", hint="Run stages that need several with mmalign train, under torchrun."
        )
    pipeline = read_pipeline(_path(config), sets)
    if start and out is None:
        raise UsageError("--from needs the folder of an earlier run", hint="Name it: --out runs/...")
    folder = out or default_folder(pipeline.name)
    if dry_run:
        _show(app, pipeline, folder, start, until, as_json)
        return 0
    # With all options, so that the user can copy the line.
    again = shlex.join(["mmalign", "pipeline", config, "--out", str(folder), *(f"--set={text}" for text in sets)])
    app.say(f"pipeline {pipeline.name}: {', '.join(pipeline.names)}; folder {folder}")
    try:
        with run_display(app) as say:
            outcome = run_pipeline(app.catalog, pipeline, folder, start=start, until=until, device=device, say=say)
    except Interrupted as interruption:  # between stages, or while a stage loads its models
        app.say(f"pipeline {pipeline.name} stopped; go on: {again}")
        interruption.told = True
        raise
    except KeyboardInterrupt:  # a second one
        app.say(f"pipeline {pipeline.name} stopped; go on: {again}")
        return 130
    _say_outcome(app, outcome, again)
    if as_json:
        state = PipelineFolder.look(folder, pipeline, pipeline.names)
        emit_json({"folder": str(folder), "done": outcome.done, "report": outcome.report, **(_figures(state))})
    return 0


def _path(config: str) -> Path:
    """A file, or a packaged one by its name; raises UsageError."""
    path = Path(config).expanduser()
    packaged = recipe_path(config)
    if path.is_file() or packaged is None:
        if not path.exists():
            raise UsageError(f"no pipeline {config!r}", hint="Give a YAML file, or instructgpt, which is packaged.")
        return path
    return packaged


def _figures(folder: "PipelineFolder | None") -> dict[str, Any]:
    return {} if folder is None else {"stages": folder.state["stages"]}


def _say_outcome(app: App, outcome: Outcome, again: str) -> None:
    if outcome.waits_for is not None:
        app.say(f"fill in `rank` in {outcome.waits_for}, 1 for the best; then go on: {again}")
    elif outcome.report is not None:
        app.say(f"report: {outcome.report}")
    else:
        app.say(f"finished: {', '.join(outcome.done)}; go on: {again}")


def _show(app: App, pipeline: Pipeline, folder: Path, start: str, until: str, as_json: bool) -> None:
    """The stages with what each reads, writes, and whether it is done."""
    wanted, again = stages_between(pipeline, start, until)
    check_pipeline(app.catalog, pipeline)
    there = PipelineFolder.look(folder, pipeline, again)
    rows = []
    for name in pipeline.names:
        stage = pipeline.stage(name)
        status = "to do" if there is None else there.status(name)
        status = "runs anew" if name in again and status != "to do" else status
        made = [str(folder / name / output) for output in OUTPUTS.get(stage.kind, {REPORT: "report.html"}).values()]
        rows.append(
            {
                "stage": name,
                "run": stage.kind,
                "reads": stage.reads,
                "writes": made,
                "status": status if name in wanted else f"{status}, left out",
            }
        )
    if as_json:
        emit_json({"pipeline": pipeline.name, "folder": str(folder), "stages": rows})
        return
    lines = [(r["stage"], r["run"], ", ".join(r["reads"]) or "-", r["writes"][0], r["status"]) for r in rows]
    emit(table(("stage", "runs", "reads", "writes", "status"), lines))
