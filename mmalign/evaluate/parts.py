"""The part of a data set that an evaluation runs on.

part = Part.open(catalog, entry, config, "preference", "test")      # raises where the data set has no such part
part = held_out(catalog, entry, config, "preference")               # the validation part, else all of it
part.dataset; part.sibling("train")
"""

from dataclasses import dataclass
from typing import Any, Self

from mmalign.catalog import Catalog
from mmalign.errors import DataError
from mmalign.specs import Entry

ALL = "all"


@dataclass(frozen=True)
class Part:
    """Examples of one kind. split: "train", "validation", "test", or "all" where nothing is set aside."""

    entry: Entry
    target: Any
    config: Any
    kind: str
    split: str
    dataset: Any

    @classmethod
    def open(cls, catalog: Catalog, entry: Entry, config: Any, kind: str, split: str) -> Self:
        """The part of that name; raises DataError where there is none."""
        target = catalog.load(entry)
        dataset = target.build(config, split)
        if dataset is None or not len(dataset):
            raise DataError(
                f"{entry.spec.name} has no {kind} examples in its {split} part",
                hint=f"Its parts: {', '.join(entry.spec.splits)}. Try: --split train",
            )
        return cls(entry, target, config, kind, split, dataset)

    def sibling(self, split: str) -> Any:
        """Another part of the same data, or None."""
        return self.target.build(self.config, split)


def held_out(catalog: Catalog, entry: Entry, config: Any, kind: str) -> Part:
    """The validation part, or everything where the data set sets none aside; raises DataError."""
    target = catalog.load(entry)
    dataset = target.build(config, "validation")
    if dataset is not None and len(dataset):
        return Part(entry, target, config, kind, "validation", dataset)
    whole = Part.open(catalog, entry, config, kind, "train")
    return Part(entry, target, config, kind, ALL, whole.dataset)


def default_part(catalog: Catalog, kind: str) -> Part | None:
    """The held-out part of a kind's default data; None where no data set is the default."""
    for entry in catalog.entries("datasets"):
        if kind in entry.spec.default_for:
            return held_out(catalog, entry, catalog.load_config(entry)(**entry.spec.options(kind)), kind)
    return None
