"""What a finished run leaves for a person: curve.png, report.html (one file, no request) and a README.md model card."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mmalign.report import png_bytes, png_data_uri, write_report
from mmalign.rl.counts import worth_telling
from mmalign.train.baselines import HEADER, table
from mmalign.train.curves import FRONTIER, draw_curves, reward_against_kl
from mmalign.train.judge import Judged
from mmalign.train.plan import Plan
from mmalign.train.run_folder import Run

_NOT_USED = ("heldout/left_out", "heldout/unreadable")


def write_reports(run: Run, plan: Plan, uninterpolated: Mapping[str, float] | None) -> None:
    """Write the three files from metrics.jsonl and run.json."""
    records = [record for record in run.metrics() if "loss" in record]
    figure = draw_curves(records)
    curve = png_bytes(figure)
    (run.folder / "curve.png").write_bytes(curve)
    summary, names = run.info["summary"], run.info["plan"]
    commands = summary["next"]
    names = {**names, "dataset": run.info["data"]["source"]}
    data_rows = [
        (name, value if isinstance(value, str) else json.dumps(value)) for name, value in run.info["data"].items()
    ]
    context = {
        "title": f"{names['objective']} on {names['backbone']}",
        "status": "finished",
        "summary": [*_figures(summary), *names.items()],
        "metrics": metric_rows(summary["judged"], uninterpolated),
        "metrics_header": metric_header(uninterpolated),
        "metrics_note": verdict_note(summary["judged"]),
        "advice": summary["advice"],
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
        "training_seconds": "seconds of steps",
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
    return ["held-out", "before", *(["trained"] if uninterpolated else []), "after", "95% of the change", "verdict"]


def metric_rows(
    rows: Sequence[Mapping[str, Any]], uninterpolated: Mapping[str, float] | None = None
) -> list[tuple[str, ...]]:
    """rows: of `judge`, as JSON. (name, before, [trained,] after, interval of the change, verdict) as text.

    The ends of the figures' own intervals, and counts of examples that were not used where there are none, are in
    metrics.jsonl alone.
    """

    def cells(row: Judged) -> tuple[str, ...]:
        trained = [_number(uninterpolated.get(row.name))] if uninterpolated else []
        interval = "" if row.low is None or row.high is None else f"{row.low:+.3g} to {row.high:+.3g}"
        return (row.name, _number(row.before), *trained, _number(row.after), interval, row.told)

    judged = [Judged(**row) for row in rows]
    return [cells(row) for row in judged if row.name not in _NOT_USED or row.before or row.after]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def verdict_note(rows: Sequence[Mapping[str, Any]]) -> str:
    """How the intervals came about, in a sentence; empty where there are none."""
    ways = {row["by"] for row in rows} - {""}
    told = {
        "paired": "on the same examples both times (jackknife over parts of the held-out data)",
        "intervals": "from the two figures' own intervals",
    }
    note = [f"The change with its 95% interval: {'; or '.join(told[way] for way in sorted(ways))}."] if ways else []
    few = any(row["verdict"] == "too few" for row in rows)
    return " ".join([*note, *(["So few held-out examples do not tell better from worse."] if few else [])])


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
        f"| {' | '.join(metric_header(None))} |",
        "|---" * len(metric_header(None)) + "|",
        *(f"| {' | '.join(row)} |" for row in metric_rows(summary["judged"])),
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
