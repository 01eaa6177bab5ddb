"""The part of a data set that an evaluation runs on.

part = Part.open(catalog, entry, config, "preference", "test")      # raises where the data set has no such part
part = held_out(catalog, entry, config, "preference")               # the validation part, else all of it
part.dataset; part.sibling("train")
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any, Self

from mmalign.contract.capabilities import TEXT_PAIRS, Pair
from mmalign.contract.specs import Entry
from mmalign.data.find import find_dataset
from mmalign.errors import DataError, IncompatibleError, UsageError
from mmalign.registry.catalog import Catalog

ALL = "all"


@dataclass(frozen=True)
class Part:
    """Examples of one kind. split: "train", "validation", "test", or "all" where nothing is held out."""

    entry: Entry
    target: Any
    config: Any
    kind: str
    split: str
    dataset: Any

    @classmethod
    def open(cls, catalog: Catalog, entry: Entry, config: Any, kind: str, split: str) -> Self:
        """The part with that name; raises DataError where there is none."""
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


def open_named(
    catalog: Catalog,
    name: str,
    kinds: tuple[str, ...],
    split: str,
    values: Mapping[str, Any],
    command: str,
    pairs: Set[Pair] = TEXT_PAIRS,
) -> Part:
    """The part of the data that a user named, as the first of `kinds` that it can yield; raises UsageError and
    DataError. pairs: what its prompts and answers may hold."""
    entry, path = find_dataset(catalog, name, kinds, values, pairs)
    yields = catalog.kinds_of(entry, pairs)
    kind = values.get("kind") or next((kind for kind in kinds if kind in yields), "")
    if kind not in kinds:
        has = kind or ", ".join(yields)
        raise IncompatibleError(
            f"{command} takes {', '.join(kinds)} examples; {entry.spec.name} yields {has}",
            hint="Try: mmalign list datasets",
        )
    return open_part(catalog, entry, kind, split, values, path)


def open_part(
    catalog: Catalog, entry: Entry, kind: str, split: str, values: Mapping[str, Any], path: str | None
) -> Part:
    """The part with that name; without a name, the held-out part of a data set, and everything in a file.

    values: the data set's options as the user gave them. Raises UsageError for wrong ones, and DataError.
    """
    from mmalign.config.validate import build

    spec, config_class = entry.spec, catalog.load_config(entry)
    if split and split not in spec.splits:
        raise UsageError(f"{spec.name} has no part {split}", hint=f"It has: {', '.join(spec.splits)}.")
    values = {**values, **spec.options(kind), **({} if path is None else {"path": path})}
    if path is not None and not split and "holdout" in config_class.model_fields:
        values = {"holdout": 0.0, **values}  # nothing is trained here, so nothing needs to be held out
    config = build(config_class, values, "dataset", hint=f"All options: mmalign show {spec.name} --options")
    return Part.open(catalog, entry, config, kind, split) if split else held_out(catalog, entry, config, kind)


def held_out(catalog: Catalog, entry: Entry, config: Any, kind: str) -> Part:
    """The validation part, else the test part, else everything where the data set holds nothing out; raises
    DataError."""
    target = catalog.load(entry)
    for split in entry.spec.splits:
        dataset = target.build(config, split) if split != "train" else None
        if dataset is not None and len(dataset):
            return Part(entry, target, config, kind, split, dataset)
    whole = Part.open(catalog, entry, config, kind, "train")
    return Part(entry, target, config, kind, ALL, whole.dataset)


def default_part(catalog: Catalog, kind: str) -> Part | None:
    """The held-out part of the default data of a kind; None where no data set is its default."""
    entry = catalog.default_data([kind])
    if entry is None:
        return None
    return held_out(catalog, entry, catalog.load_config(entry)(**entry.spec.options(kind)), kind)
