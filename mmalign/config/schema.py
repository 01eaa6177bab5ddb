"""Describes a config model, for people as YAML with comments and for editors as a JSON schema.

print(commented_yaml(Contrastive.Config, "objective", name="contrastive"))    # mmalign config show
print(json.dumps(json_schema({"train": TrainConfig})))                        # mmalign config schema
"""

from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic.json_schema import models_json_schema
from pydantic_core import to_jsonable_python

from mmalign.config.section import NAMED_SECTIONS, OPEN_SECTIONS
from mmalign.config.validate import nested_model


def commented_yaml(
    model: type[BaseModel],
    where: str,
    *,
    name: str = "",
    values: Mapping[str, Any] | None = None,
    reasons: Mapping[str, str] | None = None,
) -> str:
    """The section `where` as YAML: every field with its description, type, and value from `values` or its default.

    The YAML reads back to the same values. A required field without a value is commented out. reasons: field -> why it
    has its value, written as a comment.
    """
    lines = [f"{where}:"] + ([f"  name: {_inline(name)}"] if name else [])
    body = list(_fields(model, "  ", values or {}, reasons or {}))
    if not body and not name:
        return f"{where}: {{}}\n"
    return "\n".join([*lines, *body]) + "\n"


def json_schema(sections: Mapping[str, type[BaseModel]]) -> dict[str, Any]:
    """The JSON schema of a config file with these sections."""
    references, definitions = models_json_schema([(model, "validation") for model in sections.values()])
    properties: dict[str, Any] = {}
    for name, model in sections.items():
        reference = references[(model, "validation")]
        if name not in NAMED_SECTIONS:
            properties[name] = reference
            continue
        body = definitions["$defs"][reference["$ref"].rpartition("/")[2]]
        body.setdefault("properties", {}).setdefault("name", {"type": "string", "description": f"Which {name}."})
        properties[name] = {"anyOf": [{"type": "string"}, reference]}
    anything = {"type": "object"}  # the plugins that are named there say which options they take
    properties |= {name: anything for name in OPEN_SECTIONS}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "mmalign configuration",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        **definitions,
    }


def field_rows(model: type[BaseModel], prefix: str = "") -> list[dict[str, Any]]:
    """Each option as {"key", "type", "default", "required", "description"}, nested ones with dotted keys."""
    rows = []
    for name, field in model.model_fields.items():
        nested = nested_model(field.annotation)
        if nested is not None and not field.is_required() and default_of(field) is not None:
            rows += field_rows(nested, f"{prefix}{name}.")
            continue
        rows.append(
            {
                "key": prefix + name,
                "type": type_text(field),
                "default": None if field.is_required() else default_of(field),
                "required": field.is_required(),
                "description": field.description or "",
            }
        )
    return rows


def default_of(field: FieldInfo) -> Any:
    """The default as plain data."""
    return to_jsonable_python(field.get_default(call_default_factory=True, validated_data={}), inf_nan_mode="constants")


def type_text(field: FieldInfo) -> str:
    """The annotation in readable form, with its bounds: "float, > 0"."""
    annotation: Any = field.annotation
    text = annotation.__name__ if isinstance(annotation, type) and "[" not in str(annotation) else str(annotation)
    for noise in ("typing.", "pathlib.", "NoneType"):
        text = text.replace(noise, "None" if noise == "NoneType" else "")
    if text.startswith("Literal["):
        text = " | ".join(choice.strip("'\" ") for choice in text[8:-1].split(","))
    return ", ".join([text, *(bound for item in field.metadata for bound in _bounds(item))])


def _bounds(item: Any) -> Iterator[str]:
    """The bounds of annotated_types as text; nothing for other constraints."""
    signs = {"Gt": ("gt", ">"), "Ge": ("ge", ">="), "Lt": ("lt", "<"), "Le": ("le", "<=")}
    attribute, sign = signs.get(type(item).__name__, ("", ""))
    if attribute:
        yield f"{sign} {getattr(item, attribute)}"


def _fields(
    model: type[BaseModel], indent: str, values: Mapping[str, Any], reasons: Mapping[str, str]
) -> Iterator[str]:
    for name, field in model.model_fields.items():
        nested = nested_model(field.annotation)
        if nested is not None and not field.is_required() and default_of(field) is not None:
            yield f"{indent}# {field.description or ''}".rstrip()
            yield f"{indent}{name}:"
            yield from _fields(nested, indent + "  ", values.get(name, {}), {})
            continue
        yield f"{indent}# {field.description or ''} [{type_text(field)}]".replace("#  [", "# [")
        if name in reasons:
            yield f"{indent}# here: {reasons[name]}"
        if field.is_required() and name not in values:
            yield f"{indent}# {name}:   (required)"
        else:
            yield f"{indent}{name}: {_inline(values[name] if name in values else default_of(field))}"


def _inline(value: Any) -> str:
    """A value on one line of YAML that YAML 1.1 and 1.2 read alike."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
    return text.removesuffix("...\n").strip()
