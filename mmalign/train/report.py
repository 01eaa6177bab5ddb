"""What a finished run leaves for a person: curve.png, report.html (one file, no request) and a README.md model card."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmalign.capabilities import Capability
from mmalign.evaluate.intervals import is_bound
from mmalign.report import png_bytes, png_data_uri, write_report
from mmalign.train.baselines import HEADER, table
from mmalign.train.counts import worth_telling
from mmalign.train.curves import FRONTIER, draw_curves, reward_against_kl
from mmalign.train.plan import Plan
from mmalign.train.rundir import Run

_NOT_USED = ("heldout/left_out", "heldout/unreadable")


def write_reports(run: Run, plan: Plan, uninterpolated: Mapping[str, float] | None) -> None:
    """Write the three files from metrics.jsonl and run.json."""
    records = [record for record in run.metrics() if "loss" in record]
    figure = draw_curves(records)
    curve = png_bytes(figure)
    (run.folder / "curve.png").write_bytes(curve)
    summary, names = run.info["summary"], run.info["plan"]
    commands = summary["next"]
    data_rows = [
        (name, value if isinstance(value, str) else json.dumps(value)) for name, value in run.info["data"].items()
    ]
    context = {
        "title": f"{names['objective']} on {names['backbone']}",
        "status": "finished",
        "summary": [*_figures(summary), *names.items()],
        "metrics": metric_rows(summary["before"], summary["after"], uninterpolated),
        "metrics_header": metric_header(uninterpolated),
        "figures": [("Training, every step", png_data_uri(curve)), *_frontier(records)],
        "tables": [
            *_counts_table(summary["counts"]),
            *_comparison_table(summary["comparison"]),
            *_samples_table(summary["samples"]),
            {"title": "Data", "header": ["", ""], "rows": data_rows},
            {"title": "Versions", "header": ["", ""], "rows": list(run.info["versions"].items())},
        ],
        "warnings": [],
        "config_yaml": plan.to_yaml(),
        "next_commands": commands,
    }
    write_report(run.folder / "report.html", "train.html", context)
    (run.folder / "README.md").write_text(_model_card(run.info, summary, commands), encoding="utf-8")


def _figures(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Of an online objective an example is a prompt, to which many answers are sampled."""
    counts = summary["counts"]
    read = "prompts" if "answers" in counts else "examples"
    names = {
        "steps": "steps",
        "examples": read,
        "seconds": "seconds",
        "examples_per_second": f"{read} a second",
        "peak_memory_mb": "peak memory, MB",
        "tokens": "tokens",
        "tokens_per_second": "tokens a second",
        "unreadable_samples": "unreadable samples",
        "truncated_texts": "truncated texts",
        "skipped_updates": "skipped updates",
    }
    found = {shown: f"{summary[name]:,}" for name, shown in names.items() if name in summary}
    return [*found.items(), *([("answers", f"{counts['answers']:,}")] if "answers" in counts else [])]


def _counts_table(counts: Mapping[str, int]) -> list[dict[str, Any]]:
    rows = [(line,) for line in worth_telling(counts)]
    return [{"title": "Counted in training", "header": [""], "rows": rows}] if rows else []


def _frontier(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(caption, picture) where the records have both."""
    figure = reward_against_kl(records)
    return [(f"{FRONTIER}, every step", png_data_uri(png_bytes(figure)))] if figure else []


def _comparison_table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    title = "Beside the starting model, which was not trained"
    return [{"title": title, "header": list(HEADER), "rows": table(rows)}] if rows else []


def _samples_table(samples: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    rows = [(sample["prompt"], sample["before"], sample["after"]) for sample in samples]
    return [{"title": "What it writes", "header": ["prompt", "before", "after"], "rows": rows}] if rows else []


def metric_header(uninterpolated: Mapping[str, float] | None) -> list[str]:
    return ["held-out", "before", *(["trained"] if uninterpolated else []), "after"]


def metric_rows(
    before: Mapping[str, float], after: Mapping[str, float], uninterpolated: Mapping[str, float] | None
) -> list[tuple[str, ...]]:
    """(name, before, [trained,] after) as text, four digits.

    The ends of intervals, and counts of examples that were not used where there are none, are in metrics.jsonl alone.
    """

    def show(values: Mapping[str, float], name: str) -> str:
        return f"{values[name]:.4g}" if name in values else "-"

    columns = [before, *([uninterpolated] if uninterpolated else []), after]
    names = {**before, **after}
    nothing = {name for name in _NOT_USED if not any(values.get(name) for values in columns)}
    return [
        (name, *(show(values, name) for values in columns))
        for name in names
        if name not in nothing and not is_bound(name, names)
    ]


def next_commands(model: Path, plan: Plan, prompts: Sequence[str] = ()) -> list[str]:
    """What to try with the saved model, by what its family can do. prompts: of the data, one of which may do."""
    heads = {role.head for role in plan.objective.spec.roles}
    if "scalar" in heads:
        return [f'mmalign score --backbone {model} --prompt "Question?" "One answer." "Another."']
    if "classes" in heads:
        code = (
            f"from transformers import pipeline; print(pipeline('text-classification', {str(model)!r})('A fine film.'))"
        )
        return [f"python -c {shlex.quote(code)}"]  # a classifier of transformers
    prompt = next((text for text in prompts if text.isprintable() and 0 < len(text) <= 60), "Once upon a time")
    uses = {
        Capability.ENCODE_IMAGE: f'mmalign zero-shot --backbone {model} --labels "a photo of a <object>"',
        Capability.GENERATE: f"mmalign generate --backbone {model} {shlex.quote(prompt)}",
    }
    found = [command for capability, command in uses.items() if capability in plan.source.family.provides]
    return [*found, f"mmalign train --objective {plan.objective.spec.name} --backbone {model}"]


def read(summary: Mapping[str, Any]) -> str:
    """ "32 examples", or how many prompts with how many answers."""
    counts, number = summary["counts"], f"{summary['examples']:,}"
    return f"{number} prompts with {counts['answers']:,} answers" if "answers" in counts else f"{number} examples"


def _model_card(info: Mapping[str, Any], summary: Mapping[str, Any], commands: Sequence[str]) -> str:
    lines = [
        f"# {info['plan']['objective']} on {info['plan']['backbone']}",
        "",
        f"Trained with mmalign {info['versions']['mmalign']} on `{info['plan']['dataset']}`: {summary['steps']} steps, "
        f"{read(summary)}, {summary['seconds']} s.",
        "",
        "| held-out | before | after |",
        "|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in metric_rows(summary["before"], summary["after"], None)),
        "",
        *_card_comparison(summary["comparison"]),
        "Options: `config.yaml`. Every step: `metrics.jsonl`. Use it:",
        "",
        *(f"    {command}" for command in commands),
        "",
    ]
    return "\n".join(lines)


def _card_comparison(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    if not rows:
        return []
    lines = [f"| {' | '.join(row)} |" for row in table(rows)]
    return [f"| {' | '.join(HEADER)} |", "|---" * len(HEADER) + "|", *lines, ""]
