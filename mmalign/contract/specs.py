"""The specs that plugins return from their hooks: small frozen descriptions that import nothing heavy.

ObjectiveSpec(name="triplet", summary="Triplet margin loss", target="my_pkg.triplet:Triplet",
              roles=(Role(name="policy", needs=("encode_image", "encode_text")),),
              examples={"main": ("image-text",)})
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from mmalign.contract.capabilities import Capability, Need, Pair, parse_need, usual_pairs
from mmalign.contract.rates import Rates

_NAME = re.compile(r"[a-z0-9]+(?:[-_][a-z0-9]+)*")
_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclass(frozen=True, kw_only=True)
class Spec:
    """The common fields. `target`: "package.module:Name", imported on first use. `packages`: pip names to install.
    `config`: "package.module:Name" of the Config model, if its module is much lighter than the target's; options are
    then checked before anything heavy is imported. Empty: the target's own `Config`.

    Of a kind of spec: `noun`: its name in messages. `configurable`: targets have options, in a `Config`. `members`: a
    target that is a class must have these members.
    """

    noun: ClassVar[str]
    configurable: ClassVar[bool] = True
    members: ClassVar[tuple[str, ...]] = ()

    name: str
    summary: str
    target: str
    packages: tuple[str, ...] = ()
    config: str = ""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"{type(self).__name__}: name {self.name!r} is not kebab-case")
        for place in (self.target, *filter(None, [self.config])):
            self._check_place(place)

    def _check_place(self, place: str) -> None:
        if not _TARGET.fullmatch(place):
            raise ValueError(f"{type(self).__name__} {self.name}: {place!r} is not 'package.module:Name'")

    def headline(self) -> str:
        """The most important fact for a list: the examples or references that it takes."""
        return ""

    def facts(self) -> dict[str, Any]:
        """All other facts by name, as JSON data. `mmalign show` prints values that are a string, a number, a boolean, a
        list of strings, or a mapping from names to such lists."""
        return {}


@dataclass(frozen=True, kw_only=True)
class Family:
    """One kind of model that a backbone class handles, recognised by the model's config alone.

    `matches` takes the parsed config: transformers' config.json, {"model_cfg": ..., "preprocess_cfg": ...} of
    open_clip, or {"gguf_architecture": ...} of a GGUF file. `use`: a sentence with the command that such a model is
    for, shown when a command cannot use the model. `pairs`: the contents of prompts and answers that it reads; those of
    a family with the capabilities of a language model are texts, unless it says otherwise.
    """

    name: str
    matches: Callable[[Mapping[str, Any]], bool]
    provides: frozenset[Capability]
    modalities: frozenset[str]
    pairs: frozenset[Pair] = frozenset()
    use: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "provides", frozenset(Capability(name) for name in self.provides))
        object.__setattr__(self, "modalities", frozenset(self.modalities))
        object.__setattr__(self, "pairs", frozenset(self.pairs) or usual_pairs(self.provides))


@dataclass(frozen=True, kw_only=True)
class BackboneSpec(Spec):
    """A model family's loader.

    `prefixes`: with "open_clip", this backbone loads `open_clip:...` references; empty for an embedded model, which has
    a name instead. `bundled`: "package:folder" of an embedded model. `extra`: the extra that installs this package, if
    it is not the plugin's own, such as "mmalign[smollm2]". `default_for`: example kinds for which it is the default
    backbone. `sizes`: for a shape that starts from random weights, size -> config for the family's `matches`; the
    reference "gpt-2" means the first size, and "gpt-2:355m" names one. `parameters`: size -> number of parameters with
    the default tokenizer, if the size is named for another tokenizer. `merges_adapters`: the loader merges
    `Source.adapters`.
    """

    families: tuple[Family, ...]
    prefixes: tuple[str, ...] = ()
    bundled: str = ""
    extra: str = ""
    default_for: tuple[str, ...] = ()
    sizes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    parameters: Mapping[str, int] = field(default_factory=dict)
    merges_adapters: bool = False
    noun: ClassVar[str] = "backbone"

    def headline(self) -> str:
        embedded = [f"embedded in {self.extra}" if self.extra else "embedded"] if self.bundled else []
        return ", ".join([*embedded, *(f"{prefix}:..." for prefix in self.prefixes), *self._shapes()])

    def facts(self) -> dict[str, Any]:
        families = [
            {"name": f.name, "provides": sorted(f.provides), "modalities": sorted(f.modalities)} for f in self.families
        ]
        return {
            "families": families,
            "prefixes": list(self.prefixes),
            "embedded": bool(self.bundled),
            "needs_extra": self.extra,
            "default_for": list(self.default_for),
            "sizes": self._shapes(),
            "parameters": dict(self.parameters),
        }

    def _shapes(self) -> list[str]:
        """The sizes as references, such as gpt-2:124m."""
        return [f"{self.name}:{size}" for size in self.sizes]


@dataclass(frozen=True, kw_only=True)
class Role:
    """A model that an objective uses. `needs`: capabilities or derivations. `trains`: the optimiser changes it.

    only_with: an option of the objective. If it is 0, false or empty, this role is never used, and it is not built.

    source: where the model comes from. "start": the model that the run starts from. "objective.OPTION": the model that
    this option of the objective names, a reference as for `--backbone`; if the option is empty, as "start". The name of
    another role: that role's current weights.

    head: a linear head on the hidden states; it is built, trained and saved in checkpoints with the role. "scalar":
    [H] -> 1. "classes": [H] -> C, a row for each of the data set's `classes`. "value": [H] -> 1 for each token, zero at
    first: a critic; the objective's option `critic` (`mmalign.contract.roles.CriticOptions`) says on which trunk.
    """

    name: str
    needs: tuple[str, ...]
    trains: bool = True
    only_with: str = ""
    source: str = "start"
    head: Literal["", "scalar", "classes", "value"] = ""

    def used(self, config: Any) -> bool:
        """Whether an objective with these options uses the role."""
        return not self.only_with or bool(getattr(config, self.only_with))

    @property
    def source_option(self) -> str:
        """The option of the objective that names the role's model, or ""."""
        prefix, _, option = self.source.partition(".")
        return option if prefix == "objective" else ""

    def reference(self, config: Any) -> str:
        """The reference that an objective with these options names for the role, or ""."""
        return str(getattr(config, self.source_option)) if self.source_option else ""

    def parsed_needs(self) -> tuple[Need, ...]:
        return tuple(parse_need(name) for name in self.needs)

    def __post_init__(self) -> None:
        self.parsed_needs()


