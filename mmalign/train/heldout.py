"""Measurements on held-out data during a run: the objective's own loss, and every evaluation that fits.

results = measure(job, catalog)      # {"heldout/loss": 2.1, "retrieval/...": 0.4}
"""

import contextlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from mmalign.contract.batch import Batch
from mmalign.contract.evaluation import Runtime
from mmalign.contract.objective import Context, Phase
from mmalign.contract.specs import EvaluationSpec, ObjectiveSpec
from mmalign.data.loader import Sweep
from mmalign.device import release_freed_memory
from mmalign.evaluate.parts import Part, default_part
from mmalign.evaluate.runner import run_evaluation
from mmalign.registry.catalog import Catalog
from mmalign.stop import held_back
from mmalign.train.build import Job
from mmalign.train.judge import Direction, Estimates
from mmalign.train.snapshot import Moment
from mmalign.train.step import checked_counts, checked_loss, checked_outputs, total_loss

OWN = "heldout/"  # before the objective's own metrics
HELDOUT_LOSS = f"{OWN}loss"
_TERM, _PARTS = "term of the loss: ", 16


def measure(job: Job, catalog: Catalog, parts: dict[str, list[float]] | None = None) -> dict[str, float]:
    """Run every measurement in evaluation mode; leaves the job unchanged.

    parts: filled with leave-one-part-out values of the objective's own metrics, for a paired comparison of two
    measurements (`mmalign.train.judge`).
    """
    config = job.plan.evaluation
    runtime = Runtime(job.device, config.batch_size, job.engine.bf16 and job.device.type == "cuda")
    results: dict[str, float] = {}
    with undisturbed(job):
        job.models.eval()
        if job.num_heldout:
            results |= _heldout_loss(job, {} if parts is None else parts)
        for entry in job.plan.evaluations:
            part = part_for(job, catalog, entry.spec)
            if part is None:
                continue
            options = {"max_examples": config.max_examples}
            values = run_evaluation(catalog, entry, job.models["policy"], part, runtime, options)
            results |= {f"{entry.spec.name}/{name}": float(value) for name, value in values.items()}
    return results


def main_figures(job: Job, results: Mapping[str, float]) -> dict[str, float]:
    """The metric that picks the best checkpoint, and each evaluation's primary metric."""
    primary = [f"{entry.spec.name}/{entry.spec.primary}" for entry in job.plan.evaluations]
    return {name: results[name] for name in (OWN + job.plan.objective.spec.best_by[0], *primary) if name in results}


def best(
    spec: ObjectiveSpec, so_far: dict[str, Any] | None, step: int, results: Mapping[str, float]
) -> dict[str, Any] | None:
    """{"step", "value"} of these results if they beat `so_far`, else `so_far`."""
    name, better = spec.best_by
    value = results.get(OWN + name)
    if value is None or not math.isfinite(value):
        return so_far
    if so_far is None or (value < so_far["value"] if better == "low" else value > so_far["value"]):
        return {"step": step, "value": value}
    return so_far


@contextlib.contextmanager
def undisturbed(job: Job) -> Iterator[None]:
    """Restore random state, module modes and the objective's own state afterwards, even after a signal.

    An interrupted evaluation is repeated later, and must not count twice. On a CPU, freed memory is returned to the
    system before and after, since measurements and training rarely reuse each other's blocks.
    """
    give_back = release_freed_memory if job.device.type == "cpu" else lambda: None
    give_back()
    before = Moment(job)
    modes = [(module, module.training) for root in job.models.modules() for module in root.modules()]
    try:
        yield
    finally:
        with held_back():  # a second signal would save a state that is half restored
            for module, mode in modes:
                module.training = mode
            before.restore()
        give_back()


def part_for(job: Job, catalog: Catalog, evaluation: EvaluationSpec) -> Part | None:
    """The run's held-out data if the evaluation takes their kind, else default data of one of its kinds, else None."""
    plan = job.plan
    for kind in sorted(evaluation.kinds, key=lambda kind: kind != plan.kind):
        if kind in plan.dataset.spec.kinds:
            config = plan.configs["dataset"].model_copy(update=plan.dataset.spec.options(kind))
            data = job.heldout if kind == plan.kind else plan.dataset_class.build(config, "validation")
            return None if data is None else Part(plan.dataset, plan.dataset_class, config, kind, "validation", data)
    # The run does not train on default data, so all of them count as held out if none are set aside.
    return next(filter(None, (default_part(catalog, kind) for kind in evaluation.kinds)), None)


