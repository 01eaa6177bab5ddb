"""A pipeline's file: stages in the order in which they run, and the outputs that each passes on to later ones.

    pipeline = read_pipeline(Path("instructgpt.yaml"), sets=["ppo.train.steps=5"])
    pipeline.stages["ppo"].sections["rollout"]      # as written, with references
    pipeline.filled("ppo", outputs)                 # with references replaced by paths

    name: instructgpt
    stages:
      sft:
        run: train                    # then the sections of a run, as in `mmalign train -c`
        objective: sft
        backbone: gpt-mini
        dataset: {name: movie-reviews, kind: completion}
      samples:
        run: sample                   # then the options of mmalign sample
        backbone: ${sft.model}
    report: {...}                     # which models to compare, on which prompts, by which judges

A stage of kind train passes on the folders `model` and `run`; sample passes on the file `answers`, rank the file
`rankings`. Packaged recipes are not merged into stages: the file states everything that a stage does.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmalign.config.section import SECTIONS, Section
from mmalign.errors import UsageError, did_you_mean
from mmalign.reading import parse_json

# kind of stage -> output -> its file name in the stage's folder
OUTPUTS: dict[str, dict[str, str]] = {
    "train": {"model": "model", "run": ""},
    "sample": {"answers": "answers.jsonl"},
    "rank": {"rankings": "rankings.jsonl"},
}
REPORT = "report"
_NAME = re.compile(r"[a-z0-9]+(?:[-_][a-z0-9]+)*")
_REFERENCE = re.compile(r"\$\{([^}]*)\}")
_TOP = ("name", "stages", REPORT)

Outputs = Mapping[str, Mapping[str, str]]  # stage -> output -> path


@dataclass(frozen=True)
class Stage:
    """options: as written, without `run`. origins: dotted key -> "file:line". where: "file:line" of the stage
    itself."""

    name: str
    kind: str
    options: Mapping[str, Any]
    origins: Mapping[str, str]
    where: str

    @property
    def reads(self) -> list[str]:
        """The references in its options, such as "sft.model", in their order."""
        return list(dict.fromkeys(references(self.options)))

    def sections(self, options: Mapping[str, Any]) -> dict[str, Section]:
        """For a stage that trains: `options`, its own options with references replaced, by section."""
        by_section = {name: Section() for name in SECTIONS}
        for name, value in options.items():
            value = {"name": value} if isinstance(value, str) else value
            start = f"{name}."
            origins = {key.removeprefix(start): line for key, line in self.origins.items() if key.startswith(start)}
            by_section[name].merge(value or {}, origins)
        return by_section

    def section(self, options: Mapping[str, Any]) -> Section:
        """For another stage: all its options as one section."""
        whole = Section()
        whole.merge(options, self.origins)
        return whole


@dataclass(frozen=True)
class Pipeline:
    """stages: by name, in their order. report: the last stage, of a kind of its own; its options may be empty."""

    name: str
    path: Path
    stages: Mapping[str, Stage]
    report: Stage

    @property
    def names(self) -> list[str]:
        """Names of all stages that run, in order."""
        return [*self.stages, REPORT]

    def stage(self, name: str) -> Stage:
        """Raises UsageError for an unknown name."""
        if name == REPORT:
            return self.report
        if name not in self.stages:
            near = did_you_mean(name, self.names)
            raise UsageError(f"{self.path}: no stage {name!r}", hint=f"{near} Stages: {', '.join(self.names)}.".strip())
        return self.stages[name]

    def filled(self, name: str, outputs: Outputs) -> dict[str, Any]:
        """A stage's options with its references replaced."""
        stage = self.stage(name)

        def replace(text: str) -> str:
            return _REFERENCE.sub(lambda match: _look_up(match[1], outputs), text)

        return _mapped(dict(stage.options), replace)

    def as_dict(self) -> dict[str, Any]:
        """What is stored of the pipeline and compared: everything except positions in the file."""
        stages = {name: {"run": stage.kind, **stage.options} for name, stage in self.stages.items()}
        return {"name": self.name, "stages": stages, REPORT: dict(self.report.options)}


def read_pipeline(path: Path, sets: Sequence[str] = ()) -> Pipeline:
    """Read and check names, kinds and references; sets: stage.section.key=value. Raises UsageError, with the line."""
    from mmalign.config.yaml_reader import read_yaml

    data, lines = read_yaml(path)

    def at(*key: str) -> str:
        return f"{path}:{lines[key]}" if key in lines else str(path)

    if not isinstance(data, dict) or not isinstance(data.get("stages"), dict) or not data["stages"]:
        hint = "mmalign pipeline --help shows what a file looks like."
        if isinstance(data, dict) and data.keys() & set(SECTIONS):
            hint = f"The file holds the options of one run: mmalign train -c {path}"
        raise UsageError(f"{path}: holds no stages", hint=hint)
    for key in data:
        if key not in _TOP:
            raise UsageError(f"{at(key)}: unknown key {key!r}. {did_you_mean(key, _TOP)}".strip(), hint=_expected(_TOP))
    name = data.get("name", path.stem)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UsageError(f"{at('name')}: name {name!r} is not kebab-case", hint="For example: my-pipeline.")
    stages = {
        key: _stage(key, value, {k[2:]: f"{path}:{line}" for k, line in lines.items() if k[:2] == ("stages", key)}, at)
        for key, value in data["stages"].items()
    }
    options = data.get(REPORT) or {}
    if not isinstance(options, dict):
        raise UsageError(f"{at(REPORT)}: {REPORT} takes options (key: value)")
    origins = {".".join(k[1:]): f"{path}:{line}" for k, line in lines.items() if k[0] == REPORT and len(k) > 1}
    pipeline = Pipeline(name, path, stages, Stage(REPORT, REPORT, options, origins, at(REPORT)))
    for text in sets:
        _set(pipeline, text)
    _check_references(pipeline)
    return pipeline


