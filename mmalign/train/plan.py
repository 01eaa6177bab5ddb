"""Resolve what a run will do from names and options, without loading weights or reading data.

plan = make_plan(catalog, sections)      # sections as `mmalign.train.layers.load_layers` returns them
plan.to_yaml()                           # every option, defaults included; a run resumes from it
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from mmalign.config.section import FIXED_SECTIONS, NAMED_SECTIONS, OPEN_SECTIONS, section_model
from mmalign.config.validate import build, build_all
from mmalign.contract.backbone import ChecksTraining, NamesPlaces
from mmalign.contract.capabilities import Pair, View, in_words
from mmalign.contract.feed import Feed
from mmalign.contract.objective import Objective
from mmalign.contract.source import Source
from mmalign.contract.specs import Entry
from mmalign.data.feed import FixedExamples
from mmalign.data.find import find_dataset
from mmalign.errors import IncompatibleError, PluginError, UsageError
from mmalign.evaluate.runner import evaluation_config
from mmalign.models.references import find_source
from mmalign.registry.catalog import Catalog, lasting_name
from mmalign.registry.compat import Verdict, check, check_needs, require, require_needs
from mmalign.train.config import DataConfig, EvaluationConfig, TrainConfig
from mmalign.train.settle import lasting_reference, settle

DEFAULT_OPTIMIZER = "adamw"


@dataclass(frozen=True)
class StreamPlan:
    """A second stream of examples. batch_size: examples per step, over all processes."""

    dataset: Entry
    dataset_class: Any
    kind: str
    example: Entry
    example_class: type
    config: Any
    batch_size: int


@dataclass(frozen=True)
class Plan:
    """A checked run: every name resolved, every option validated."""

    objective: Entry
    objective_class: type[Objective]
    feed_class: type[Feed]
    source: Source
    backbone_class: Any
    dataset: Entry
    dataset_class: Any
    kind: str  # of example
    example: Entry  # that kind in the catalog
    example_class: type
    streams: Mapping[str, StreamPlan]  # besides the main one
    evaluations: tuple[Entry, ...]
    baselines: tuple[tuple[Entry, Mapping[str, Any]], ...]  # evaluations of the starting model, with their options
    verdict: Verdict
    configs: Mapping[str, Any]  # section -> validated model
    catalog: Catalog
    role_sources: Mapping[str, Source]  # for roles whose model an option of the objective names
    optimizer: Entry
    trackers: tuple[tuple[Entry, Any], ...]  # with their options
    reasons: Mapping[str, str]  # option of `train` that the user left open -> why it has its value

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
    def rollout(self) -> Any:
        """The options of the feed; None if the objective does not sample."""
        return self.configs.get("rollout")

    @property
    def caches_frozen(self) -> bool:
        """Whether the outputs of frozen roles are computed before the first step (`train.frozen_roles`)."""
        return self.train.frozen_roles != "copy" and self._can_cache_frozen

    @property
    def _can_cache_frozen(self) -> bool:
        """Only for texts: pictures are augmented differently each time."""
        uses_frozen = self.objective_class.frozen is not Objective.frozen
        return uses_frozen and self.example.spec.modalities == {"text"} and self.verdict.view is None

    def names(self) -> dict[str, str]:
        return {
            "objective": lasting_name(self.objective),
            "backbone": lasting_reference(self.source),
            "dataset": lasting_name(self.dataset),
            "optimizer": lasting_name(self.optimizer),
        }

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Every section with every option, JSON types only."""
        names = self.names()
        sections = {
            section: ({"name": names[section]} if section in NAMED_SECTIONS else {}) | config.model_dump(mode="json")
            for section, config in self.configs.items()
        }
        streams = {
            name: {"name": lasting_name(stream.dataset), **stream.config.model_dump(mode="json")}
            for name, stream in self.streams.items()
        }
        trackers: dict[str, Any] = {
            lasting_name(entry): False for entry in self.catalog.entries("trackers") if entry.spec.default
        }
        trackers |= {lasting_name(entry): config.model_dump(mode="json") for entry, config in self.trackers}
        more = {"streams": streams, "trackers": trackers}
        return sections | {name: section for name, section in more.items() if section}

    def explanations(self) -> list[str]:
        """ "train.learning_rate 2e-05: TRL's SFT, ..." for every option that the user left open."""
        values = self.train.model_dump()
        return [f"train.{key} {values[key]:g}: {why}" for key, why in self.reasons.items()]

    def to_yaml(self) -> str:
        comments = "".join(f"# {line}\n" for line in self.explanations())
        return comments + yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)


