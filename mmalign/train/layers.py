"""Merge a run's configuration: recipe < YAML files in their order < --set and the name flags.

    layers = load_layers(recipe=recipe_path("contrastive"), files=[Path("x.yaml")], sets=["train.lr=1e-4"])
    layers = load_layers(files=[Path("pasted-objects")])   # a packaged recipe by its name
    layers["train"]                    # a Section: a dict that knows where each value came from
    layers["train"].origins["lr"]      # "command line", or "x.yaml:3"

Sections stay plain dicts here; `mmalign.config.validate.build` checks each against its config class later.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmalign.config.section import FIXED_SECTIONS, NAMED_SECTIONS, SECTIONS, Section, overlay, section_model
from mmalign.errors import UsageError, did_you_mean
from mmalign.reading import parse_json

# Alternatives (first, second): a layer that sets the first removes the second of the layers below.
_IN_PLACE_OF = {"train": (("steps", "epochs"), ("epochs", "steps"), ("warmup_share", "warmup_steps"))}

_ROOT = Path(__file__).resolve().parents[1]
_RECIPE_NAME = r"[a-z0-9_-]+"


def load_layers(
    *,
    recipe: Path | None = None,
    files: Iterable[Path] = (),
    sets: Iterable[str] = (),
    names: Mapping[str, str] | None = None,
) -> dict[str, Section]:
    """Return every section, the later layer winning; raises UsageError.

    files: as `config_file` takes them, packaged recipes by name included. names: the flags --objective, --backbone and
    --dataset, such as {"backbone": "clip-lite"}, part of the --set layer.
    """
    layers = {name: Section() for name in SECTIONS}
    for path in [*([recipe] if recipe else []), *map(config_file, files)]:
        for name, (values, origins) in read_file(path).items():
            _displace(name, layers[name], values)
            layers[name].merge(values, origins)
    for name, values in _read_sets(sets, names or {}).items():
        _displace(name, layers[name], values)
        layers[name].merge(values, dict.fromkeys(_dotted_keys(values), "command line"))
    return layers


def read_file(path: Path) -> dict[str, tuple[dict[str, Any], dict[str, str]]]:
    """One file's sections with the origin of each key; raises UsageError for an unknown section."""
    from mmalign.config.yaml_reader import read_yaml

    data, lines = read_yaml(path)
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise UsageError(f"{path}: holds {_type_name(data)}, not sections", hint=f"Sections: {', '.join(SECTIONS)}.")
    unknown = [f"{path}:{lines[(name,)]}: {_unknown_section(name)}" for name in data if name not in SECTIONS]
    if unknown:
        hint = f"Sections: {', '.join(SECTIONS)}."
        if "stages" in data:
            hint = f"This file defines a pipeline: mmalign pipeline {path}"
        raise UsageError("\n".join(unknown), hint=hint)
    sections = {}
    for name, value in data.items():
        values = _as_section(name, value, f"{path}:{lines[(name,)]}")
        origins = {".".join(key[1:]): f"{path}:{line}" for key, line in lines.items() if key[0] == name}
        sections[name] = (values, {key: origin for key, origin in origins.items() if key})
    return sections


def parse_set(text: str) -> tuple[tuple[str, ...], Any]:
    """Split "objective.beta=0.2" into (("objective", "beta"), 0.2): the value is JSON, else the text as it stands."""
    key, equals, raw = text.partition("=")
    path = tuple(part.strip() for part in key.split("."))
    if not equals or not all(path):
        raise UsageError(f"--set {text!r} is not section.key=value", hint="For example: --set objective.beta=0.2")
    if path[0] not in SECTIONS:
        raise UsageError(f"--set {text}: {_unknown_section(path[0])}", hint=f"Sections: {', '.join(SECTIONS)}.")
    try:
        return path, parse_json(raw, parse_constant=_refuse_constant)
    except ValueError:
        return path, raw


def recipe_path(name: str) -> Path | None:
    """The packaged recipe of an objective, or one with a name of its own, in an installed package or in a checkout;
    None if there is none."""
    if not re.fullmatch(_RECIPE_NAME, name):
        return None
    return next((path for path in packaged_recipes() if path.stem == name), None)


def config_file(path: Path) -> Path:
    """What `-c` means: the file, or the packaged recipe of that bare name. Raises UsageError for a bare name that is
    neither."""
    name = str(path)
    if path.exists() or not re.fullmatch(_RECIPE_NAME, name):
        return path
    recipe = recipe_path(name)
    if recipe is None:
        known = sorted(packaged.stem for packaged in packaged_recipes())
        raise UsageError(
            f"-c {name}: no such file, and no packaged recipe. {did_you_mean(name, known)}".strip(),
            hint=f"Packaged: {', '.join(known)}.",
        )
    return recipe


def is_packaged(path: Path) -> bool:
    """Whether `-c` means a packaged recipe."""
    return not path.exists() and recipe_path(str(path)) is not None


def packaged_recipes() -> list[Path]:
    """All files of the installed package, else of the checkout; some define a pipeline."""
    folders = (_ROOT / "configs", _ROOT.parent / "configs")
    return next((files for files in (sorted(folder.glob("*.yaml")) for folder in folders) if files), [])


def _displace(name: str, section: Section, values: Mapping[str, Any]) -> None:
    for key, displaced in _IN_PLACE_OF.get(name, ()):
        if values.get(key) and displaced not in values:
            section.pop(displaced, None)
            section.origins.pop(displaced, None)


def _read_sets(sets: Iterable[str], names: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    layer: dict[str, dict[str, Any]] = {}
    for text in sets:
        path, value = parse_set(text)
        if len(path) == 1:
            overlay(layer.setdefault(path[0], {}), _as_section(path[0], value, f"--set {text}"))
            continue
        target = layer.setdefault(path[0], {})
        for part in path[1:-1]:
            target = target.setdefault(part, {})
            if not isinstance(target, dict):
                hint = f"Set either a value or keys below it; a name: --set {'.'.join(path[:-1])}.name=..."
                raise UsageError(f"--set {text}: {part} is already set to a value", hint=hint)
        target[path[-1]] = value
    for section, name in names.items():
        set_to = layer.setdefault(section, {}).setdefault("name", name)
        if set_to != name:
            raise UsageError(f"--{section} {name} and --set {section}.name={set_to} disagree", hint="Give one of them.")
    return layer


def _as_section(name: str, value: Any, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    if isinstance(value, str) and name in NAMED_SECTIONS:
        return {"name": value}
    if not isinstance(value, dict):
        expected = "a name or options" if name in NAMED_SECTIONS else "options (key: value)"
        raise UsageError(f"{where}: section {name} takes {expected}, not {_type_name(value)}")
    return value


def _dotted_keys(values: Mapping[str, Any], prefix: str = "") -> Iterable[str]:
    for key, value in values.items():
        yield prefix + key
        if isinstance(value, dict):
            yield from _dotted_keys(value, f"{prefix}{key}.")


def _unknown_section(name: str) -> str:
    options = [f"{section}.{name}" for section in FIXED_SECTIONS if name in section_model(section).model_fields]
    near = f"Did you mean {' or '.join(options)}?" if options else did_you_mean(name, SECTIONS)
    return f"unknown section {name!r}. {near}".strip()


def _type_name(value: Any) -> str:
    return {"list": "a list", "str": "text", "bool": "true or false"}.get(type(value).__name__, "a number")


def _refuse_constant(text: str) -> float:
    raise ValueError(text)