def outputs_of(stage: Stage, folder: Path) -> dict[str, str]:
    """The outputs of a stage in its folder, as absolute paths."""
    return {name: str((folder / place).absolute()) for name, place in OUTPUTS.get(stage.kind, {}).items()}


def references(value: Any) -> Iterator[str]:
    """Every ${...} in texts, at any depth."""
    if isinstance(value, str):
        yield from _REFERENCE.findall(value)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from references(item)


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys."""
    if not isinstance(value, Mapping) or not value:
        return {prefix: value}
    dotted: dict[str, Any] = {}
    for key, item in value.items():
        dotted |= flat(item, f"{prefix}.{key}" if prefix else str(key))
    return dotted


def _stage(name: str, value: Any, lines: Mapping[tuple[str, ...], str], at: Callable[..., str]) -> Stage:
    where = at("stages", name)
    if not _NAME.fullmatch(name) or name == REPORT:
        raise UsageError(f"{where}: a stage cannot be called {name!r}", hint="Names are kebab-case: reward-model.")
    kind = value.get("run") if isinstance(value, dict) else None
    if kind not in OUTPUTS:
        raise UsageError(
            f"{where}: stage {name} says run: {kind!r}. {did_you_mean(str(kind), OUTPUTS)}".strip(),
            hint=f"A stage begins with `run:` and one of {', '.join(OUTPUTS)}.",
        )
    options = {key: item for key, item in value.items() if key != "run"}
    for key in options if kind == "train" else ():
        if key not in SECTIONS:
            raise UsageError(
                f"{at('stages', name, key)}: stage {name}: unknown section {key!r}. {did_you_mean(key, SECTIONS)}",
                hint=_expected(SECTIONS),
            )
        if not isinstance(options[key], dict | str | None):
            raise UsageError(f"{at('stages', name, key)}: stage {name}: section {key} takes options (key: value)")
    return Stage(name, str(kind), options, {".".join(key): line for key, line in lines.items() if key}, where)


def _set(pipeline: Pipeline, text: str) -> None:
    key, equals, raw = text.partition("=")
    stage_name, *path = key.strip().split(".")
    if not equals or not path or not all(path):
        raise UsageError(f"--set {text!r} is not stage.section.key=value", hint="For example: --set ppo.train.steps=5")
    try:
        value = parse_json(raw)
    except ValueError:
        value = raw
    stage = pipeline.stage(stage_name)
    target: Any = stage.options
    for field in path[:-1]:
        if isinstance(target.get(field), str):
            target[field] = {"name": target[field]}
        target = target.setdefault(field, {})
        if not isinstance(target, dict):
            raise UsageError(f"--set {text}: {field} is already set to a value")
    target[path[-1]] = value
    origins: Any = stage.origins
    origins |= dict.fromkeys(flat(value, ".".join(path)), "command line")


def _check_references(pipeline: Pipeline) -> None:
    """Raises UsageError that lists every reference that names no output of an earlier stage."""
    mistakes, earlier = [], dict[str, Stage]()
    for name in pipeline.names:
        stage = pipeline.stage(name)
        for reference in stage.reads:
            wrong = _wrong(reference, earlier, pipeline)
            if wrong:
                keys = [key for key, item in flat(stage.options).items() if reference in set(references(item))]
                where = next((stage.origins[key] for key in keys if key in stage.origins), stage.where)
                mistakes.append(f"{where}: stage {name}: ${{{reference}}} {wrong}")
        earlier[name] = stage
    if mistakes:
        raise UsageError("\n".join(mistakes), hint="A reference is ${STAGE.OUTPUT}, of a stage further up in the file.")


def _wrong(reference: str, earlier: Mapping[str, Stage], pipeline: Pipeline) -> str:
    name, _, output = reference.partition(".")
    if name not in earlier:
        if name in pipeline.names:
            return "comes later or is the stage itself"
        return f"names no stage. {did_you_mean(name, earlier)}".strip()
    known = OUTPUTS[earlier[name].kind]
    if output in known:
        return ""
    return f"names no output of {name}, which has {', '.join(known)}. {did_you_mean(output, known)}".strip()


def _look_up(reference: str, outputs: Outputs) -> str:
    name, _, output = reference.partition(".")
    return outputs[name][output]


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _mapped(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(item, change) for item in value]
    return value


def _expected(names: Iterable[str]) -> str:
    return f"Expected: {', '.join(names)}."
