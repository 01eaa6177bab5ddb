"""Compares several models on the same prompts: their answers, the judges' scores, and their distance from a base model.

    comparison = compare(catalog, config, device, say)        # Comparison
    comparison.rows[0].wins["vader"]                          # {"share": 0.71, "share_low": ..., ...} vs.
    config.against

The answers of all models are drawn with the same random numbers. The win rate counts prompt by prompt and answer by
answer, a tie as half, with Wilson's 95% interval. KL is the mean of log pi(y) - log pi_against(y) over a model's own
answers, in nats an answer at temperature 1. distinct-2 is the share of distinct pairs among all pairs of neighbouring
words, over a model's answers; each model has the same number of answers.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, Field, JsonValue, field_validator, model_validator

from mmalign.evaluate.intervals import with_interval
from mmalign.rl.config import reward_list
from mmalign_pipeline.rank import judge_scores
from mmalign_pipeline.sample import (
    NEEDS,
    Asked,
    Drawing,
    Named,
    SampleConfig,
    asked,
    check_named,
    sample,
)
from mmalign_pipeline.sample import open_prompts as open_sampled

if TYPE_CHECKING:
    from mmalign.contract.evaluation import Runtime
    from mmalign.registry.catalog import Catalog
    from mmalign_pipeline.answers import Answered
    from mmalign_pipeline.sample import Samples

_ANSWERS_AT_ONCE = 64  # answers read together
_PROBES = ("The film was good.", " 1,234 Äpfel 猫")


class ReportConfig(Drawing):
    """The models that the report compares, the data, and the judges."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: dict[str, str] = Field({}, description="models to compare, by the names to show; empty: none")
    against: str = Field("", description="name of the model that the others are compared with; empty: the first")
    dataset: Named = Field("", description="the data set of the prompts, or {name: ..., and its options}")
    split: str = Field("validation", description="part of the data, one that no stage learns from")
    limit: int = Field(200, ge=0, description="the first so many prompts; 0: all")
    k: int = Field(1, ge=1, description="answers to each prompt")
    judges: tuple[dict[str, JsonValue], ...] = Field((), description="rewards, such as vader; each judges alone")
    show: int = Field(8, ge=0, description="number of prompts to show with their answers in the report")

    _named = field_validator("dataset")(check_named)
    _by_name = field_validator("judges", mode="before")(reward_list)

    @model_validator(mode="after")
    def _complete(self) -> "ReportConfig":
        if self.models and not self.dataset:
            raise ValueError("models to compare need a dataset with prompts")
        if self.against and self.against not in self.models:
            raise ValueError(f"against: {self.against!r} is not one of the models {', '.join(self.models)}")
        return self

    @property
    def base(self) -> str:
        return self.against or next(iter(self.models), "")


@dataclass(frozen=True)
class ModelRow:
    """scores: the mean score, by judge; wins: by judge, {"share", "share_low", "share_high"} against the base. kl: None
    where the model's tokens differ from the base's."""

    name: str
    scores: Mapping[str, float]
    wins: Mapping[str, Mapping[str, float]]
    kl: float | None
    distinct_2: float
    words: float
    counts: Mapping[str, int]

    def as_dict(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True)
class Comparison:
    """answers: rows of {"key", "prompt", "answers": {model: text}, "scores": {model: {judge: x}}}."""

    against: str
    judges: tuple[str, ...]
    rows: list[ModelRow] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)
    lost: Mapping[str, int] = field(default_factory=dict)


def open_prompts(catalog: "Catalog", config: ReportConfig) -> list[Asked]:
    """The held-out prompts; raises UsageError, DataError."""
    options = {"backbone": "-", "dataset": config.dataset, "split": config.split}
    data = open_sampled(catalog, SampleConfig.model_validate(options), "the report")
    return asked(data.dataset, config.limit)


def compare(catalog: "Catalog", config: ReportConfig, runtime: "Runtime", say: Callable[[str], None]) -> Comparison:
    """Load each model in turn beside the base. Raises the errors of loading, sampling and judging."""
    prompts = open_prompts(catalog, config)
    names = [config.base, *(name for name in config.models if name != config.base)]
    base = load_policy(catalog, config.models[config.base], runtime)
    samples: dict[str, Samples] = {}
    kls: dict[str, float | None] = {}
    for name in names:
        model = base if name == config.base else load_policy(catalog, config.models[name], runtime)
        with runtime.evaluating(model), runtime.evaluating(base):
            samples[name] = sample(model, prompts, config, config.k)
            kls[name] = 0.0 if model is base else _kl(model, base, samples[name], runtime)
        say(f"report: {name} answered {len(samples[name].records):,} prompts, {config.k} answers each")
    samples = _common(samples)
    scores = _judge(catalog, config, samples, runtime, say)
    judges = tuple(scores)
    rows = [
        ModelRow(
            name=name,
            scores={judge: _mean(scores[judge][name]) for judge in judges},
            wins={judge: win_rate(scores[judge][name], scores[judge][config.base]) for judge in judges},
            kl=kls[name],
            distinct_2=distinct_2(_texts(samples[name].records)),
            words=_mean([float(len(text.split())) for text in _texts(samples[name].records)]),
            counts=samples[name].counts(),
        )
        for name in config.models
    ]
    return Comparison(config.base, judges, rows, _beside(config, samples, scores), samples[config.base].lost)


