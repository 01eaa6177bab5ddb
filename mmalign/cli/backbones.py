"""The `--set` options of commands that use one backbone."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mmalign.errors import UsageError

if TYPE_CHECKING:
    from mmalign.config.section import Section


def backbone_settings(sets: Sequence[str], command: str) -> Mapping[str, Any]:
    """The section `backbone` of --set; raises UsageError for any other."""
    return settings_of(sets, command, ("backbone",))["backbone"]


def settings_of(sets: Sequence[str], command: str, sections: Sequence[str]) -> "Mapping[str, Section]":
    """Some sections of --set; raises UsageError for any other, and for a name, which has a flag of its own."""
    from mmalign.train.layers import load_layers

    layers = load_layers(sets=sets)
    others = [f"section {name}" for name, section in layers.items() if section and name not in sections]
    named = [f"{name}.name" for name in sections if "name" in layers[name]]
    if others or named:
        keys = " or ".join(f"{name}.key=value" for name in sections)
        raise UsageError(
            f"{command} takes no {(others or named)[0]} in --set", hint=f"Use --backbone MODEL, and --set {keys}."
        )
    return {name: layers[name] for name in sections}
