"""Resolve what a run will do, from names and options alone: no weight is loaded and no data read.

plan = resolve(catalog, sections)      # sections as `config.load.load_layers` returns them
plan.to_yaml()                         # everything, defaults included; a run resumes from it
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from mmalign.catalog import Catalog
from mmalign.compat import Verdict, check, check_needs, require, require_needs
from mmalign.config.load import NAMED_SECTIONS
from mmalign.config.validate import build_all
from mmalign.data.examples import EXAMPLE_KINDS
from mmalign.data.finder import find_dataset
from mmalign.errors import IncompatibleError, UsageError
from mmalign.evaluate.runner import evaluation_config
from mmalign.objective import Objective
from mmalign.protocols import ChecksTraining
from mmalign.sources import Source
from mmalign.sources import resolve as resolve_source
from mmalign.specs import Entry
from mmalign.train.config import DataConfig, EvaluationConfig, TrainConfig


@dataclass(frozen=True)
class Plan:
    """A checked run: every name resolved, every option validated."""

    objective: Entry
    objective_class: type[Objective]
    source: Source
    backbone_class: Any
    dataset: Entry
    dataset_class: Any
    kind: str  # of the examples
    evaluations: tuple[Entry, ...]
    baselines: tuple[tuple[Entry, Mapping[str, Any]], ...]  # evaluations of the starting model, with their options
    verdict: Verdict
    configs: Mapping[str, Any]  # section -> validated model

    @property
    def train(self) -> TrainConfig:
        return self.configs["train"]

    @property
    def data(self) -> DataConfig:
        return self.configs["data"]

    @property
    def evaluation(self) -> EvaluationConfig:
        return self.configs["evaluation"]

    @property
    def caches_frozen(self) -> bool:
        """Whether what frozen roles say is worked out before the first step (`train.frozen_roles`)."""
        return self.train.frozen_roles != "copy" and self._can_cache_frozen

    @property
    def _can_cache_frozen(self) -> bool:
        """Texts are read as they are; pictures are augmented anew each time."""
        asks = self.objective_class.frozen is not Objective.frozen
        return asks and EXAMPLE_KINDS[self.kind].modalities == {"text"}

    def names(self) -> dict[str, str]:
        return {
            "objective": bare_name(self.objective),
            "backbone": lasting_reference(self.source),
            "dataset": bare_name(self.dataset),
        }

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Every section with every option, JSON types only."""
        names = self.names()
        return {
            section: ({"name": names[section]} if section in NAMED_SECTIONS else {}) | config.model_dump(mode="json")
            for section, config in self.configs.items()
        }

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)


def resolve(catalog: Catalog, sections: Mapping[str, Mapping[str, Any]]) -> Plan:
    """Find and check all that the sections name; raises UsageError (all mistakes at once) or IncompatibleError."""
    name = sections["objective"].get("name")
    if not name:
        known = ", ".join(entry.spec.name for entry in catalog.entries("objectives"))
        raise UsageError("no objective given", hint=f"Add --objective NAME, one of: {known}")
    objective = catalog.find("objectives", name)
    kinds = objective.spec.examples["main"]
    source = resolve_source(sections["backbone"].get("name") or _default_backbone(catalog, objective), catalog)
    verdict = require(objective, source.family, source.reference, catalog)
    asked = sections["dataset"].get("name")
    dataset, path = find_dataset(catalog, asked, kinds, sections["dataset"])
    values = dict(sections)
    kind = sections["dataset"].get("kind") if dataset.spec.more_kinds else dataset.spec.kind
    kind = kind or next((kind for kind in kinds if kind in dataset.spec.kinds), dataset.spec.kind)
    if kind not in kinds:
        raise IncompatibleError(
            f"{objective.spec.name} learns from {' or '.join(kinds)} examples; {dataset.spec.name} yields {kind}",
            hint="Try: mmalign list datasets",
        )
    values["dataset"] = {**sections["dataset"], **dataset.spec.options(kind)}
    if path is not None:
        other = sections["dataset"].get("path", path)
        if other not in (path, asked):
            raise UsageError(f"--dataset {asked} and dataset.path={other} disagree", hint="Give one of them.")
        values["dataset"] = {**values["dataset"], "name": dataset.spec.name, "path": path}
    named = {"objective": objective, "backbone": source.entry, "dataset": dataset}
    models = {section: catalog.load_config(entry) for section, entry in named.items()}
    models |= {"train": TrainConfig, "data": DataConfig, "evaluation": EvaluationConfig}
    configs = build_all(models, values)
    if isinstance(configs["backbone"], ChecksTraining):
        configs["backbone"].check_training()
    evaluations = _evaluations(catalog, source, dataset, configs["evaluation"])
    baselines = _baselines(catalog, source, configs["evaluation"])
    classes = {section: catalog.load(entry) for section, entry in named.items()}  # heavy imports from here on
    plan = Plan(
        objective=objective,
        objective_class=classes["objective"],
        source=source,
        backbone_class=classes["backbone"],
        dataset=dataset,
        dataset_class=classes["dataset"],
        kind=kind,
        evaluations=evaluations,
        baselines=baselines,
        verdict=verdict,
        configs=configs,
    )
    if plan.train.frozen_roles == "cache" and not plan.caches_frozen:
        raise UsageError(
            f"train.frozen_roles=cache: {objective.spec.name} asks no frozen model about fixed {kind} examples",
            hint="Leave it at auto.",
        )
    return plan


