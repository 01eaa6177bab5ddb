"""Specs as plain facts, for `list`, `show` and `plugins`."""

from typing import Any

from mmalign.contract.capabilities import Derived
from mmalign.contract.specs import (
    BackboneSpec,
    DatasetSpec,
    EngineSpec,
    Entry,
    EnvironmentSpec,
    EvaluationSpec,
    ObjectiveSpec,
    OptimizerSpec,
    Rates,
    RewardSpec,
)


def facts(entry: Entry) -> dict[str, Any]:
    """Everything that a spec says, as JSON data."""
    spec = entry.spec
    common = {
        "qualified_name": entry.qualified,
        "kind": entry.kind,
        "plugin": entry.plugin,
        "summary": spec.summary,
        "target": spec.target,
        "packages": list(spec.packages),
    }
    return common | _particular(spec)


def headline(entry: Entry) -> str:
    """The one thing to know in a list: the examples or references it takes."""
    spec = entry.spec
    if isinstance(spec, BackboneSpec):
        embedded = [f"embedded in {spec.extra}" if spec.extra else "embedded"] if spec.bundled else []
        return ", ".join([*embedded, *(f"{prefix}:..." for prefix in spec.prefixes), *_sizes(spec)])
    if isinstance(spec, ObjectiveSpec):
        return ", ".join(sorted({kind for kinds in spec.examples.values() for kind in kinds}))
    if isinstance(spec, DatasetSpec):
        return f"{', '.join(spec.kinds)}{' files' if spec.reads_files else ''}"
    if isinstance(spec, RewardSpec):
        return ", ".join(spec.examples)
    if isinstance(spec, EnvironmentSpec):
        return f"prompt of {spec.dataset}" if spec.dataset else "prompt"
    if isinstance(spec, EngineSpec):
        return "exact" if spec.exact else "reproducible" if spec.reproducible else "not reproducible"
    return ", ".join(spec.kinds) if isinstance(spec, EvaluationSpec) else ""


def _particular(spec: Any) -> dict[str, Any]:
    if isinstance(spec, BackboneSpec):
        families = [
            {"name": f.name, "provides": sorted(f.provides), "modalities": sorted(f.modalities)} for f in spec.families
        ]
        return {
            "families": families,
            "prefixes": list(spec.prefixes),
            "embedded": bool(spec.bundled),
            "needs_extra": spec.extra,
            "default_for": list(spec.default_for),
            "sizes": _sizes(spec),
            "parameters": dict(spec.parameters),
        }
    if isinstance(spec, ObjectiveSpec):
        roles = [
            {"name": role.name, "needs": list(role.needs), "trains": role.trains, "source": role.source}
            for role in spec.roles
        ]
        return {
            "roles": roles,
            "examples": {stream: list(kinds) for stream, kinds in spec.examples.items()},
            "online": spec.online,
            "learning_rates": _rates(spec.rates),
        }
    if isinstance(spec, DatasetSpec):
        kinds = {"example_kinds": list(spec.kinds), "default_for": list(spec.default_for)}
        return {**kinds, "splits": list(spec.splits), "reads_files": spec.reads_files}
    if isinstance(spec, RewardSpec):
        return {"examples": list(spec.examples)}
    if isinstance(spec, EnvironmentSpec):
        return {"dataset": spec.dataset}
    if isinstance(spec, EngineSpec):
        return {"exact": spec.exact, "reproducible": spec.reproducible}
    if isinstance(spec, OptimizerSpec):
        return {"rate": spec.rate, "state_bytes": spec.state_bytes}
    if isinstance(spec, EvaluationSpec):
        return {
            "needs": list(spec.needs),
            "example_kinds": list(spec.kinds),
            "primary": spec.primary,
            "higher_is_better": spec.higher_is_better,
        }
    return {}


def text(entry: Entry) -> str:
    """The facts of one entry as lines for a reader."""
    lines = [f"{entry.spec.name} ({entry.kind[:-1]} of {entry.plugin})", f"  {entry.spec.summary}", ""]
    for key, value in facts(entry).items():
        if key in ("kind", "plugin", "summary") or value in ([], {}, "", False):
            continue
        label = key.replace("_", " ")
        if key == "families":
            for family in value:
                lines.append(f"  family {family['name']}: provides {', '.join(family['provides'])}")
        elif key == "roles":
            for role in value:
                lines.append(f"  role {role['name']} ({_role(role)}): needs {', '.join(map(_need, role['needs']))}")
        elif key == "parameters":
            counts = (f"{entry.spec.name}:{size} has {number:,}" for size, number in value.items())
            lines.append(f"  parameters with the default tokenizer: {', '.join(counts)}")
        elif isinstance(value, dict):
            lines += [f"  {label} {name}: {', '.join(items)}" for name, items in value.items()]
        else:
            lines.append(f"  {label}: {', '.join(value) if isinstance(value, list) else value}")
    return "\n".join(lines)


def _sizes(spec: BackboneSpec) -> list[str]:
    """As references: gpt-2:124m."""
    return [f"{spec.name}:{size}" for size in spec.sizes]


def _rates(rates: Rates) -> dict[str, list[str]]:
    """By what trains."""
    from mmalign.train.rates import in_words, stated

    at = f"at {in_words(rates.size)} parameters"
    return {
        "of all weights": [f"{stated(rates, adapter=False, random=False):g} {at}, after {rates.source}"],
        "of random weights": [f"{stated(rates, adapter=False, random=True):g} {at}"],
        "of an adapter": [f"{stated(rates, adapter=True, random=False):g} {at}"],
    }


def _role(role: dict[str, Any]) -> str:
    return "trained" if role["trains"] else "frozen"


def _need(name: str) -> str:
    return f"{name} (derived)" if name in set(Derived) else name