def make_plan(catalog: Catalog, sections: Mapping[str, Mapping[str, Any]]) -> Plan:
    """Find and check all that the sections name; raises UsageError (all mistakes at once) or IncompatibleError."""
    name = sections["objective"].get("name")
    if not name:
        known = ", ".join(entry.spec.name for entry in catalog.entries("objectives"))
        raise UsageError("no objective given", hint=f"Add --objective NAME, one of: {known}")
    objective = catalog.find("objectives", name)
    values = dict(sections)
    source = find_source(sections["backbone"].get("name") or _default_backbone(catalog, objective), catalog)
    verdict = require(objective, source.family, source.reference, catalog)
    dataset, kind, values["dataset"] = find_data(catalog, objective, verdict.kinds, sections["dataset"], verdict.pairs)
    optimizer = catalog.find("optimizers", sections["optimizer"].get("name") or DEFAULT_OPTIMIZER)
    named = {"objective": objective, "backbone": source.entry, "dataset": dataset, "optimizer": optimizer}
    models = {section: catalog.load_config(entry) for section, entry in named.items()}
    feeds = objective.spec.online
    models |= {name: section_model(name) for name in FIXED_SECTIONS if feeds or name != "rollout"}
    if sections.get("rollout") and not feeds:
        raise UsageError(
            f"{objective.spec.name} samples nothing: the section rollout is for objectives that do",
            hint="These do: " + ", ".join(e.spec.name for e in catalog.entries("objectives") if e.spec.online),
        )
    for section in OPEN_SECTIONS:
        values.pop(section, None)
    configs = build_all(models, values)
    if isinstance(configs["backbone"], ChecksTraining):
        configs["backbone"].check_training()
    _require_places(configs)
    feed_class = catalog.load_place(objective, objective.spec.feed) if feeds else FixedExamples
    if feeds:
        configs["rollout"] = feed_class.check(catalog, configs["rollout"], objective.spec)
    views = () if verdict.view is None else (verdict.view,)
    evaluations = _evaluations(catalog, source, views, dataset, configs["evaluation"])
    baselines = _baselines(catalog, source, views, configs["evaluation"])
    example = catalog.find("examples", kind)
    classes = {section: catalog.load(entry) for section, entry in named.items()}  # heavy imports from here on
    streams = _streams(catalog, objective, objective.spec.streams(configs["objective"]), sections, verdict.pairs)
    configs["train"], reasons = settle(configs, objective.spec.rates, optimizer.spec, source, classes["backbone"])
    plan = Plan(
        objective=objective,
        objective_class=classes["objective"],
        feed_class=feed_class,
        source=source,
        backbone_class=classes["backbone"],
        dataset=dataset,
        dataset_class=classes["dataset"],
        kind=kind,
        example=example,
        example_class=catalog.load(example),
        streams=streams,
        evaluations=evaluations,
        baselines=baselines,
        verdict=verdict,
        configs=configs,
        catalog=catalog,
        role_sources=_role_sources(catalog, objective, views, configs["objective"]),
        optimizer=optimizer,
        trackers=_trackers(catalog, sections.get("trackers", {})),
        reasons=reasons,
    )
    if plan.train.frozen_roles == "cache" and not plan.caches_frozen:
        why = f"{objective.spec.name} needs no frozen model for {kind} examples that can be cached"
        if verdict.view is not None:
            why = f"{source.reference} reads pictures, which are augmented anew in each step, so nothing can be cached"
        raise UsageError(f"train.frozen_roles=cache: {why}", hint="Try: --set train.frozen_roles=auto")
    return plan


