"""Entries of the catalog as plain facts, for `list` and `show`. The facts come from `Spec.facts`."""

from collections.abc import Iterator
from typing import Any

from mmalign.contract.capabilities import Derived
from mmalign.contract.specs import Entry

_IN_HEADING = ("kind", "plugin", "summary")  # facts that the first two lines of `text` show


def facts(entry: Entry) -> dict[str, Any]:
    """All facts of an entry, as JSON data."""
    spec = entry.spec
    common = {
        "qualified_name": entry.qualified,
        "kind": entry.kind,
        "plugin": entry.plugin,
        "summary": spec.summary,
        "target": spec.target,
        "packages": list(spec.packages),
    }
    return common | spec.facts()


def text(entry: Entry) -> str:
    """The facts of one entry as lines for people; empty and false ones are left out."""
    lines = [f"{entry.spec.name} ({entry.spec.noun} of {entry.plugin})", f"  {entry.spec.summary}", ""]
    for key, value in facts(entry).items():
        if key not in _IN_HEADING and value not in ([], {}, "", False):
            lines += [f"  {line}" for line in _lines(entry.spec.name, key, value)]
    return "\n".join(lines)


def _lines(name: str, key: str, value: Any) -> Iterator[str]:
    label = key.replace("_", " ")
    if key == "families":
        yield from (f"family {family['name']}: provides {', '.join(family['provides'])}" for family in value)
    elif key == "roles":
        for role in value:
            needs = ", ".join(map(_need, role["needs"]))
            yield f"role {role['name']} ({'trained' if role['trains'] else 'frozen'}): needs {needs}"
    elif key == "parameters":
        counts = (f"{name}:{size} has {number:,}" for size, number in value.items())
        yield f"parameters with the default tokenizer: {', '.join(counts)}"
    elif isinstance(value, dict):
        yield from (f"{label} {name}: {', '.join(items)}" for name, items in value.items())
    else:
        yield f"{label}: {', '.join(value) if isinstance(value, list) else value}"


def _need(name: str) -> str:
    return f"{name} (derived)" if name in set(Derived) else name
