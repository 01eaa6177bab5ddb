"""Checks one section against a plugin's pydantic model, and reports every mistake at once.

config = build(Contrastive.Config, layers["objective"], "objective")
"""

import re
import types
from collections.abc import Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from mmalign.config.section import NAMED_SECTIONS, Section
from mmalign.errors import UsageError, did_you_mean

Model = TypeVar("Model", bound=BaseModel)


def build(model: type[Model], section: Mapping[str, Any], where: str, *, hint: str = "") -> Model:
    """Return the validated config; raises one UsageError that lists every wrong key with its origin, and `hint`.

    The `name` of an objective, backbone or dataset section is ignored unless the model has such a field.
    """
    result, mistakes = _attempt(model, section, where)
    if result is None:
        name = section.get("name", "OBJECTIVE") if where == "objective" else "OBJECTIVE"
        raise UsageError("\n".join(mistakes), hint=hint or f"All options: mmalign config show {name}")
    return result


MOVED_OPTIONS = {f"train.{name}": f"optimizer.{name}" for name in ("beta1", "beta2", "eps", "weight_decay")}
"""Options of earlier versions -> their names now."""


def build_all(models: Mapping[str, type[BaseModel]], sections: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Validate several sections; returns {section: config}, or raises one UsageError with the mistakes in all."""
    results, mistakes = {}, []
    for where, model in models.items():
        results[where], lines = _attempt(model, sections.get(where, {}), where)
        mistakes += lines
    if mistakes:
        name = sections.get("objective", {}).get("name", "OBJECTIVE")
        raise UsageError("\n".join(mistakes), hint=f"All options: mmalign config show {name}")
    return results


def _attempt(model: type[Model], section: Mapping[str, Any], where: str) -> tuple[Model | None, list[str]]:
    values = dict(section)
    if where in NAMED_SECTIONS and "name" not in model.model_fields:
        values.pop("name", None)
    try:
        return model.model_validate(values), []
    except ValidationError as error:
        origins = section.origins if isinstance(section, Section) else {}
        return None, list(dict.fromkeys(_line(model, values, where, detail, origins) for detail in error.errors()))


def _line(model: type[BaseModel], values: Any, where: str, error: Any, origins: Mapping[str, str]) -> str:
    """One mistake as "objective.betta: unknown key. Did you mean beta? (x.yaml:3)"."""
    path = _real_path(values, error["loc"], keep_last=error["type"] == "missing")
    dotted = ".".join(map(str, path))
    if error["type"] == "extra_forbidden":
        owner = _model_at(model, path[:-1])
        moved = MOVED_OPTIONS.get(f"{where}.{dotted}")
        near = did_you_mean(str(path[-1]), owner.model_fields if owner else ())
        text = f"unknown key. {f'It is {moved} now.' if moved else near}"
    elif error["type"] == "missing":
        text = "is required and missing"
    else:
        allowed = re.findall(r"'([^']*)'", str(error.get("ctx", {}).get("expected", "")))
        text = error["msg"].removeprefix("Value error, ")
        of_all_options = error["type"] == "value_error" and isinstance(error["input"], Mapping)
        if not of_all_options:
            text = f"{text}, got {error['input']!r}"
        near = did_you_mean(str(error["input"]), allowed)
        text = f"{text}. {near}" if near else text
    origin = next((origins[key] for key in _prefixes(path) if key in origins), "")
    return f"{where}{'.' if dotted else ''}{dotted}: {text.strip()}{f' ({origin})' if origin else ''}"


def _real_path(values: Any, location: tuple[Any, ...], *, keep_last: bool) -> tuple[Any, ...]:
    """Pydantic's location without the keys that are not in the input; these name the branches of unions."""
    path: list[Any] = []
    for position, key in enumerate(location):
        if isinstance(values, Mapping) and key in values:
            values = values[key]
        elif isinstance(values, (list, tuple)) and isinstance(key, int) and key < len(values):
            values = values[key]
        elif not (keep_last and position == len(location) - 1):
            continue
        path.append(key)
    return tuple(path)


def _model_at(model: type[BaseModel], path: tuple[Any, ...]) -> type[BaseModel] | None:
    """The nested model at a path of field names; None if there is no model."""
    for name in path:
        field = model.model_fields.get(name) if isinstance(name, str) else None
        nested = nested_model(field.annotation) if field else None
        if nested is None:
            return None
        model = nested
    return model


def nested_model(annotation: Any) -> type[BaseModel] | None:
    """The model in an annotation: `Model` of `Model` or `Model | None`; else None."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and not isinstance(candidate, types.GenericAlias):
            if issubclass(candidate, BaseModel):
                return candidate
    return None


def _prefixes(path: tuple[Any, ...]) -> list[str]:
    return [".".join(map(str, path[:end])) for end in range(len(path), 0, -1)]