@dataclass(frozen=True, kw_only=True)
class SideStream:
    """A stream of examples besides "main". batch_size: the objective's option for the examples per step, over all
    processes. only_with: an option of the objective; if it is 0, false or empty, the stream is not read."""

    batch_size: str
    only_with: str = ""

    def size(self, config: Any) -> int:
        """Examples per step of an objective with these options; 0 if it does not read the stream."""
        return int(getattr(config, self.batch_size)) if not self.only_with or getattr(config, self.only_with) else 0


SAMPLED_ANSWERS = "mmalign.rl.feed:SampledAnswers"


@dataclass(frozen=True, kw_only=True)
class ObjectiveSpec(Spec):
    """A training objective.

    `examples`: stream -> the example kinds it takes; `side_streams`: options of streams besides "main". `feed`: the
    class that makes the rows of the stream "main" in each step, a `mmalign.contract.feed.Feed` named "module:Class".
    Empty: the examples themselves; SAMPLED_ANSWERS: answers that the policy samples, at least `fewest_answers` to a
    prompt. `relative`: its loss depends only on differences between the log-probabilities of answers to one prompt, so
    they need not sum to one. `rates`: its default learning rates. `best_by`: the held-out metric by which the best
    checkpoint is chosen. `watched`: metrics to look at while it trains, the most important first. `of_updates`: metrics
    of an update alone, such as a share of clipped ratios, which held-out data do not show.
    """

    roles: tuple[Role, ...]
    examples: Mapping[str, tuple[str, ...]]
    side_streams: Mapping[str, SideStream] = field(default_factory=dict)
    feed: str = ""
    fewest_answers: int = 1
    relative: bool = False
    rates: Rates = field(default_factory=Rates)
    best_by: tuple[str, Literal["low", "high"]] = ("loss", "low")
    watched: tuple[str, ...] = ()
    of_updates: frozenset[str] = frozenset()
    noun: ClassVar[str] = "objective"

    @property
    def online(self) -> bool:
        """Whether a step makes its own rows, with the policy as it then is."""
        return bool(self.feed)

    def headline(self) -> str:
        return ", ".join(sorted({kind for kinds in self.examples.values() for kind in kinds}))

    def facts(self) -> dict[str, Any]:
        roles = [
            {"name": role.name, "needs": list(role.needs), "trains": role.trains, "source": role.source}
            for role in self.roles
        ]
        return {
            "roles": roles,
            "examples": {stream: list(kinds) for stream, kinds in self.examples.items()},
            "online": self.online,
            "learning_rates": self.rates.facts(),
        }

    def __post_init__(self) -> None:
        super().__post_init__()
        roles = {role.name: role for role in self.roles}
        if len(roles) < len(self.roles):
            raise ValueError(f"objective {self.name}: two roles have one name")
        policy = roles.get("policy")
        if policy is None or not policy.trains or policy.source != "start":
            raise ValueError(f'objective {self.name}: needs a role "policy", which trains from the start')
        for role in self.roles:
            other = roles.get(role.source)
            if role.source == "start" or role.source_option:
                continue
            if other is None or other is role or other.source != "start":
                known = ", ".join(name for name, each in roles.items() if each is not role and each.source == "start")
                raise ValueError(
                    f"objective {self.name}: role {role.name} has the source {role.source!r}; it is start, "
                    f"objective.OPTION, or one of the roles {known}"
                )

    def streams(self, config: Any) -> dict[str, int]:
        """Streams besides "main" that an objective with these options reads -> examples a step."""
        sizes = {name: stream.size(config) for name, stream in self.side_streams.items()}
        return {name: size for name, size in sizes.items() if size}