def _default_backbone(catalog: Catalog, objective: Entry) -> str:
    """The first default backbone of the objective's example kinds that fits it."""
    for kind in objective.spec.examples["main"]:
        for entry in catalog.entries("backbones"):
            fits = any(check(objective.spec, family).ok for family in entry.spec.families)
            if kind in entry.spec.default_for and fits:
                return catalog.display_name(entry)
    raise UsageError(
        f"no embedded backbone fits {objective.spec.name}", hint=f"Name one. Try: mmalign matrix {objective.spec.name}"
    )


def _evaluations(catalog: Catalog, source: Source, dataset: Entry, config: EvaluationConfig) -> tuple[Entry, ...]:
    """The evaluations asked for, or those that the backbone can run and that want to be run by themselves; raises
    IncompatibleError for one that it can't."""
    if not config.names:

        def wanted(spec: Any) -> bool:
            own = spec.in_training == "own-data" and not set(spec.kinds).isdisjoint(dataset.spec.kinds)
            return (own or spec.in_training == "always") and check_needs(spec.needs, source.family).ok

        return tuple(entry for entry in catalog.entries("evaluations") if wanted(entry.spec))
    chosen = tuple(catalog.find("evaluations", name) for name in config.names)
    for entry in chosen:
        require_needs(f"evaluation {entry.spec.name}", entry.spec.needs, source.family, source.reference, catalog)
    return chosen


def _baselines(
    catalog: Catalog, source: Source, config: EvaluationConfig
) -> tuple[tuple[Entry, Mapping[str, Any]], ...]:
    """Each with its options, which are checked here; raises UsageError, or IncompatibleError for one that the backbone
    can't run."""
    found = []
    for number, baseline in enumerate(config.baselines):
        options = {key: value for key, value in baseline.items() if key != "name"}
        if "name" not in baseline:
            raise UsageError(
                f"evaluation.baselines: {baseline} names no evaluation", hint="As {name: few-shot, shots: 8}."
            )
        entry = catalog.find("evaluations", str(baseline["name"]))
        require_needs(f"baseline {entry.spec.name}", entry.spec.needs, source.family, source.reference, catalog)
        evaluation_config(catalog, entry, options, f"evaluation.baselines[{number}]")
        found.append((entry, options))
    return tuple(found)


def lasting_reference(source: Source) -> str:
    """The reference, with a local path made absolute: a run is resumed from anywhere."""
    if source.path is None or source.entry.spec.bundled:
        return source.reference
    prefix = source.reference.partition(":")[0]
    path = str(source.path.absolute())
    return f"{prefix}:{path}" if prefix in source.entry.spec.prefixes else path


def bare_name(entry: Entry) -> str:
    from mmalign.plugins import BUILTINS

    return entry.spec.name if entry.plugin in BUILTINS else entry.qualified
