"""Start and resume a run, for `mmalign train`.

outcome = start(plan, catalog, folder=Path("runs/x"), device="auto", say=print)
outcome = resume(Path("runs/x"), catalog, sets=[], allow_change=False, device="auto", say=print)
"""

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mmalign.config.section import Section
from mmalign.config.validate import MOVED_OPTIONS
from mmalign.contract.backbone import NamesPlaces
from mmalign.display import Display, Say, display_of
from mmalign.errors import CheckpointError, MmalignError, UsageError
from mmalign.files import write_text
from mmalign.models.digest import folder_digest
from mmalign.registry.catalog import Catalog
from mmalign.stop import Interrupted, StopRequest, interruptible
from mmalign.train import checkpoint
from mmalign.train.build import assemble
from mmalign.train.distributed import Processes
from mmalign.train.finish import Outcome, finish, finished
from mmalign.train.fit import KEY, take_up
from mmalign.train.judge import FEW_HELDOUT
from mmalign.train.layers import load_layers
from mmalign.train.length import never_warm, passes
from mmalign.train.loop import Loop
from mmalign.train.next_steps import data_name
from mmalign.train.plan import Plan, make_plan
from mmalign.train.prefill import prefill
from mmalign.train.preview import preview
from mmalign.train.run_folder import Run, default_folder, package_versions
from mmalign.train.shortage import explained
from mmalign.train.tracking import Trackers

_OF_LEARNING = ("train", "data", "evaluation")
_EXACT = ("torch", "transformers", "open_clip_torch")  # another version may round differently


def start(plan: Plan, catalog: Catalog, *, folder: Path | None, device: str, say: Say) -> Outcome | None:
    """Begin a new run in `folder` (None: runs/<objective>-<time>); raises UsageError if a run there made a step.

    Returns None on every process but the main one, as `resume` does.
    """
    say = display_of(say)
    say.begin("loading")
    processes = Processes(device)
    chosen: Path = processes.gather_objects(folder or default_folder(plan.objective.spec.name))[0]
    if plan.train.wise_ft < 1 and not _has_starting_weights(plan):
        raise UsageError(
            "train.wise_ft interpolates with pretrained weights; this backbone starts from random ones",
            hint="Leave train.wise_ft at 1, or name a pretrained backbone.",
        )
    run = None
    if processes.is_main:
        info = {"plan": plan.names(), "device": str(processes.device), "num_threads": torch.get_num_threads()}
        info |= {"starting_weights": _starting_weights(plan), KEY: None}
        run = Run.create(chosen, plan.to_yaml(), info)
    processes.barrier()
    if processes.is_main:
        if run is not None and run.took_over:
            say(f"{chosen} held a run that made no step; this run replaces it")
        say(f"{headline(plan)}; run folder {chosen}")
        if plan.source.note:
            say(plan.source.note)
        for line in plan.explanations():
            say(line)
    try:
        return _execute(plan, catalog, processes, run or Run.observe(chosen), say)
    except MmalignError:
        # Free the folder's name for a corrected command.
        if run is not None and run.is_bare():
            run.remove()
        raise


def resume(
    folder: Path, catalog: Catalog, *, sets: Sequence[str], allow_change: bool, device: str, say: Say
) -> Outcome | None:
    """Continue an interrupted run exactly; raises UsageError for changed options unless `allow_change`."""
    config = folder / "config.yaml"
    if not config.is_file():
        raise UsageError(f"{folder} holds no run", hint="Give a folder that mmalign train made.")
    plan = make_plan(catalog, _as_now(load_layers(files=[config])))
    changed = make_plan(catalog, _as_now(load_layers(files=[config], sets=sets))) if sets else plan
    drift = _differences(plan.to_dict(), changed.to_dict())
    if drift and not allow_change:
        raise UsageError(
            "these options differ from the run's:\n" + "\n".join(drift), hint="Add --allow-change to use them."
        )
    before = Run.observe(folder)
    before.close()
    recorded = before.info["device"].partition(":")[0]
    if device not in ("auto", recorded) and not allow_change:
        raise UsageError(
            f"the run used {recorded}; on {device} it would not continue exactly",
            hint="Add --allow-change to accept that.",
        )
    if _starting_weights(plan) != before.info["starting_weights"] and not allow_change:
        raise CheckpointError(
            f"{' or '.join(map(str, plan.source.places))} changed since the run started from it",
            hint="Restore it, or add --allow-change to use the new weights as the run's starting weights.",
        )
    processes = Processes(recorded if device == "auto" else device)
    run = Run.reopen(folder) if processes.is_main else Run.observe(folder)
    if run.info["status"] == "finished" and not drift:
        outcome = finished(run) if processes.is_main else None
        if outcome is not None:
            say(f"{folder} is finished already; its model is {outcome.model}")
            say("for more steps: --set train.steps=N --allow-change")
        processes.close()
        return outcome
    # Rounding of sums depends on the number of threads, so an exact continuation needs the same number.
    torch.set_num_threads(run.info["num_threads"])
    if processes.is_main:
        for line in _other_versions(run.info["versions"]):
            say(line)
        run.write_info(status="running", device=str(processes.device))
    main = processes.is_main and bool(drift)
    # Written only after the checkpoint is loaded: options that do not fit it leave the run unchanged.
    accept = (lambda: write_text(config, changed.to_yaml())) if main else lambda: None
    return _execute(changed, catalog, processes, run, say, accept, fits_anew=_takes_other_memory(plan, changed))


def _as_now(sections: dict[str, Section]) -> dict[str, Section]:
    """Move the options of an earlier version's run to their new sections."""
    for old, new in MOVED_OPTIONS.items():
        (section, key), (new_section, new_key) = old.split("."), new.split(".")
        if key in sections[section]:
            sections[new_section].setdefault(new_key, sections[section].pop(key))
    return sections