@dataclass(frozen=True, kw_only=True)
class DatasetSpec(Spec):
    """A source of examples of one kind.

    `more_kinds`: other kinds that it can yield instead. Its Config then has an option `kind`, which is set to the first
    kind that the objective takes.
    `reads_files`: it reads files of that kind (`--dataset pairs.csv`). `prefixes`: with "hf", it also reads `hf:...`
    references, as its `path`. `recognises`: "package.module:name" of a function that takes a path or such a reference
    and the given options, and returns the kind of the examples in it, or ""; it is called if several readers could read
    the path.
    `default_for`: example kinds for which it is the default data set. `pairs`: the contents of its prompts and answers
    (see `ExampleSpec.pairs`), if they are always the same. `splits`: the splits that `build` can return.
    """

    kind: str
    more_kinds: tuple[str, ...] = ()
    reads_files: bool = False
    prefixes: tuple[str, ...] = ()
    recognises: str = ""
    default_for: tuple[str, ...] = ()
    pairs: frozenset[Pair] = frozenset()
    splits: tuple[str, ...] = ("train", "validation")
    noun: ClassVar[str] = "dataset"
    members: ClassVar[tuple[str, ...]] = ("Config", "build", "__len__", "__getitem__", "report", "fingerprint")

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "pairs", frozenset(self.pairs))

    def headline(self) -> str:
        return f"{', '.join(self.kinds)}{' files' if self.reads_files else ''}"

    def facts(self) -> dict[str, Any]:
        kinds = {"example_kinds": list(self.kinds), "default_for": list(self.default_for)}
        return {**kinds, "splits": list(self.splits), "reads_files": self.reads_files}

    @property
    def kinds(self) -> tuple[str, ...]:
        return (self.kind, *self.more_kinds)

    def options(self, kind: str) -> dict[str, str]:
        """The options of its Config that select that kind."""
        return {"kind": kind} if self.more_kinds else {}


@dataclass(frozen=True, kw_only=True)
class ExampleSpec(Spec):
    """A kind of example. `name`: as objectives and data sets refer to it. `target`: its frozen dataclass, see
    `mmalign.contract.examples`.

    `modalities`: the inputs that a model must read to learn from it: "image", "text". `pairs`: the contents that
    prompts and answers of its examples may have; none for a kind without prompts. `samples`: "package.module:name" of a
    function for the conformance kit; samples(n) returns n different examples, the same at every call. Without it, the
    kit takes the first examples of the default data set. An integer field `label` indexes the data set's `classes`; in
    samples it is 0, 1 or 2.
    """

    modalities: frozenset[str]
    pairs: frozenset[Pair] = frozenset()
    samples: str = ""
    noun: ClassVar[str] = "example kind"
    configurable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_place(self.samples or self.target)
        object.__setattr__(self, "modalities", frozenset(self.modalities))
        object.__setattr__(self, "pairs", frozenset(self.pairs))

    def headline(self) -> str:
        return ", ".join(sorted(self.modalities))

    def facts(self) -> dict[str, Any]:
        return {"modalities": sorted(self.modalities), "samples": self.samples}


@dataclass(frozen=True, kw_only=True)
class RewardSpec(Spec):
    """A scorer of outputs. `examples`: the kinds it can score."""

    examples: tuple[str, ...]
    noun: ClassVar[str] = "reward"
    members: ClassVar[tuple[str, ...]] = ("Config", "score")

    def headline(self) -> str:
        return ", ".join(self.examples)

    def facts(self) -> dict[str, Any]:
        return {"examples": list(self.examples)}


@dataclass(frozen=True, kw_only=True)
class EnvironmentSpec(Spec):
    """An environment with reset and step. `dataset`: the data set whose prompts it is for, where not any will do."""

    dataset: str = ""
    noun: ClassVar[str] = "environment"

    def headline(self) -> str:
        return f"prompt of {self.dataset}" if self.dataset else "prompt"

    def facts(self) -> dict[str, Any]:
        return {"dataset": self.dataset}


