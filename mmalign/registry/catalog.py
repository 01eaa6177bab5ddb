"""What all loaded plugins offer, by kind and name.

    catalog = Catalog(load_plugins())
    entry = catalog.find("objectives", "contrastive")       # or "my-plugin/contrastive"
    objective_class = catalog.load(entry)                   # imports its module now

Built-ins keep the bare name; two third parties with one name are an error on use that names both.
"""

import importlib
import importlib.metadata
import importlib.util
from typing import Any

from mmalign.contract.specs import KINDS, Entry
from mmalign.errors import PluginError, UsageError, did_you_mean
from mmalign.registry.moved import old_members, where_now
from mmalign.registry.plugins import BUILTINS, PluginHost


class Catalog:
    """Entries sorted by name. Making one imports nothing beyond what the plugins' own `__init__` did."""

    def __init__(self, host: PluginHost) -> None:
        self.host = host

    def entries(self, kind: str) -> list[Entry]:
        """Every entry of a kind, built-ins first among equals, sorted by name."""
        entries = [entry for record in self.host.records for entry in record.entries if entry.kind == kind]
        return sorted(entries, key=lambda e: (e.spec.name, e.plugin not in BUILTINS, e.plugin))

    def display_name(self, entry: Entry) -> str:
        """The shortest name that finds this entry now: what people are shown. `lasting_name` is for files."""
        same = [other for other in self.entries(entry.kind) if other.spec.name == entry.spec.name]
        return entry.spec.name if len(same) == 1 else lasting_name(entry)

    def lookup(self, kind: str, name: str) -> Entry | None:
        """The entry of that bare or qualified name; None where there is none, or where a bare name means several."""
        called = [entry for entry in self.entries(kind) if entry.is_called(name)]
        exact = [entry for entry in called if entry.qualified == name or entry.plugin in BUILTINS]
        return (exact or called)[0] if len(exact or called) == 1 else None

    def find(self, kind: str, name: str) -> Entry:
        """Return the entry of that bare or qualified name; raises UsageError (unknown, or ambiguous)."""
        entry, noun = self.lookup(kind, name), KINDS[kind].noun
        if entry is not None:
            return entry
        same = [entry for entry in self.entries(kind) if entry.spec.name == name]
        if same:
            names = " and ".join(entry.qualified for entry in same)
            raise UsageError(f"{noun} {name!r} is offered by two plugins: {names}", hint="Use one of these names.")
        other = next((other for other in KINDS if other != kind and name in self._names(other)), None)
        if other:
            raise UsageError(f"no {noun} {name!r}: it is one of the {other}", hint=f"Try: mmalign list {kind}")
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

    def load(self, entry: Entry) -> Any:
        """Import an entry's target; raises PluginError with the install or bug-report hint, also for a class that lacks
        a member of its contract."""
        target = self.load_place(entry, entry.spec.target)
        missing = [name for name in entry.spec.members if name not in dir(target)]
        if missing and isinstance(target, type):
            raise PluginError(
                f"{entry.qualified}: its class {target.__name__} has no {', '.join(missing)}",
                hint=f"The contract is in mmalign/contract. Try: mmalign plugins check {entry.plugin}",
            )
        gone = old_members(target) if entry.kind == "objectives" and isinstance(target, type) else []
        if gone:
            raise PluginError(
                f"{entry.qualified}: {target.__name__} is written for an earlier version: {'; '.join(gone)}",
                hint="See docs/plugins.md and mmalign/contract/objective.py.",
            )
        return target

    def load_config(self, entry: Entry) -> Any:
        """The pydantic model of an entry's options, without importing its target where the spec says how."""
        return self.load_place(entry, entry.spec.config) if entry.spec.config else self.load(entry).Config

    def load_place(self, entry: Entry, place: str) -> Any:
        """What an entry's spec names as "package.module:name"; raises PluginError."""
        missing = [package for package in entry.spec.packages if not _installed(package)]
        if missing:
            hint = f"python -m pip install {' '.join(missing)}"
            raise PluginError(f"{entry.qualified} needs {', '.join(missing)}, which is not installed", hint=hint)
        module_name, _, attribute = place.partition(":")
        try:
            return getattr(importlib.import_module(module_name), attribute)
        except (ImportError, AttributeError) as error:
            now = where_now(error)
            hint = f"{f'{now}. ' if now else ''}Try: mmalign plugins check {entry.plugin}"
            raise PluginError(f"{entry.qualified}: cannot load {place}: {error}", hint=hint) from error


def lasting_name(entry: Entry) -> str:
    """The shortest name that finds this entry whatever else is installed later: what files keep."""
    return entry.spec.name if entry.plugin in BUILTINS else entry.qualified


def _installed(package: str) -> bool:
    """Whether the distribution or module is present, without importing it."""
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return importlib.util.find_spec(package.replace("-", "_")) is not None
    return True
