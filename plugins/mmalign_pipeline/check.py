"""Checks every stage of a pipeline before the first one runs, with the code that later runs it.

check_pipeline(catalog, pipeline)        # raises UsageError, IncompatibleError or DataError that names the stage

The outputs of earlier stages do not exist yet, so later stages get stand-ins: a folder with the config of the model
that will be trained, and files of one line. They show the kind of output, which is all that a plan needs; no weights
are loaded and no data set is read.
"""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmalign.config.validate import build
from mmalign.data.find import find_dataset
from mmalign.errors import DataError, IncompatibleError, MmalignError, UsageError
from mmalign.models.references import OPEN_CLIP_CONFIG, TRANSFORMERS_CONFIG, find_source
from mmalign.registry.compat import require_needs
from mmalign_pipeline.compare import ReportConfig
from mmalign_pipeline.config import REPORT, Pipeline, Stage, outputs_of
from mmalign_pipeline.rank import RankConfig, to_rank
from mmalign_pipeline.sample import KINDS, NEEDS, SampleConfig, name_and_options
from mmalign_pipeline.sheet import check_suffix

if TYPE_CHECKING:
    from mmalign.registry.catalog import Catalog
    from mmalign.train.plan import Plan

# How transformers writes a model with one score for a text, and one with two classes.
_SCORER = {"architectures": ["StandInForSequenceClassification"], "id2label": {"0": "LABEL_0"}}
_CLASSIFIER = {**_SCORER, "id2label": {"0": "LABEL_0", "1": "LABEL_1"}}
_ROW = {"key": "stand-in", "prompt": "Why?", "completions": ["One.", "Another."]}


def check_pipeline(catalog: "Catalog", pipeline: Pipeline) -> None:
    """Raises for the first stage that cannot run as written."""
    with tempfile.TemporaryDirectory(prefix="mmalign-") as root:
        outputs: dict[str, dict[str, str]] = {}
        for name in pipeline.names:
            stage, folder = pipeline.stage(name), Path(root) / name
            folder.mkdir()
            try:
                _check(catalog, stage, pipeline.filled(name, outputs), folder)
            except MmalignError as error:
                raise _named(error, stage, outputs) from error
            outputs[name] = outputs_of(stage, folder)


def sample_config(stage: Stage, options: Mapping[str, Any]) -> SampleConfig:
    """Raises UsageError that lists what is wrong; so do the next two functions."""
    return build(SampleConfig, stage.section(options), stage.name, hint="All options: mmalign sample --help")


def rank_config(stage: Stage, options: Mapping[str, Any]) -> RankConfig:
    return build(RankConfig, stage.section(options), stage.name, hint="All options: mmalign rank --help")


def report_config(stage: Stage, options: Mapping[str, Any]) -> ReportConfig:
    return build(ReportConfig, stage.section(options), stage.name, hint="All options: mmalign pipeline --help")


def _check(catalog: "Catalog", stage: Stage, options: Mapping[str, Any], folder: Path) -> None:
    """Check one stage, and write a stand-in for its output."""
    if stage.kind == "train":
        from mmalign.train.plan import make_plan

        _write_model(make_plan(catalog, stage.sections(options)), folder / "model")
    elif stage.kind == "sample":
        config = sample_config(stage, options)
        name, values = name_and_options(config.backbone)
        source = _require_writer(catalog, name, "sample")
        build(catalog.load_config(source.entry), values, f"{stage.name}.backbone")
        _check_data(catalog, config.dataset, f"{stage.name}.dataset")
        texts = [f"Answer {number}." if config.temperature else "Answer." for number in range(config.k)]
        _write_row(folder / "answers.jsonl", {**_ROW, "completions": texts, "ended": [True] * config.k})
    elif stage.kind == "rank":
        _check_rank(catalog, rank_config(stage, options))
        _write_row(folder / "rankings.jsonl", {**_ROW, "ranks": [1, 2]})
    elif stage.kind == REPORT:
        _check_report(catalog, report_config(stage, options), stage.name)


def _check_rank(catalog: "Catalog", config: RankConfig) -> None:
    from mmalign.rl.rewards import check_rewards

    if not Path(config.answers).expanduser().is_file():
        raise DataError(
            f"no file {config.answers}", hint="`answers` is a file, or ${STAGE.answers} of a stage that samples."
        )
    to_rank(config)
    if config.sheet:
        check_suffix(Path(config.sheet))
    else:
        check_rewards(catalog, config.judge, section="judge")


def _check_report(catalog: "Catalog", config: ReportConfig, where: str) -> None:
    from mmalign.rl.rewards import check_rewards

    for reference in config.models.values():
        _require_writer(catalog, reference, "the report")
    for judge in config.judges:
        own = {key: value for key, value in judge.items() if key != "label"}
        check_rewards(catalog, [own], required=False, section="judges")
    if config.models:
        _check_data(catalog, config.dataset, f"{where}.dataset")


def _require_writer(catalog: "Catalog", reference: str, who: str) -> Any:
    source = find_source(reference, catalog)
    require_needs(who, NEEDS, source.family, reference, catalog)
    return source


def _check_data(catalog: "Catalog", named: Any, where: str) -> None:
    """Checks that the data set exists, yields prompts, and accepts these options."""
    name, values = name_and_options(named)
    entry, path = find_dataset(catalog, name, KINDS, values)
    kind = values.get("kind") or next((kind for kind in KINDS if kind in entry.spec.kinds), "")
    if kind not in KINDS:
        raise IncompatibleError(
            f"{where}: needs {' or '.join(KINDS)} examples; {entry.spec.name} yields {kind or entry.spec.kind}",
            hint="Try: mmalign list datasets",
        )
    values = {**values, **entry.spec.options(kind), **({} if path is None else {"path": path})}
    hint = f"All options: mmalign show {entry.spec.name} --options"
    build(catalog.load_config(entry), values, where, hint=hint)


def _write_model(plan: "Plan", folder: Path) -> None:
    """A folder that is recognised as the family of model that this plan saves."""
    heads = {role.head for role in plan.objective.spec.roles if role.trains and plan.verdict.view is None}
    config: Mapping[str, Any] = plan.source.config
    if "scalar" in heads:
        config = _SCORER
    elif "classes" in heads:
        config = _CLASSIFIER
    folder.mkdir()
    name = OPEN_CLIP_CONFIG if "model_cfg" in config else TRANSFORMERS_CONFIG
    (folder / name).write_text(json.dumps(dict(config)), encoding="utf-8")


def _write_row(path: Path, row: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")


def _named(error: MmalignError, stage: Stage, outputs: Mapping[str, Mapping[str, str]]) -> MmalignError:
    """The same error with the stage in front, and references instead of the stand-ins' paths."""
    message, hint = error.message, error.hint
    for name, made in outputs.items():
        for output, path in sorted(made.items(), key=lambda item: -len(item[1])):
            message, hint = (text.replace(path, f"${{{name}.{output}}}") for text in (message, hint))
    kind = type(error) if isinstance(error, UsageError | DataError) else UsageError
    return kind(f"{stage.where}: stage {stage.name}: {message}", hint=hint)