@dataclass(frozen=True, kw_only=True)
class EngineSpec(Spec):
    """What draws the answers of an online objective (`mmalign.rl.engines.SamplingEngine`).

    exact: it draws what the policy's own `generate` draws with the same seeds, so nothing is to be corrected for.
    reproducible: the same weights, prompts and seeds give the same answers again; else a run cannot be repeated, and
    one that is resumed goes on with other answers.
    """

    exact: bool = False
    reproducible: bool = False
    noun: ClassVar[str] = "engine"

    def headline(self) -> str:
        return "exact" if self.exact else "reproducible" if self.reproducible else "not reproducible"

    def facts(self) -> dict[str, Any]:
        return {"exact": self.exact, "reproducible": self.reproducible}


@dataclass(frozen=True, kw_only=True)
class EvaluationSpec(Spec):
    """A held-out measurement. `needs`: as of a role. `kind`: of the examples it runs on. `primary`: its main metric.

    `more_kinds`: other kinds that it can run on instead; it runs on the first that the data set yields.
    `in_training`: "always": in every run, on the kind's default data set if the run's data is of another kind;
    "own-data": only if the run's data yields that kind; "named": only if the run names it. `comparable`: the `primary`
    metric and an objective's held-out metric of that name are the same share of the same examples. `relative`: of
    answers it uses only differences between those to one prompt, so that it may run through any view of a model.
    """

    needs: tuple[str, ...]
    kind: str
    primary: str
    more_kinds: tuple[str, ...] = ()
    higher_is_better: bool = True
    in_training: Literal["always", "own-data", "named"] = "always"
    comparable: bool = False
    relative: bool = False
    noun: ClassVar[str] = "evaluation"
    members: ClassVar[tuple[str, ...]] = ("Config", "run")

    def headline(self) -> str:
        return ", ".join(self.kinds)

    def facts(self) -> dict[str, Any]:
        return {
            "needs": list(self.needs),
            "example_kinds": list(self.kinds),
            "primary": self.primary,
            "higher_is_better": self.higher_is_better,
        }

    @property
    def kinds(self) -> tuple[str, ...]:
        return (self.kind, *self.more_kinds)


@dataclass(frozen=True, kw_only=True)
class OptimizerSpec(Spec):
    """An optimiser; the target is a `mmalign.contract.optimizer.OptimizerBuilder`.

    rate: its default learning rate as a multiple of AdamW's. state_bytes: bytes of state for each byte of trained
    parameters, by which memory is reserved before the first step.
    """

    noun: ClassVar[str] = "optimizer"
    rate: float = 1.0
    state_bytes: float = 2.0

    def headline(self) -> str:
        return f"{self.state_bytes:g} bytes of state per byte of parameters"

    def facts(self) -> dict[str, Any]:
        return {"rate": self.rate, "state_bytes": self.state_bytes}


@dataclass(frozen=True, kw_only=True)
class TrackerSpec(Spec):
    """An observer of runs that name it; the target is a `mmalign.contract.tracker.Tracker`. default: it observes every
    run, unless `trackers.NAME` is false."""

    default: bool = False
    noun: ClassVar[str] = "tracker"


@dataclass(frozen=True, kw_only=True)
class CommandSpec(Spec):
    """A command of the `mmalign` program; `target` is a click command, imported when it is called. `group`: its heading
    in `mmalign --help`."""

    group: str = "From plugins"
    noun: ClassVar[str] = "command"
    configurable: ClassVar[bool] = False


# All kinds of spec. A new one needs a class above, a line here and a hook in `mmalign.contract.hooks`; its conformance
# checks go into `mmalign.testing.runner.CHECKS`.
KINDS: dict[str, type[Spec]] = {
    "backbones": BackboneSpec,
    "objectives": ObjectiveSpec,
    "datasets": DatasetSpec,
    "examples": ExampleSpec,
    "rewards": RewardSpec,
    "environments": EnvironmentSpec,
    "engines": EngineSpec,
    "evaluations": EvaluationSpec,
    "optimizers": OptimizerSpec,
    "trackers": TrackerSpec,
    "commands": CommandSpec,
}


@dataclass(frozen=True)
class Entry:
    """A spec in the catalog, with its kind and plugin."""

    kind: str
    plugin: str
    spec: Any = field(repr=False)

    @property
    def qualified(self) -> str:
        """A name that is unique in its kind, whatever is installed."""
        return f"{self.plugin}/{self.spec.name}"

    def is_called(self, name: str) -> bool:
        """Whether `name` is its bare or qualified name."""
        return name in (self.spec.name, self.qualified)
