"""The end of a run: interpolate, measure, save the model atomically, write the summary.

outcome = finish(job, loop, counts, run, catalog, say)
"""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mmalign.contract.batch import Batch
from mmalign.contract.trained import TrainedBy
from mmalign.data.loader import Sweep
from mmalign.display import Display
from mmalign.errors import CheckpointError
from mmalign.files import fsync
from mmalign.models.load import load_model
from mmalign.models.lora import scale_adapter
from mmalign.printable import with_nan
from mmalign.registry.catalog import Catalog, lasting_name
from mmalign.train import rng
from mmalign.train.baselines import compare
from mmalign.train.build import Job
from mmalign.train.heldout import OWN, directions, measure
from mmalign.train.judge import advice, judge
from mmalign.train.loop import Loop
from mmalign.train.next_steps import next_commands
from mmalign.train.plan import lasting_reference
from mmalign.train.preview import SURVEYED
from mmalign.train.progress import peak_memory
from mmalign.train.run_folder import Run
from mmalign.train.samples import side_by_side, write_samples
from mmalign.train.summary import total_counts

FINISH_TOKENS = 50_000  # read in an objective's last pass, which takes seconds


@dataclass(frozen=True)
class Outcome:
    """The results of a run. before, after: held-out measurements; model: the saved model's folder."""

    folder: Path
    model: Path
    before: Mapping[str, float]
    after: Mapping[str, float]
    summary: Mapping[str, Any]


def finished(run: Run) -> Outcome:
    """Read the outcome of a finished run."""
    recorded: dict[str, Any] = dict(run.info["summary"])  # earlier versions lack the keys of `missing`
    recorded |= {name: with_nan(recorded[name]) for name in ("before", "after")}
    judged = judge(recorded["before"], recorded["after"], {}, {}, {})
    missing: dict[str, Any] = {"counts": {}, "told": [], "training_seconds": recorded["seconds"], "advice": []}
    summary: dict[str, Any] = {**missing, "judged": [row._asdict() for row in judged], **recorded}
    run.close()
    return Outcome(run.folder, run.folder / "model", summary["before"], summary["after"], summary)


def finish(
    job: Job, loop: Loop, counts: list[tuple[int, int]], run: Run, catalog: Catalog, say: Display
) -> Outcome | None:
    """Interpolate, measure, save the model and write the summary, all on the main process.

    counts: (cut texts, tokens) of each process.
    """
    model = run.folder / "model"
    truncated, tokens = (sum(column) for column in zip(*counts, strict=True))
    if not job.processes.is_main:
        return None
    if job.average is not None:
        job.average.take_over()
        say(f"the model is the moving average of its weights (ema_decay {job.plan.train.ema_decay:g})")
    say.stage("evaluating")
    parts: dict[str, list[float]] = {}
    trained = after = measure(job, catalog, parts)
    if job.plan.train.wise_ft < 1:
        interpolate(job)
        after = measure(job, catalog, parts := {})
        say(f"interpolated with the starting weights (wise_ft {job.plan.train.wise_ft:g})")
    say.stage("sampling")
    written = write_samples(job)
    final = {"evaluation": after, "final": True, "before_interpolation": trained, "samples": written}
    run.log({"step": loop.step, **final})
    say.stage("saving")
    save_model(lambda partial: _save(job, partial), model)
    records = run.metrics()
    started: dict[str, Any] = next((r for r in records if r["step"] == 0 and "evaluation" in r), {})
    before = started.get("evaluation", {})
    judged = judge(before, after, started.get("parts", {}), parts, directions(job))
    main, best_step = OWN + job.plan.objective.spec.best_by[0], loop.best["step"] if loop.best else None
    comparable = frozenset(entry.spec.name for entry, _ in job.plan.baselines if entry.spec.comparable)
    summary = {
        "steps": loop.step,
        "examples": loop.step * job.plan.train.batch_size,
        "seconds": round(loop.seconds, 1),
        "training_seconds": round(loop.training_seconds, 1),
        **_rates(loop.step * job.plan.train.batch_size, tokens, loop.training_seconds),
        "peak_memory_mb": round(peak_memory(job.device) / 1e6),
        "unreadable_samples": len(loop.bad_samples),
        "truncated_texts": truncated,
        "skipped_updates": loop.skipped_updates,
        "counts": (counted := total_counts(records)),
        "told": job.feed.tell(counted),
        "next": next_commands(model, job.plan, job.heldout if job.num_heldout else job.data),
        "judged": [row._asdict() for row in judged],
        "advice": advice(judged, main, job.plan, best_step, dealt=_is_dealt(job)),
        "before": before,
        "after": after,
        "comparison": compare(started.get("baselines", []), after, job.plan.objective.spec.name, comparable),
        "samples": side_by_side(started.get("samples", []), written),
    }
    run.write_info(summary=summary)
    run.announce({"step": loop.step, "summary": summary})
    run.write_info(status="finished", error=None)
    return Outcome(run.folder, model, before, after, summary)


