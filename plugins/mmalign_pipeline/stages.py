"""Runs stages in order: finished ones are skipped, an interrupted one is resumed, the rest follow.

outcome = run_pipeline(catalog, pipeline, Path("runs/x"), until="reward", device="auto", say=print)

A stage that trains is an ordinary run folder, which resumes to the bit. A stage that samples or ranks writes its file
at its end, as a whole; if interrupted, it begins again and draws the same answers. Ctrl-C and SIGTERM end a stage as
they end `mmalign train`, and the same call continues.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmalign.errors import UsageError
from mmalign.stop import StopRequest
from mmalign_pipeline.check import check_pipeline, rank_config, report_config, sample_config
from mmalign_pipeline.config import Pipeline, Stage
from mmalign_pipeline.folder import PipelineFolder
from mmalign_pipeline.work import Say, WaitsForPeople, rank_to, sample_to

if TYPE_CHECKING:
    from mmalign.registry.catalog import Catalog


@dataclass(frozen=True)
class Outcome:
    """folder: of the pipeline; done: stages that are finished now; report: its page, if it was made; waits_for: a sheet
    that people should fill in, or None."""

    folder: Path
    done: list[str]
    report: Path | None
    waits_for: Path | None = None


def stages_between(pipeline: Pipeline, start: str, until: str) -> tuple[list[str], list[str]]:
    """(all stages to go through, those of them to run again); raises UsageError for unknown names."""
    names = pipeline.names
    for name in filter(None, (start, until)):
        pipeline.stage(name)
    wanted = names[: names.index(until) + 1] if until else names
    if start and start not in wanted:
        raise UsageError(f"--from {start} is after --until {until}", hint=f"Stages: {', '.join(names)}.")
    return wanted, names[names.index(start) :] if start else []


def run_pipeline(
    catalog: "Catalog",
    pipeline: Pipeline,
    path: Path,
    *,
    start: str = "",
    until: str = "",
    device: str = "auto",
    say: Say,
) -> Outcome:
    """Check everything, then run the stages that are not finished; raises Interrupted, and the errors of stages."""
    from mmalign.device import choose_device

    wanted, again = stages_between(pipeline, start, until)
    choose_device(device)
    check_pipeline(catalog, pipeline)
    before = PipelineFolder.look(path, pipeline, again)
    for name in pipeline.names[: pipeline.names.index(start)] if start else ():
        if before is None or before.status(name) != "finished":
            raise UsageError(f"--from {start}: the earlier stage {name} is not finished", hint="Leave out --from.")
    with PipelineFolder.open(path, pipeline, again) as folder:
        for number, name in enumerate(wanted, start=1):
            stage = pipeline.stage(name)
            if folder.is_finished(stage):
                say(f"stage {number}/{len(pipeline.names)} {name}: finished before")
                continue
            say(f"stage {number}/{len(pipeline.names)} {name}: {stage.kind}, in {folder.of(stage)}")
            try:
                _timed(catalog, pipeline, stage, folder, device, say)
            except WaitsForPeople as people:
                return Outcome(path, _done(pipeline, folder), None, people.sheet)
        page = folder.of(pipeline.report) / "report.html"
        return Outcome(path, _done(pipeline, folder), page if page.is_file() else None)


def _done(pipeline: Pipeline, folder: PipelineFolder) -> list[str]:
    return [name for name in pipeline.names if folder.status(name) == "finished"]


def _timed(catalog: "Catalog", pipeline: Pipeline, stage: Stage, folder: PipelineFolder, device: str, say: Say) -> None:
    """Run a stage and record its time, earlier sessions included, and its results."""
    before, wall, cpu = folder.entry(stage.name), time.perf_counter(), time.process_time()
    options = pipeline.filled(stage.name, folder.outputs(pipeline))
    status, results = "begun", {}
    try:
        results = _run(catalog, pipeline, stage, options, folder, device, say)
        status = "finished"
    finally:
        spent = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
        seconds = {name: round(before.get(name, 0.0) + value, 1) for name, value in spent.items()}
        folder.record(stage.name, status=status, **seconds, **results)


def _run(
    catalog: "Catalog",
    pipeline: Pipeline,
    stage: Stage,
    options: Mapping[str, Any],
    folder: PipelineFolder,
    device: str,
    say: Say,
) -> dict[str, Any]:
    """Returns the results to record."""
    out = folder.of(stage)
    if stage.kind == "train":
        return _train(catalog, stage, options, out, device, say)
    # The rest leaves nothing half done, so a signal may end it at once.
    with StopRequest() as stop, stop.interrupts():
        out.mkdir(exist_ok=True)
        if stage.kind == "sample":
            return {"counts": sample_to(catalog, sample_config(stage, options), out / "answers.jsonl", device, say)}
        if stage.kind == "rank":
            return {"counts": rank_to(catalog, rank_config(stage, options), out / "rankings.jsonl", device, say)}
        from mmalign_pipeline.report import make_report

        return make_report(catalog, pipeline, report_config(stage, options), folder, device, say)


def _train(
    catalog: "Catalog", stage: Stage, options: Mapping[str, Any], out: Path, device: str, say: Say
) -> dict[str, Any]:
    from mmalign.train import run as launch
    from mmalign.train.plan import make_plan

    if (out / "run.json").is_file():
        outcome = launch.resume(out, catalog, sets=(), allow_change=False, device=device, say=say)
    else:
        plan = make_plan(catalog, stage.sections(options))
        outcome = launch.start(plan, catalog, folder=out, device=device, say=say)
    assert outcome is not None, "a pipeline is one process"
    return {"steps": outcome.summary["steps"], "before": dict(outcome.before), "after": dict(outcome.after)}
