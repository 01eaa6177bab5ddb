"""The page of a finished run: curve.png, report.html (one file, no request) and README.md, a model card."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmalign.contract.tracker import Tracker, TrackerConfig
from mmalign.report import png_bytes, png_data_uri, write_report
from mmalign.train.baselines import HEADER, table
from mmalign.train.curves import FRONTIER, draw_curves, reward_against_kl
from mmalign.train.summary import metric_header, metric_rows, verdict_note, what_was_read

if TYPE_CHECKING:
    from mmalign.contract.run import Run

_TEMPLATE = Path(__file__).with_name("train.html")


class Page(Tracker):
    """Waits for the run's summary, then writes the page."""

    Config = TrackerConfig
    kinds = frozenset({"summary"})

    def record(self, record: Mapping[str, Any]) -> None:
        write_page(self.run, record["summary"])


def write_page(run: "Run", summary: Mapping[str, Any]) -> None:
    """Write the three files into the run's folder; raises MmalignError where one cannot be written."""
    every = run.metrics()
    records = [record for record in every if "loss" in record]
    final: Mapping[str, Any] = next((record for record in reversed(every) if record.get("final")), {})
    trained = final.get("before_interpolation")
    uninterpolated = trained if trained != final.get("evaluation") else None
    figure = draw_curves(records)
    curve = png_bytes(figure)
    (run.folder / "curve.png").write_bytes(curve)
    names = {**run.info["plan"], "dataset": run.info["data"]["source"]}
    commands = summary["next"]
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
            *_counts_table(summary["told"]),
            *_comparison_table(summary["comparison"]),
            *_samples_table(summary["samples"]),
            {"title": "Data", "header": ["", ""], "rows": data_rows},
            {"title": "Versions", "header": ["", ""], "rows": list(run.info["versions"].items())},
        ],
        "warnings": [],
        "config_yaml": (run.folder / "config.yaml").read_text(encoding="utf-8"),
        "next_commands": commands,
    }
    write_report(run.folder / "report.html", _TEMPLATE, context)
    (run.folder / "README.md").write_text(_model_card(run.info, summary, commands), encoding="utf-8")


def _figures(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values. An example of an online objective is a prompt, to which many answers are sampled."""
    counts = summary["counts"]
    unit = "prompts" if "answers" in counts else "examples"
    names = {
        "steps": "steps",
        "examples": unit,
        "seconds": "seconds",
        "training_seconds": "seconds of steps",
        "examples_per_second": f"{unit} a second",
        "peak_memory_mb": "peak memory, MB",
        "tokens": "tokens",
        "tokens_per_second": "tokens a second",
        "unreadable_samples": "unreadable samples",
        "truncated_texts": "truncated texts",
        "skipped_updates": "skipped updates",
    }
    figures = [(shown, f"{summary[name]:,}") for name, shown in names.items() if name in summary]
    return [*figures, *([("answers", f"{counts['answers']:,}")] if "answers" in counts else [])]


def _counts_table(lines: Sequence[str]) -> list[dict[str, Any]]:
    rows = [(line,) for line in lines]
    return [{"title": "Counted in training", "header": [""], "rows": rows}] if rows else []


def _frontier(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(caption, picture) of reward against KL, if the records have both."""
    figure = reward_against_kl(records)
    return [(f"{FRONTIER}, every step", png_data_uri(png_bytes(figure)))] if figure else []


def _comparison_table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    title = "Compared with the starting model"
    return [{"title": title, "header": list(HEADER), "rows": table(rows)}] if rows else []


def _samples_table(samples: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    rows = [(sample["prompt"], sample["before"], sample["after"]) for sample in samples]
    return [{"title": "What it writes", "header": ["prompt", "before", "after"], "rows": rows}] if rows else []


def _model_card(info: Mapping[str, Any], summary: Mapping[str, Any], commands: Sequence[str]) -> str:
    lines = [
        f"# {info['plan']['objective']} on {info['plan']['backbone']}",
        "",
        f"Trained with mmalign {info['versions']['mmalign']} on `{info['plan']['dataset']}`: {summary['steps']} steps, "
        f"{what_was_read(summary)}, {summary['seconds']} s.",
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