def _is_dealt(job: Job) -> bool:
    """Whether the held-out examples were split off the training data."""
    if job.heldout is None or job.plan.configs["dataset"].model_dump().get("validation"):
        return False
    return job.data.report().get("source") == job.heldout.report().get("source")


def _rates(examples: int, tokens: int, seconds: float) -> dict[str, Any]:
    """seconds: of the steps only; 0 if there were none."""

    def rate(number: int) -> float:
        return round(number / seconds, 1) if seconds else 0.0

    speed = {"examples_per_second": rate(examples)}
    return {**speed, "tokens": tokens, "tokens_per_second": rate(tokens)} if tokens else speed


@torch.no_grad()
def _save(job: Job, folder: Path) -> None:
    """Save the model with a record of its training data and measurements."""
    job.models.eval()
    sweep = Sweep(job.data, job.encoder, job.plan.evaluation.batch_size, limit=SURVEYED, max_bad=job.plan.data.max_bad)
    batches = (batch.to(job.device) for batch in _at_most(FINISH_TOKENS, sweep))
    job.objective.save(job.models, folder, batches)
    plan, policy = job.plan, job.models["policy"]
    random = bool(plan.source.size) or policy.describe().get("pretrained") is False
    TrainedBy(
        objective=lasting_name(plan.objective),
        comparison=job.objective.comparison,
        reference="" if random else lasting_reference(plan.source),
        backbone=plan.configs["backbone"].model_dump(mode="json"),
        dataset=lasting_name(plan.dataset),
        kind=plan.kind,
        options=plan.configs["dataset"].model_dump(mode="json"),
        fingerprint=job.data.fingerprint(),
        heldout=job.num_heldout,
        measured=min(job.num_heldout, plan.evaluation.max_examples),
    ).write(folder)


@torch.no_grad()
def interpolate(job: Job) -> None:
    """Set weights to a * trained + (1 - a) * starting, a = train.wise_ft (Wortsman 2022, WiSE-FT), floats only.

    Read the starting weights from the source again. With an adapter they are still there, so scale the adapter instead;
    only what trains beside it is read again.
    """
    share, seen, module = job.plan.train.wise_ft, set[int](), job.models["policy"].module
    state = module.state_dict()
    if scale_adapter(module, share):
        beside = {name for name, each in module.named_parameters() if each.requires_grad and "lora_" not in name}
        state = {name: tensor for name, tensor in state.items() if name in beside}
    if not state:
        return
    rng.seed_everything(job.plan.train.seed, rank=0)  # weights that no file holds are drawn as at the start
    needs = [need for role in job.plan.objective.spec.roles if role.name == "policy" for need in role.needs]
    start = load_model(job.plan.catalog, job.plan.source, job.plan.configs["backbone"], needs=needs)
    starting = start.module.state_dict()
    for name, tensor in state.items():
        if tensor.is_floating_point() and (not tensor.numel() or tensor.data_ptr() not in seen):  # tied tensors once
            seen.add(tensor.data_ptr())
            tensor.lerp_(starting[name].to(tensor.device, tensor.dtype), 1 - share)


def _at_most(tokens: int, batches: Iterable[Batch]) -> Iterator[Batch]:
    """Yield batches until they hold this many tokens: a ranking of many answers costs as much as many examples."""
    for batch in batches:
        yield batch
        tokens -= batch.cost()
        if tokens <= 0:
            return


def save_model(save: Callable[[Path], None], folder: Path) -> None:
    """Call `save` and move its result to `folder` atomically, replacing an older model."""
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save(partial)
        for path in (*partial.rglob("*"), partial):
            fsync(path)
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(partial, folder)
        fsync(folder.parent)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(
            f"cannot save the model to {folder}: {error}", hint="Free space, then continue with --resume."
        ) from error
