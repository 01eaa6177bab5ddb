"""The catalog of all loaded plugins' entries, by kind and name.

    catalog = Catalog(load_plugins())
    entry = catalog.find("objectives", "contrastive")       # or "my-plugin/contrastive"
    objective_class = catalog.load(entry)                   # imports its module now

A bare name means the built-in if there is one. If two third parties share a bare name, using it is an error that names
both.
"""

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Iterable, Set
from typing import Any

from mmalign.contract.capabilities import TEXT_PAIRS, Pair
from mmalign.contract.specs import KINDS, Entry
from mmalign.errors import PluginError, UsageError, did_you_mean
from mmalign.registry.moved import old_members, where_now
from mmalign.registry.plugins import BUILTINS, PluginHost


class Catalog:
    """Entries sorted by name. Creating a catalog imports no targets."""

    def __init__(self, host: PluginHost) -> None:
        self.host = host

    def entries(self, kind: str) -> list[Entry]:
        """Every entry of a kind, sorted by name; of entries with one name, the built-in comes first."""
        entries = [entry for record in self.host.records for entry in record.entries if entry.kind == kind]
        return sorted(entries, key=lambda e: (e.spec.name, e.plugin not in BUILTINS, e.plugin))

    def display_name(self, entry: Entry) -> str:
        """The shortest name that finds this entry now, for people. For files, see `lasting_name`."""
        same = [each for each in self.entries(entry.kind) if each.spec.name == entry.spec.name]
        return entry.spec.name if len(same) == 1 else lasting_name(entry)

    def lookup(self, kind: str, name: str) -> Entry | None:
        """The entry of that bare or qualified name; None if there is none or the name is ambiguous."""
        matches = [entry for entry in self.entries(kind) if entry.is_called(name)]
        preferred = [entry for entry in matches if entry.qualified == name or entry.plugin in BUILTINS]
        return (preferred or matches)[0] if len(preferred or matches) == 1 else None

    def find(self, kind: str, name: str) -> Entry:
        """Return the entry of that bare or qualified name; raises UsageError if it is unknown or ambiguous."""
        entry, noun = self.lookup(kind, name), KINDS[kind].noun
        if entry is not None:
            return entry
        same = [entry for entry in self.entries(kind) if entry.spec.name == name]
        if same:
            names = " and ".join(entry.qualified for entry in same)
            raise UsageError(f"two plugins offer {noun} {name!r}: {names}", hint="Use one of these names.")
        actual_kind = next((each for each in KINDS if each != kind and name in self._names(each)), None)
        if actual_kind:
            hint = f"Try: mmalign list {kind}"
            raise UsageError(f"no {noun} {name!r}: it is one of the {actual_kind}", hint=hint)
        known = self._names(kind)
        hint = f"{did_you_mean(name, known)} Try: mmalign list {kind}".strip()
        raise UsageError(f"unknown {noun} {name!r}", hint=hint)

    def _names(self, kind: str) -> list[str]:
        entries = self.entries(kind)
        return [entry.spec.name for entry in entries] + [entry.qualified for entry in entries]

    def default(self, kind: str, example_kind: str) -> Entry:
        """The default backbone or data set for an example kind; raises UsageError if there is none."""
        for entry in self.entries(kind):
            if example_kind in entry.spec.default_for:
                return entry
        noun = KINDS[kind].noun
        raise UsageError(f"no default {noun} for {example_kind} examples", hint=f"Name one: mmalign list {kind}")

    def default_data(self, kinds: Iterable[str], pairs: Set[Pair] = TEXT_PAIRS) -> Entry | None:
        """The default data set of the first kind that has one. pairs: what prompts and answers may hold, if examples
        of that kind have them."""
        for kind in kinds:
            for entry in self.entries("datasets"):
                if kind in entry.spec.default_for and self.may_hold(entry, kind, pairs):
                    return entry
        return None

    def kinds_of(self, dataset: Entry, pairs: Set[Pair] = TEXT_PAIRS) -> tuple[str, ...]:
        """The kinds of examples that a data set yields, but those whose prompts and answers hold none of `pairs`."""
        return tuple(kind for kind in dataset.spec.kinds if self.may_hold(dataset, kind, pairs))

    def may_hold(self, dataset: Entry, kind: str, pairs: Set[Pair]) -> bool:
        """Whether prompts and answers of a data set may hold one of `pairs`, or its examples of that kind have none."""
        example = self.lookup("examples", kind)
        unknown = example is None or not example.spec.pairs or not dataset.spec.pairs
        return unknown or not dataset.spec.pairs.isdisjoint(pairs)

    def load(self, entry: Entry) -> Any:
        """Import an entry's target; raises PluginError, with the command that installs or checks it, if that fails or
        the class lacks a member of its contract."""
        target = self.load_place(entry, entry.spec.target)
        missing = [name for name in entry.spec.members if name not in dir(target)]
        if missing and isinstance(target, type):
            raise PluginError(
                f"{entry.qualified}: its class {target.__name__} has no {', '.join(missing)}",
                hint=f"The contract is in mmalign/contract. Try: mmalign plugins check {entry.plugin}",
            )
        replaced = old_members(target) if entry.kind == "objectives" and isinstance(target, type) else []
        if replaced:
            raise PluginError(
                f"{entry.qualified}: {target.__name__} is written for an earlier version: {'; '.join(replaced)}",
                hint="See docs/plugins.md and mmalign/contract/objective.py.",
            )
        return target

    def load_config(self, entry: Entry) -> Any:
        """The pydantic model of an entry's options; does not import the target if the spec has `config`."""
        return self.load_place(entry, entry.spec.config) if entry.spec.config else self.load(entry).Config

    def load_place(self, entry: Entry, place: str) -> Any:
        """Import "package.module:name" from an entry's spec; raises PluginError."""
        missing = [package for package in entry.spec.packages if not _installed(package)]
        if missing:
            hint = f"python -m pip install {' '.join(missing)}"
            raise PluginError(f"{entry.qualified} needs {', '.join(missing)}, which is not installed", hint=hint)
        module_name, _, attribute = place.partition(":")
        try:
            return getattr(importlib.import_module(module_name), attribute)
        except (ImportError, AttributeError) as error:
            moved = where_now(error)
            hint = f"{f'{moved}. ' if moved else ''}Try: mmalign plugins check {entry.plugin}"
            raise PluginError(f"{entry.qualified}: cannot load {place}: {error}", hint=hint) from error


def lasting_name(entry: Entry) -> str:
    """The shortest name that finds this entry whatever else is installed later, for files."""
    return entry.spec.name if entry.plugin in BUILTINS else entry.qualified


def _installed(package: str) -> bool:
    """Whether the distribution or module is installed; does not import it."""
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return importlib.util.find_spec(package.replace("-", "_")) is not None
    return True
