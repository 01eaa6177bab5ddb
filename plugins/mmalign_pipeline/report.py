"""One page about a pipeline: report.html and report.json, with every judged answer in answers.jsonl.

record = make_report(catalog, pipeline, config, folder, device, say)     # the report's entry in pipeline.json
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmalign.files import write_text
from mmalign.printable import without_nan
from mmalign_pipeline.answers import write_rows
from mmalign_pipeline.config import Pipeline
from mmalign_pipeline.work import count_line

if TYPE_CHECKING:
    from mmalign.registry.catalog import Catalog
    from mmalign_pipeline.compare import Comparison, ModelRow, ReportConfig
    from mmalign_pipeline.folder import PipelineFolder

SCHEMA = 1
_FIGURES = ("loss", "accuracy", "score", "kl")  # figures shown of a stage: the first that it has, at most three


def make_report(
    catalog: "Catalog",
    pipeline: Pipeline,
    config: "ReportConfig",
    folder: "PipelineFolder",
    device: str,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Compare the models, and write the three files into the report's folder."""
    from mmalign.contract.evaluation import Runtime
    from mmalign_pipeline.compare import compare

    out = folder.of(pipeline.report)
    comparison = compare(catalog, config, Runtime.choose(device), say) if config.models else None
    rewards = _rewards(pipeline, folder)
    stages = [_stage(pipeline, name, folder) for name in pipeline.stages]
    models = [row.as_dict() for row in comparison.rows] if comparison else []
    figures = {"stages": stages, "against": config.base, "models": models}
    document = without_nan({"schema": SCHEMA, **figures})
    write_text(out / "report.json", json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    if comparison:
        write_rows(out / "answers.jsonl", comparison.answers)
    _write_page(out / "report.html", pipeline, config, comparison, stages, rewards, folder)
    for row in comparison.rows if comparison else ():
        say(_line(row, config.base))
    return {"against": config.base, "models": models}


def _stage(pipeline: Pipeline, name: str, folder: "PipelineFolder") -> dict[str, Any]:
    stage, entry = pipeline.stages[name], folder.entry(name)
    described = {"name": name, "run": stage.kind, "objective": _objective(stage.options)}
    kept = ("status", "seconds", "cpu_seconds", "steps", "before", "after", "counts")
    return described | {key: entry[key] for key in kept if key in entry}


def _objective(options: Mapping[str, Any]) -> str:
    objective = options.get("objective", "")
    return objective if isinstance(objective, str) else str(objective.get("name", ""))


def _rewards(pipeline: Pipeline, folder: "PipelineFolder") -> list[dict[str, Any]]:
    """Rewards with a weight that a stage learnt from; as judges of the result they are partial."""
    rewards = []
    for name in pipeline.stages:
        rollout = pipeline.filled(name, folder.outputs(pipeline)).get("rollout") or {}
        rewards += [reward for reward in rollout.get("rewards", ()) if reward.get("weight", 1)]
    return rewards


def _was_reward(judge: Mapping[str, Any], rewards: Sequence[Mapping[str, Any]]) -> bool:
    def plain(options: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in options.items() if key not in ("weight", "label")}

    return any(plain(judge) == plain(reward) for reward in rewards)


def _write_page(
    path: Path,
    pipeline: Pipeline,
    config: "ReportConfig",
    comparison: "Comparison | None",
    stages: Sequence[Mapping[str, Any]],
    rewards: Sequence[Mapping[str, Any]],
    folder: "PipelineFolder",
) -> None:
    from mmalign.report import write_report

    judges = comparison.judges if comparison else ()
    partial = [name for name, judge in zip(judges, config.judges, strict=True) if _was_reward(judge, rewards)]
    warnings = [f"{name} was also the reward of a stage, so its verdict is partial" for name in partial]
    warnings += [f"{n:,} prompts were left out: {why}" for why, n in (comparison.lost if comparison else {}).items()]
    seconds = sum(stage.get("seconds", 0.0) for stage in stages)
    context = {
        "title": f"Pipeline {pipeline.name}",
        "summary": [("stages", len(stages)), ("seconds, all stages", round(seconds)), *_tiles(comparison)],
        "warnings": warnings,
        "stages": [(s["name"], f"{s['run']} {s['objective']}".strip(), _time(s), _main_figures(s)) for s in stages],
        "models_header": ["", *config.models],
        "models": _models(comparison) if comparison else [],
        "against": config.base,
        "prompts": f"{len(comparison.answers):,} answers to prompts of the {config.split} part" if comparison else "",
        "curves": list(_curves(pipeline, folder)),
        "samples_header": ["prompt", *config.models],
        "samples": _samples(comparison, config) if comparison else [],
        "config_json": json.dumps(pipeline.as_dict(), indent=2, ensure_ascii=False),
    }
    write_report(path, Path(__file__).with_name("pipeline.html"), context)


def _tiles(comparison: "Comparison | None") -> list[tuple[str, str]]:
    """The win rate of the last model."""
    if comparison is None or len(comparison.rows) < 2 or not comparison.judges:
        return []
    row, judge = comparison.rows[-1], comparison.judges[0]
    win = row.wins[judge]
    interval = f"{win['share']:.1%} ({win['share_low']:.1%} to {win['share_high']:.1%})"
    return [(f"{row.name} wins against {comparison.against}, by {judge}", interval)]


def _time(stage: Mapping[str, Any]) -> str:
    return f"{stage.get('seconds', 0):.0f} s ({stage.get('cpu_seconds', 0):.0f} s CPU)"


def _main_figures(stage: Mapping[str, Any]) -> str:
    """Counts, or held-out measurements before and after."""
    if "counts" in stage:
        return count_line(stage["counts"])
    before, after = stage.get("before", {}), stage.get("after", {})
    names = [f"heldout/{name}" for name in _FIGURES if f"heldout/{name}" in after][:3]
    shown = [f"{n.removeprefix('heldout/')} {before.get(n, float('nan')):.3g} → {after[n]:.3g}" for n in names]
    return ", ".join(["held-out " + shown[0], *shown[1:]] if shown else [f"{stage.get('steps', 0)} steps"])


def _models(comparison: "Comparison") -> list[list[str]]:
    """One row for each figure, one column for each model."""

    def win(row: "ModelRow", judge: str) -> str:
        won = row.wins[judge]
        return f"{won['share']:.1%} ({won['share_low']:.1%} to {won['share_high']:.1%})"

    table, base = [], comparison.against
    for judge in comparison.judges:
        table.append([f"{judge}, mean", *(f"{row.scores[judge]:+.3f}" for row in comparison.rows)])
        wins = ["-" if row.name == base else win(row, judge) for row in comparison.rows]
        table.append([f"{judge}: wins against {base}", *wins])
    kls = ["-" if row.kl is None or row.name == base else f"{row.kl:.2f}" for row in comparison.rows]
    table.append([f"KL from {base}, nats an answer", *kls])
    table.append(["distinct-2", *(f"{row.distinct_2:.3f}" for row in comparison.rows)])
    table.append(["words an answer", *(f"{row.words:.1f}" for row in comparison.rows)])
    for name, words in (("empty", "empty answers"), ("without_end", "answers without an end")):
        table.append([words, *(str(row.counts[name]) for row in comparison.rows)])
    return table


def _samples(comparison: "Comparison", config: "ReportConfig") -> list[list[Any]]:
    """Prompts, with each model's answer and its scores."""
    rows = []
    for row in comparison.answers[: config.show * config.k : config.k]:
        cells = []
        for name in config.models:
            scores = ", ".join(f"{judge} {value:+.2f}" for judge, value in row["scores"][name].items())
            cells.append({"text": " ".join(row["answers"][name].split()) or "(empty)", "scores": scores})
        prompt = row["prompt"]
        shown = prompt if isinstance(prompt, str) else "\n".join(f"{m['role']}: {m['content']}" for m in prompt)
        rows.append([shown, cells])
    return rows


def _curves(pipeline: Pipeline, folder: "PipelineFolder") -> Iterator[tuple[str, str]]:
    """(caption, picture) for each stage that trains; also reward against KL for a stage that samples."""
    from mmalign.report import png_data_uri
    from mmalign.train.curves import FRONTIER, draw_curves, reward_against_kl
    from mmalign.train.run_folder import Run

    for name, stage in pipeline.stages.items():
        if stage.kind != "train":
            continue
        run = Run.observe(folder.of(stage))
        run.close()
        records = [_interesting(record) for record in run.metrics() if "loss" in record]
        yield f"{name}: {_objective(stage.options)}, every step", png_data_uri(draw_curves(records))
        frontier = reward_against_kl(records)
        if frontier is not None:
            yield f"{name}: {FRONTIER.lower()}, every step", png_data_uri(frontier)


def _interesting(record: Mapping[str, Any]) -> dict[str, Any]:
    """Without speed, time and counts."""
    left_out = ("per_second", "peak_memory", "seconds_", "gradient_norm", "empty", "all_tied", "count", "beta")
    return {name: value for name, value in record.items() if not any(word in name for word in left_out)}


def _line(row: "ModelRow", against: str) -> str:
    """One model's figures for the terminal."""
    scores = "  ".join(f"{judge} {value:+.3f}" for judge, value in row.scores.items())
    text = f"{row.name}: {scores}  distinct-2 {row.distinct_2:.3f}"
    if row.name == against:
        return text
    wins = "  ".join(f"wins by {judge} {won['share']:.1%}" for judge, won in row.wins.items())
    return f"{text}  {wins}" + ("" if row.kl is None else f"  KL {row.kl:.2f}")