def _execute(
    plan: Plan,
    catalog: Catalog,
    processes: Processes,
    run: Run,
    say: Say,
    resumed: Callable[[], None] = lambda: None,
    *,
    fits_anew: bool = False,
) -> Outcome | None:
    host, error, trackers = catalog.host, None, None
    talk = display_of(say) if processes.is_main else Display(lambda line: None)
    try:
        with StopRequest() as stop:
            talk.heed(lambda: stop.signal is not None)
            talk.begin("loading")
            with (
                explained(plan, lambda: plan.train.micro_batch_size, "for the models"),
                stop.interrupts_alone(processes.world_size),  # nothing is lost while models and data are loaded
            ):
                job = assemble(plan, processes, talk)
            take_up(job, {KEY: None} if fits_anew else run.info)
            if processes.is_main:
                report, facts = job.data.report(), dict(job.models["policy"].describe())
                run.write_info(data=dict(report), backbone=facts)
                if "note" in facts:
                    talk(facts["note"])
                for reason, count in report["skipped"].items():
                    talk(f"{count:,} left out of {report['source']}: {reason}")
                for reason, count in report.get("ignored", {}).items():
                    talk(f"{count:,} ignored in {report['source']}: {reason}")
                for note in report.get("notes", ()):
                    talk(note)
                for warning in host.notify("run_started", run=run):
                    talk(warning)
                trackers = Trackers(plan.trackers, catalog, run, talk)
            for note in job.models.notes:
                talk(note)
            talk(passes(job.plan.train, len(job.data), job.feed.unit))
            if cold := never_warm(job.plan.train):
                talk(cold)
            if 0 < job.num_heldout < FEW_HELDOUT and job.feed.comparable_loss:  # few prompts can have many answers
                talk(f"only {job.num_heldout} held-out examples: held-out figures will say little")
            talk.stage("looking at the data")
            if processes.is_main:
                for line in preview(job):
                    talk(line)
            # `prefill` and `finish` leave no state that a resume needs, so a signal ends them at once on all processes.
            together = functools.partial(interruptible, stop, processes.gather_objects)
            together(lambda: prefill(job, run.folder, run.info["starting_weights"], talk))
            loop = Loop(job, run, catalog, talk)
            loop.go(stop, functools.partial(_taken_up, run, trackers, resumed))
            counts = processes.gather_objects((loop.truncated_texts, loop.tokens))
            return together(lambda: finish(job, loop, counts, run, catalog, talk))
    except BaseException as exception:
        error = exception
        if processes.is_main:
            status = "interrupted" if isinstance(exception, Interrupted | KeyboardInterrupt) else "failed"
            with contextlib.suppress(MmalignError):  # on a full disk the first error is the one to show
                run.write_info(status=status, error=f"{type(exception).__name__}: {exception}")
        if isinstance(exception, Interrupted):
            state = "saved" if checkpoint.committed(run.checkpoints) else "no step was made yet"
            talk(f"stopped by {exception}; {state}")
            exception.told = True
            exception.folder = run.folder if processes.is_main else None
        raise
    finally:
        if trackers is not None:
            trackers.close()
        if processes.is_main:
            for warning in host.notify("run_finished", run=run, error=error):
                talk(warning)
        run.close()
        processes.close()


def _taken_up(run: Run, trackers: Trackers | None, resumed: Callable[[], None]) -> None:
    """Called when the newest checkpoint is loaded and metrics.jsonl ends at its step."""
    resumed()
    if trackers is not None:
        trackers.catch_up()
        run.observers.append(trackers.record)


def headline(plan: Plan) -> str:
    """The objective, the backbone and the data in a line."""
    names = plan.names()
    how = f" ({plan.verdict.explain()})" if plan.verdict.derived else ""
    return f"{names['objective']} on {names['backbone']}{how} with {data_name(plan)}"


def _has_starting_weights(plan: Plan) -> bool:
    """A source with neither folder nor tag is only an architecture."""
    return plan.source.folder is not None or "/" in plan.source.name


def _other_versions(recorded: Mapping[str, str]) -> list[str]:
    """A line if a numerical library has another version than when the run began."""
    now = package_versions()
    changed = [f"{n} {recorded.get(n, '?')} -> {now.get(n, '?')}" for n in _EXACT if recorded.get(n) != now.get(n)]
    return [f"{', '.join(changed)}: the run continues, but its last digits may differ"] if changed else []


def _starting_weights(plan: Plan) -> str | None:
    """A hash of the files of the backbone, of roles and of those that options name, which a resume reads again."""
    options = [plan.configs[section] for section in ("backbone", "objective")]
    named = [path for config in options if isinstance(config, NamesPlaces) for path in config.places()]
    named += plan.feed_class.places(plan.catalog, plan.rollout)
    of_roles = [path for source in plan.role_sources.values() for path in source.places]
    return "+".join(map(folder_digest, (*plan.source.places, *of_roles, *named))) or None


def _takes_other_memory(old: Plan, new: Plan) -> bool:
    """Whether an option changed that affects the memory of a pass."""
    keys = {"batch_size", "micro_batch_size", "precision", "gradient_checkpointing", "compile", "ema_decay"}
    others = [section for section in old.configs if section not in _OF_LEARNING]
    return (
        old.streams != new.streams
        or old.train.model_dump(include=keys) != new.train.model_dump(include=keys)
        or any(old.configs[section] != new.configs[section] for section in others)
    )


def _differences(old: Mapping[str, Mapping[str, Any]], new: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [
        f"  {section}.{key}: {old.get(section, {}).get(key)!r} -> {value!r}"
        for section, values in new.items()
        for key, value in values.items()
        if old.get(section, {}).get(key) != value
    ]