def load_policy(catalog: "Catalog", reference: str, runtime: "Runtime") -> Any:
    """A language model by its reference, on the device; raises UsageError, IncompatibleError, CheckpointError."""
    from mmalign.models.load import load_model, require_source

    source = require_source(catalog, reference, NEEDS, "sampling")
    return load_model(catalog, source, needs=NEEDS, device=runtime.device)


def win_rate(scores: Sequence[float], others: Sequence[float]) -> dict[str, float]:
    """The share of pairs in which the first is higher, ties as half, and its interval: share, share_low, share_high."""
    pairs = list(zip(scores, others, strict=True))
    return with_interval("share", sum((a > b) + (a == b) / 2 for a, b in pairs), len(pairs))


def distinct_2(texts: Sequence[str]) -> float:
    """Distinct pairs of neighbouring words over all pairs; 0 where there is none. It falls as the number of texts
    grows."""
    split = [text.split() for text in texts]
    pairs = [pair for words in split for pair in itertools.pairwise(words)]
    return len(set(pairs)) / len(pairs) if pairs else 0.0


def _common(samples: "Mapping[str, Samples]") -> "dict[str, Samples]":
    """The prompts that all models answered. One may not fit a model whose tokenizer needs more tokens."""
    from mmalign_pipeline.sample import Samples

    keys = set.intersection(*({record.key for record in drawn.records} for drawn in samples.values()))
    common = {}
    for name, drawn in samples.items():
        kept = [index for index, record in enumerate(drawn.records) if record.key in keys]
        lost = dict(drawn.lost)
        if len(kept) < len(drawn.records):
            lost["another model has no room for them"] = len(drawn.records) - len(kept)
        rows = [drawn.records[index] for index in kept], lost, [drawn.sequences[index] for index in kept]
        common[name] = Samples(*rows)
    return common


def _judge(
    catalog: "Catalog",
    config: ReportConfig,
    samples: "Mapping[str, Samples]",
    runtime: "Runtime",
    say: Callable[[str], None],
) -> dict[str, dict[str, list[float]]]:
    """judge -> model -> a score for each answer. Each judge scores alone, without its weight."""
    by_judge: dict[str, dict[str, list[float]]] = {}
    for judge in config.judges:
        name, number = str(judge.get("label", judge.get("name"))), 2
        while name in by_judge:
            name, number = f"{judge.get('name')}-{number}", number + 1
        options = {key: value for key, value in judge.items() if key != "label"} | {"weight": 1.0}
        records = [record for drawn in samples.values() for record in drawn.records]
        scores = iter(judge_scores(catalog, [options], records, runtime.device, say))
        by_judge[name] = {model: [x for _ in drawn.records for x in next(scores)] for model, drawn in samples.items()}
    return by_judge


def _kl(model: Any, base: Any, samples: "Samples", runtime: "Runtime") -> float | None:
    """Nats an answer; None where the two models tokenise texts differently."""
    from mmalign.language.derive import sequence_logps
    from mmalign.language.sequences import Sequences

    if not _same_tokens(model, base):
        return None
    rows = [(prompt, answer) for prompt, answers in samples.sequences for answer in answers if len(answer)]
    distance = 0.0
    for start in range(0, len(rows), _ANSWERS_AT_ONCE):
        chunk = rows[start : start + _ANSWERS_AT_ONCE]
        sequences = Sequences.from_lists([p for p, _ in chunk], [[a] for _, a in chunk]).to(runtime.device)
        distance += float((sequence_logps(model, sequences) - sequence_logps(base, sequences)).double().sum())
    return distance / len(rows) if rows else None


def _same_tokens(model: Any, base: Any) -> bool:
    one, other = model.processor, base.processor
    if (one.end_id, one.num_tokens) != (other.end_id, other.num_tokens):
        return False
    return all(one.prompt(text).tolist() == other.prompt(text).tolist() for text in _PROBES)


def _beside(
    config: ReportConfig, samples: "Mapping[str, Samples]", scores: Mapping[str, Mapping[str, Sequence[float]]]
) -> list[dict[str, Any]]:
    prompts = []
    for n, record in enumerate(samples[config.base].records):
        for k in range(config.k):
            at = n * config.k + k
            row: dict[str, Any] = {"key": record.key, "prompt": record.as_row()["prompt"]}
            row["answers"] = {name: samples[name].records[n].completions[k] for name in config.models}
            row["scores"] = {name: {judge: scores[judge][name][at] for judge in scores} for name in config.models}
            prompts.append(row)
    return prompts


def _texts(records: "Sequence[Answered]") -> list[str]:
    return [text for record in records for text in record.completions]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