@torch.no_grad()
def _heldout_loss(job: Job, without: dict[str, list[float]]) -> dict[str, float]:
    """Mean loss and metrics, and the number of examples.

    A coupled loss depends on the batch size, so a short batch is left out unless it is the only one.
    """
    objective, sums, counts, estimates = job.objective, {}, {}, Estimates()
    metrics: dict[str, list[float]] = {}
    size = min(job.plan.train.batch_size, job.plan.evaluation.max_examples)
    sweep = Sweep(job.heldout, job.encoder, size, limit=job.plan.evaluation.max_examples, max_bad=job.plan.data.max_bad)
    left_out, used = 0, Counter[str]()
    measured = min(job.num_heldout, job.plan.evaluation.max_examples)
    for number, batch in enumerate(sweep):
        if objective.coupled and number and len(batch) < size:
            left_out += len(batch)
            continue
        ctx = Context(job.plan.train.seed, -1 - number, lambda tensor: tensor, _chunk(job))
        batch = job.with_frozen(batch.to(job.device))
        with job.engine.autocast():
            batch = job.feed.complete_heldout(job.models["policy"], batch, ctx, measured)
            batch = objective.prepare(job.models, batch, ctx)  # evaluation mode
        used.update(job.feed.sizes(batch))
        for part_sums, part_metrics, part_counts in _losses(job, batch):
            for name, value in part_sums.items():
                sums[name] = sums.get(name, 0.0) + value
            for name, value in part_counts.items():
                counts[name] = counts.get(name, 0.0) + float(value)
            for name, (total, count) in part_metrics.items():
                entry = metrics.setdefault(name, [0.0, 0.0])
                entry[0] += float(total)
                entry[1] += float(count)
            terms = {f"{_TERM}{name}": (float(value), float(part_counts[name])) for name, value in part_sums.items()}
            estimates.add(terms | {name: (float(total), float(count)) for name, (total, count) in part_metrics.items()})
    if not sums:
        return {}
    figures = _figures(job, sums, counts, metrics)
    for rest in estimates.without():
        terms = {name.removeprefix(_TERM): pair for name, pair in rest.items() if name.startswith(_TERM)}
        left = {name: list(pair) for name, pair in rest.items() if not name.startswith(_TERM)}
        sums_left, counts_left = ({name: pair[index] for name, pair in terms.items()} for index in (0, 1))
        for name, value in _figures(job, sums_left, counts_left, left).items():
            without.setdefault(name, []).append(value)
    if not job.feed.comparable_loss:  # its value means nothing
        figures.pop(HELDOUT_LOSS)
        without.pop(HELDOUT_LOSS, None)
    told = {**used, "left_out": left_out, "unreadable": len(sweep.bad)}
    return figures | {f"{OWN}{name}": float(number) for name, number in told.items()}


def _figures(
    job: Job, sums: Mapping[str, Any], counts: Mapping[str, float], metrics: Mapping[str, Sequence[float]]
) -> dict[str, float]:
    """The loss from its terms' sums and counts, then the means of the metrics that apply to held-out data."""
    loss, _ = total_loss(sums, counts, job.engine.weights)
    told = {name: pair for name, pair in metrics.items() if name not in job.plan.objective.spec.of_updates}
    return {HELDOUT_LOSS: float(loss)} | {f"{OWN}{name}": total / n for name, (total, n) in told.items() if n}


def directions(job: Job) -> dict[str, Direction]:
    """The held-out metrics whose better direction is known: the loss, the accuracy, the metric that picks the best
    checkpoint, and each evaluation's primary metric."""
    name, better = job.plan.objective.spec.best_by
    known: dict[str, Direction] = {HELDOUT_LOSS: "low", f"{OWN}accuracy": "high", OWN + name: better}
    for entry in job.plan.evaluations:
        known[f"{entry.spec.name}/{entry.spec.primary}"] = "high" if entry.spec.higher_is_better else "low"
    return known


def _chunk(job: Job) -> int:
    """Examples per forward pass."""
    return job.feed.heldout_chunk(job.plan.train.micro_batch_size, job.plan.evaluation.batch_size)


def _share(job: Job) -> int:
    """Examples per part: few enough to give parts for an interval, unless the objective is coupled."""
    number = min(job.num_heldout, job.plan.evaluation.max_examples)
    return _chunk(job) if job.objective.coupled else max(1, min(_chunk(job), -(-number // _PARTS)))


def _losses(job: Job, batch: Batch) -> Iterator[tuple[Any, Any, Any]]:
    objective, engine = job.objective, job.engine

    def forward(phase: Phase, micro: Batch) -> Any:
        with engine.autocast():
            return checked_outputs(objective, phase.forward(job.models, micro), micro)

    passes = -(-len(batch) // _share(job))
    micros = batch.split(-(-len(batch) // passes))  # equal sizes: a last one of a single example would cost a pass
    if not objective.coupled:
        for micro in micros:
            sums, metrics, counts = {}, {}, {}
            for phase in engine.of(batch):
                terms, told = checked_loss(objective, phase.loss(forward(phase, micro), micro))
                sums |= terms
                metrics |= told
                counts |= checked_counts(objective, phase.count(micro))
            yield sums, metrics, counts
        return
    cached = [forward(objective, micro) for micro in micros]
    outputs = {name: torch.cat([values[name] for values in cached]) for name in cached[0]}
    loss = checked_loss(objective, objective.loss(outputs, Batch({}, size=len(batch))))
    yield *loss, checked_counts(objective, objective.count(batch))