def find_data(
    catalog: Catalog, objective: Entry, kinds: tuple[str, ...], section: Mapping[str, Any], pairs: frozenset[Pair]
) -> tuple[Entry, str, Mapping[str, Any]]:
    """(data set, kind of its examples, its options) that a section names; raises UsageError or IncompatibleError.

    pairs: the contents of prompts and answers that the model reads.
    """
    asked = section.get("name")
    dataset, path = find_dataset(catalog, asked, kinds, section, pairs)
    kind = section.get("kind") if dataset.spec.more_kinds else dataset.spec.kind
    kind = kind or next((kind for kind in kinds if kind in dataset.spec.kinds), dataset.spec.kind)
    if kind not in kinds:
        raise IncompatibleError(
            f"{objective.spec.name} learns from {' or '.join(kinds)} examples; {dataset.spec.name} yields {kind}",
            hint="Try: mmalign list datasets",
        )
    if not catalog.may_hold(dataset, kind, pairs):
        of_kind = catalog.find("examples", kind).spec.pairs
        held, wanted = (" or ".join(map(in_words, sorted(each & of_kind))) for each in (dataset.spec.pairs, pairs))
        raise IncompatibleError(
            f"{dataset.spec.name} holds {held}; {objective.spec.name} on this model learns from {wanted}",
            hint="Name other data: --dataset FILE. Try: mmalign list datasets",
        )
    added = dataset.spec.options(kind)
    if path is not None:
        if section.get("path", path) not in (path, asked):
            raise UsageError(f"--dataset {asked} and dataset.path={section['path']} disagree", hint="Give one of them.")
        added |= {"name": dataset.spec.name, "path": path}
    return dataset, kind, {**section, **added}


def _streams(
    catalog: Catalog,
    objective: Entry,
    wanted: Mapping[str, int],
    sections: Mapping[str, Any],
    pairs: frozenset[Pair],
) -> dict[str, StreamPlan]:
    """Plan each wanted stream with the data of `streams.NAME`, or its kind's default data; raises as `find_data`."""
    streams, given = {}, sections.get("streams", {})
    unused = sorted(set(given) - set(wanted))
    if unused:
        raise UsageError(
            f"streams.{unused[0]}: {objective.spec.name} with these options reads no such stream",
            hint=f"Its streams: {', '.join(sorted(set(objective.spec.examples) - {'main'})) or 'only main'}.",
        )
    for name, batch_size in wanted.items():
        section = given.get(name, {})
        section = {"name": section} if isinstance(section, str) else section
        if not isinstance(section, dict):
            raise UsageError(f"streams.{name} takes a data set's name or options", hint=f"streams.{name}.name=FILE")
        dataset, kind, values = find_data(catalog, objective, objective.spec.examples[name], section, pairs)
        options = {key: value for key, value in values.items() if key != "name"}
        config = build(catalog.load_config(dataset), options, f"streams.{name}")
        example = catalog.find("examples", kind)
        if example.spec.pairs and not example.spec.pairs & pairs:
            raise IncompatibleError(
                f"the stream {name} of {objective.spec.name} holds {kind} examples, which this model does not read",
                hint=f"Leave it out: --set objective.{objective.spec.side_streams[name].only_with or name}=0",
            )
        streams[name] = StreamPlan(
            dataset, catalog.load(dataset), kind, example, catalog.load(example), config, batch_size
        )
    return streams


def _role_sources(catalog: Catalog, objective: Entry, views: Sequence[View], config: Any) -> dict[str, Source]:
    """Sources of roles whose model an option names. Raises UsageError for a missing one, IncompatibleError for one that
    lacks what the role needs."""
    sources = {}
    for role in objective.spec.roles:
        if role.source_option and role.source_option not in type(config).model_fields:
            raise PluginError(
                f"objective {objective.spec.name}: role {role.name} comes from the option {role.source_option!r}, "
                "which its Config lacks"
            )
        reference = role.reference(config)
        if reference and role.used(config):
            source = find_source(reference, catalog)
            who = f"role {role.name} of {objective.spec.name} (objective.{role.source_option})"
            require_needs(who, role.needs, source.family, reference, catalog, views)
            sources[role.name] = source
    return sources


