"""Evaluate the starting model, to compare the trained one with it: few-shot prompting beside a trained classifier.

    mmalign train --objective classify --set 'evaluation.baselines=[{"name": "few-shot", "shots": 8}]'

    baselines = measure_baselines(job, catalog, say)              # before the first step
    rows = compare(baselines, after, "classify", frozenset())     # metric, its 95% interval, number of examples

Users or recipes name them; there is no default, because an evaluation's options may suit only one data set.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmalign.contract.evaluation import Runtime
from mmalign.evaluate.intervals import wilson
from mmalign.evaluate.runner import run_evaluation
from mmalign.registry.catalog import Catalog
from mmalign.train.build import Job
from mmalign.train.heldout import part_for, undisturbed

HEADER = ("held-out", "figure", "95% interval", "examples")


def measure_baselines(job: Job, catalog: Catalog, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Run `evaluation.baselines`, on the run's held-out data if they fit.

    Returns [{"evaluation", "what", "metric", "results"}, ...].
    """
    config, baselines, began = job.plan.evaluation, [], time.perf_counter()
    runtime = Runtime(job.device, config.batch_size, job.engine.bf16 and job.device.type == "cuda")
    with undisturbed(job):
        job.models.eval()
        for entry, options in job.plan.baselines:
            part = part_for(job, catalog, entry.spec)
            if part is None:
                continue
            wanted = {"max_examples": config.max_examples, **options}
            results = run_evaluation(catalog, entry, job.models["policy"], part, runtime, wanted)
            shown = ", ".join(f"{name} {value}" for name, value in options.items() if name != "max_examples")
            label = f"{entry.spec.name}{f' ({shown})' if shown else ''}"
            baselines.append(
                {"evaluation": entry.spec.name, "what": label, "metric": entry.spec.primary, "results": results}
            )
    if baselines:
        values = ", ".join(f"{b['what']} {b['metric']} {b['results'][b['metric']]:.3f}" for b in baselines)
        say(f"the starting model, for comparison: {values} ({time.perf_counter() - began:.1f} s)")
    return baselines


def compare(
    baselines: Sequence[Mapping[str, Any]], after: Mapping[str, float], objective: str, comparable: frozenset[str]
) -> list[dict[str, Any]]:
    """For each metric: rows for the trained model (if comparable), each baseline, and the majority class.

    comparable: evaluations whose metric can be compared with the objective's held-out metric of the same name.
    """
    rows: list[dict[str, Any]] = []
    for metric in dict.fromkeys(baseline["metric"] for baseline in baselines):
        same = [baseline for baseline in baselines if baseline["metric"] == metric]
        number = after.get("heldout/examples")
        if number and f"heldout/{metric}" in after and all(baseline["evaluation"] in comparable for baseline in same):
            value = after[f"heldout/{metric}"]
            rows.append(_row(f"{objective}, trained: {metric}", value, wilson(value * number, number), number))
        for baseline in same:
            results = baseline["results"]
            low, high = (results.get(f"{metric}_{end}") for end in ("low", "high"))
            interval = (low, high) if low is not None and high is not None else None
            rows.append(_row(f"starting model, {baseline['what']}", results[metric], interval, results.get("examples")))
        results = max((baseline["results"] for baseline in same), key=lambda results: results.get("examples", 0))
        if "majority" in results:
            rows.append(_row("always the commonest class", results["majority"], None, results.get("examples")))
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Rows of text under HEADER."""
    return [
        (
            row["what"],
            f"{row['value']:.3f}" if row["value"] <= 1 else f"{row['value']:.4g}",
            f"{row['interval'][0]:.3f} to {row['interval'][1]:.3f}" if row["interval"] else "-",
            f"{row['examples']:,.0f}" if row["examples"] is not None else "-",
        )
        for row in rows
    ]


def _row(label: str, value: float, interval: tuple[float, float] | None, examples: float | None) -> dict[str, Any]:
    return {"what": label, "value": value, "interval": interval, "examples": examples}
