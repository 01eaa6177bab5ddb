"""The sections of a configuration. A section is options, and the origin of each value."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

NAMED_SECTIONS = ("objective", "backbone", "dataset", "optimizer")  # `name` says whose options the section holds
FIXED_SECTIONS = {  # sections with fixed options -> their pydantic model, imported on use
    "rollout": "mmalign.rl.config:RolloutConfig",  # of objectives with a feed
    "train": "mmalign.train.config:TrainConfig",
    "data": "mmalign.train.config:DataConfig",
    "evaluation": "mmalign.train.config:EvaluationConfig",
}
OPEN_SECTIONS = ("streams", "trackers")  # name -> options
SECTIONS = (*NAMED_SECTIONS, *FIXED_SECTIONS, *OPEN_SECTIONS)


def section_model(section: str) -> Any:
    """The pydantic model of a section of FIXED_SECTIONS."""
    module, _, name = FIXED_SECTIONS[section].partition(":")
    return getattr(import_module(module), name)


class Section(dict[str, Any]):
    """One section's options. origins: dotted key -> "file:line" or "command line".

    dropped: the origins of options that were dropped because another layer changed `name`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.origins: dict[str, str] = {}
        self.dropped: dict[str, str] = {}

    def merge(self, values: Mapping[str, Any], origins: Mapping[str, str]) -> None:
        """Merge `values` over the present options, mapping by mapping.

        If `values` changes `name`, all options so far are dropped, because they belong to the previous name.
        """
        if "name" in values and "name" in self and values["name"] != self["name"]:
            self.dropped |= {key: origin for key, origin in self.origins.items() if key != "name"}
            self.clear()
            self.origins.clear()
        overlay(self, values)
        self.origins.update(origins)


def overlay(base: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Merge `values` over `base`, mapping by mapping, in place."""
    for key, value in values.items():
        current = base.get(key)
        if isinstance(current, dict) and isinstance(value, dict):
            overlay(current, value)
        else:
            base[key] = value