def _trackers(catalog: Catalog, section: Mapping[str, Any]) -> tuple[tuple[Entry, Any], ...]:
    """The named trackers and those of every run, each with its checked options; raises UsageError."""
    named = {lasting_name(catalog.find("trackers", name)): name for name in section}
    defaults = [lasting_name(entry) for entry in catalog.entries("trackers") if entry.spec.default]
    chosen = []
    for name in [*(name for name in defaults if name not in named), *named.values()]:
        entry, options = catalog.find("trackers", name), section.get(name) or {}
        if section.get(name) is False:
            continue
        if not isinstance(options, dict):
            raise UsageError(f"trackers.{name} takes options (key: value), or false", hint=f"Try: --tracker {name}")
        chosen.append((entry, build(catalog.load_config(entry), options, f"trackers.{name}")))
    return tuple(chosen)


def _require_places(configs: Mapping[str, Any]) -> None:
    """Raise UsageError for an option with a missing path, before anything is loaded."""
    for section, config in configs.items():
        for path in config.places() if isinstance(config, NamesPlaces) else ():
            if not path.exists():
                option = _option_of(config.model_dump(mode="json"), str(path))
                raise UsageError(
                    f"{'.'.join((section, *option))} names {path}, and there is no such file or folder",
                    hint="It takes a path, such as runs/NAME/model, not a name from mmalign list backbones or the hub. "
                    "Give a path, or leave the option out.",
                )


def _option_of(options: Mapping[str, Any], value: str) -> tuple[str, ...]:
    """The keys that lead to a value, or () if no option holds it."""
    for key, option in options.items():
        if option == value:
            return (key,)
        inner = _option_of(option, value) if isinstance(option, Mapping) else ()
        if inner:
            return (key, *inner)
    return ()


def _default_backbone(catalog: Catalog, objective: Entry) -> str:
    """The first default backbone of the objective's example kinds that fits it."""
    for kind in objective.spec.examples["main"]:
        for entry in catalog.entries("backbones"):
            fits = any(check(objective.spec, family, catalog).ok for family in entry.spec.families)
            if kind in entry.spec.default_for and fits:
                return catalog.display_name(entry)
    raise UsageError(
        f"no embedded backbone fits {objective.spec.name}", hint=f"Name one. Try: mmalign matrix {objective.spec.name}"
    )


def _evaluations(
    catalog: Catalog, source: Source, views: Sequence[View], dataset: Entry, config: EvaluationConfig
) -> tuple[Entry, ...]:
    """The named evaluations; without names, those of every run that the backbone can run. Raises IncompatibleError for
    a named one that it cannot run."""
    if not config.names:

        def wanted(spec: Any) -> bool:
            own = spec.in_training == "own-data" and not set(spec.kinds).isdisjoint(dataset.spec.kinds)
            return (own or spec.in_training == "always") and check_needs(spec.needs, source.family, views).ok

        return tuple(entry for entry in catalog.entries("evaluations") if wanted(entry.spec))
    chosen = tuple(catalog.find("evaluations", name) for name in config.names)
    for entry in chosen:
        who = f"evaluation {entry.spec.name}"
        require_needs(who, entry.spec.needs, source.family, source.reference, catalog, views)
    return chosen


def _baselines(
    catalog: Catalog, source: Source, views: Sequence[View], config: EvaluationConfig
) -> tuple[tuple[Entry, Mapping[str, Any]], ...]:
    """Each baseline with its checked options; raises UsageError, or IncompatibleError for one that the backbone cannot
    run."""
    baselines = []
    for number, baseline in enumerate(config.baselines):
        options = {key: value for key, value in baseline.items() if key != "name"}
        if "name" not in baseline:
            raise UsageError(
                f"evaluation.baselines: {baseline} names no evaluation", hint="For example: {name: few-shot, shots: 8}"
            )
        entry = catalog.find("evaluations", str(baseline["name"]))
        who = f"baseline {entry.spec.name}"
        require_needs(who, entry.spec.needs, source.family, source.reference, catalog, views)
        evaluation_config(catalog, entry, options, f"evaluation.baselines[{number}]")
        baselines.append((entry, options))
    return tuple(baselines)
