"""What a finished run leaves for a person: curve.png, report.html (one file, no request) and a README.md model card."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmalign.capabilities import Capability
from mmalign.evaluate.intervals import is_bound
from mmalign.report import png_bytes, png_data_uri, write_report
from mmalign.train.baselines import HEADER, table
from mmalign.train.plan import Plan
from mmalign.train.rundir import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NOT_CURVES = ("step", "peak_memory_mb")
_NOT_USED = ("heldout/left_out", "heldout/unreadable")
_EXACT = ("learning_rate", "scale")  # no noise to average away


def write_reports(run: Run, plan: Plan, uninterpolated: Mapping[str, float] | None) -> None:
    """Write the three files from metrics.jsonl and run.json."""
    records = [record for record in run.metrics() if "loss" in record]
    figure = draw_curves(records)
    curve = png_bytes(figure)
    (run.folder / "curve.png").write_bytes(curve)
    summary, names = run.info["summary"], run.info["plan"]
    commands = summary["next"]
    rows = [
        (name, str(summary[name])) for name in ("steps", "examples", "seconds", "examples_per_second", "peak_memory_mb")
    ]
    rows += [(name, str(summary[name])) for name in ("tokens", "tokens_per_second") if name in summary]
    rows += [
        ("unreadable samples", str(summary["unreadable_samples"])),
        ("truncated texts", str(summary["truncated_texts"])),
        ("skipped updates", str(summary["skipped_updates"])),
    ]
    rows += [(name, value) for name, value in names.items()]
    data_rows = [
        (name, value if isinstance(value, str) else json.dumps(value)) for name, value in run.info["data"].items()
    ]
    context = {
        "title": f"{names['objective']} on {names['backbone']}",
        "status": "finished",
        "summary": rows,
        "metrics": metric_rows(summary["before"], summary["after"], uninterpolated),
        "metrics_header": metric_header(uninterpolated),
        "figures": [("Training, every step", png_data_uri(curve))],
        "tables": [
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


def _comparison_table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    title = "Beside the starting model, which was not trained"
    return [{"title": title, "header": list(HEADER), "rows": table(rows)}] if rows else []


def _samples_table(samples: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    rows = [(sample["prompt"], sample["before"], sample["after"]) for sample in samples]
    return [{"title": "What it writes", "header": ["prompt", "before", "after"], "rows": rows}] if rows else []


def draw_curves(records: Sequence[Mapping[str, Any]]) -> "Figure":
    """One small panel a metric: the raw values, thin, and their running mean."""
    from matplotlib.figure import Figure

    names = [name for name in dict.fromkeys(name for record in records for name in record) if name not in _NOT_CURVES]
    columns = min(3, max(1, len(names)))
    lines = max(1, -(-len(names) // columns))
    figure = Figure(figsize=(4.0 * columns, 2.5 * lines))
    # Fixed margins: a layout engine draws everything several times over.
    figure.subplots_adjust(left=0.06, right=0.985, top=1 - 0.14 / lines, bottom=0.16 / lines, wspace=0.22, hspace=0.42)
    for place, name in enumerate(names):
        axes = figure.add_subplot(lines, columns, place + 1)
        steps = [record["step"] for record in records if name in record and record[name] is not None]
        values = [record[name] for record in records if name in record and record[name] is not None]
        noisy = name not in _EXACT
        axes.plot(steps, values, color="#4477aa", linewidth=0.8 if noisy else 1.6, alpha=0.4 if noisy else 1.0)
        if noisy:
            axes.plot(steps, running_mean(values), color="#4477aa", linewidth=1.6)
        axes.set_title(name.replace("_", " "), fontsize=9)
        axes.tick_params(labelsize=7)
        axes.ticklabel_format(useOffset=False)
        axes.locator_params(nbins=5)
        axes.grid(alpha=0.25)
    return figure


def running_mean(values: Sequence[float], memory: float = 0.9) -> list[float]:
    """Exponential mean, corrected for its start."""
    means, total, weight = [], 0.0, 0.0
    for value in values:
        total, weight = memory * total + value, memory * weight + 1
        means.append(total / weight)
    return means


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


def _model_card(info: Mapping[str, Any], summary: Mapping[str, Any], commands: Sequence[str]) -> str:
    lines = [
        f"# {info['plan']['objective']} on {info['plan']['backbone']}",
        "",
        f"Trained with mmalign {info['versions']['mmalign']} on `{info['plan']['dataset']}`: {summary['steps']} steps, "
        f"{summary['examples']} examples, {summary['seconds']} s.",
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
