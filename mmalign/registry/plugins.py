"""Finds plugins, loads each in isolation, and records what went wrong.

    host = load_plugins()          # the built-ins and every installed entry point of group "mmalign"
    host.records                   # one PluginRecord each, with its entries, or why it failed

A plugin that fails, hangs (past a time limit), exits or prints on import affects no other; a slow one causes a warning.
MMALIGN_LOAD_PLUGINS (unset: all; empty: none; or a comma-separated list) and MMALIGN_DISABLE_PLUGINS choose among
third-party plugins; MMALIGN_STRICT_PLUGINS=1 re-raises their errors, for tests. Installing a plugin is trusting it: its
code runs in this process.
"""

import contextlib
import importlib
import importlib.metadata
import inspect
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import pluggy

from mmalign.contract import hooks as hookspecs
from mmalign.contract.specs import KINDS, Entry
from mmalign.errors import UsageError, did_you_mean, raised_at
from mmalign.registry.moved import where_now
from mmalign.stop import Interrupted
from mmalign.version import CONTRACT_VERSION

ENTRY_POINT_GROUP = "mmalign"
BUILTINS = (
    "mmalign_zero_shot",
    "mmalign_answers",
    "mmalign_pipeline",
    "mmalign_clip",
    "mmalign_lm",
    "mmalign_objectives",
    "mmalign_data",
    "mmalign_evals",
    "mmalign_environments",
    "mmalign_engines",
    "mmalign_optimizers",
    "mmalign_report",
    "mmalign_rewards",
)
_SLOW_SECONDS = 2.0  # a third-party plugin that takes longer to load causes a warning
# pluggy marks hooks by an attribute, which only hasattr can read.
_HOOK_NAMES = frozenset(name for name, value in vars(hookspecs).items() if hasattr(value, "mmalign_spec"))


@dataclass
class PluginRecord:
    """One plugin, whether it is loaded, and if not, why."""

    name: str
    source: str
    version: str = ""
    status: str = "loaded"  # loaded | failed | disabled
    why: str = ""
    warnings: list[str] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    import_seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        contributions: dict[str, list[str]] = {}
        for entry in self.entries:
            contributions.setdefault(entry.kind, []).append(entry.spec.name)
        return {
            "name": self.name,
            "version": self.version,
            "source": self.source,
            "status": self.status,
            "why": self.why,
            "warnings": self.warnings,
            "contributions": contributions,
            "import_seconds": round(self.import_seconds, 4),
        }


class PluginHost:
    """The plugins of one process; `load_plugins` creates it, and callers pass it on: there is no global one."""

    def __init__(self) -> None:
        self.manager = pluggy.PluginManager("mmalign")
        self.manager.add_hookspecs(hookspecs)
        self.records: list[PluginRecord] = []

    def record(self, name: str) -> PluginRecord:
        for record in self.records:
            if record.name == name:
                return record
        names = [record.name for record in self.records]
        raise UsageError(f"no plugin {name!r}", hint=f"{did_you_mean(name, names)} Try: mmalign plugins list".strip())

    def notify(self, hook: str, **arguments: Any) -> list[str]:
        """Call an event hook of every plugin; return one warning line for each that failed."""
        warnings = []
        for implementation in getattr(self.manager.hook, hook).get_hookimpls():
            try:
                implementation.function(*(arguments[name] for name in implementation.argnames))
            except (Exception, SystemExit) as error:
                where = raised_at(error, implementation.function.__module__)
                warnings.append(f"plugin {implementation.plugin_name}: {hook} failed: {_describe(error)}{where}")
        return warnings

    def add(self, name: str, source: str, version: str, load: Any) -> PluginRecord:
        """Load one plugin with `load()`, register it and collect its specs; a failure is written to its record."""
        record = PluginRecord(name=name, source=source, version=version)
        self.records.append(record)
        started = time.perf_counter()
        try:
            with _time_limit(), contextlib.redirect_stdout(sys.stderr):
                module = load()
                _check_contract(module)
                self.manager.register(module, name=name)
                record.warnings += _check_hooks(self.manager, module)
                for kind in KINDS:
                    record.entries += self._collect(kind, module, name)
        except BaseException as error:
            # This includes SystemExit and our time limit: whatever a plugin does on import, the program goes on.
            if isinstance(error, KeyboardInterrupt | Interrupted) or os.environ.get("MMALIGN_STRICT_PLUGINS"):
                raise
            record.status, record.why, record.entries = "failed", _describe(error), []
            if self.manager.has_plugin(name):
                self.manager.unregister(name=name)
        record.import_seconds = time.perf_counter() - started
        return record

    def _collect(self, kind: str, module: Any, plugin: str) -> list[Entry]:
        entries = []
        for implementation in getattr(self.manager.hook, f"register_{kind}").get_hookimpls():
            if implementation.plugin is not module:
                continue
            specs = implementation.function()
            if specs is None:
                raise TypeError(f"register_{kind} returned None; return a list of {KINDS[kind].__name__}")
            for spec in list(specs):
                if not isinstance(spec, KINDS[kind]):
                    raise TypeError(f"register_{kind} returned {type(spec).__name__}, not {KINDS[kind].__name__}")
                if any(spec.name == entry.spec.name for entry in entries):
                    raise ValueError(f"register_{kind} returned {spec.name!r} twice")
                entries.append(Entry(kind, plugin, spec))
        return entries


def load_plugins() -> PluginHost:
    """Load the built-ins, then the third-party plugins by entry point, each in isolation."""
    host = PluginHost()
    for name in BUILTINS:
        host.add(name, "built-in", "", lambda name=name: importlib.import_module(name))
    allowed, disabled = _chosen(os.environ.get("MMALIGN_LOAD_PLUGINS")), disabled_plugins()
    if allowed == frozenset():
        return host
    for point in sorted(importlib.metadata.entry_points(group=ENTRY_POINT_GROUP), key=lambda point: point.name):
        version = point.dist.version if point.dist else ""
        source = f"{point.dist.name if point.dist else '?'} ({point.value})"
        if point.name in disabled or (allowed is not None and point.name not in allowed):
            why = "disabled by the user" if point.name in disabled else "not in MMALIGN_LOAD_PLUGINS"
            host.records.append(PluginRecord(point.name, source, version, status="disabled", why=why))
        elif any(record.name == point.name for record in host.records):
            why = "another plugin has this name"
            host.records.append(PluginRecord(point.name, source, version, status="failed", why=why))
        else:
            record = host.add(point.name, source, version, point.load)
            record.warnings += [*_slow(record), *_shadowed(host, record)]
    return host


def _slow(record: PluginRecord) -> list[str]:
    """A warning if every command waits long for this plugin; a plugin that failed has its reason already."""
    if record.status != "loaded" or record.import_seconds <= _SLOW_SECONDS:
        return []
    return [f"takes {record.import_seconds:.1f} s to load: move heavy imports into its targets"]


def _shadowed(host: PluginHost, record: PluginRecord) -> list[str]:
    """One line for each name that a built-in already has; the bare name stays the built-in's."""
    taken = {(e.kind, e.spec.name) for each in host.records if each.source == "built-in" for e in each.entries}
    return [
        f"{entry.spec.noun} {entry.spec.name} is built in; this one is called {entry.qualified}"
        for entry in record.entries
        if (entry.kind, entry.spec.name) in taken
    ]


# Which plugins are disabled -------------------------------------------------------------------------------------------


def settings_file() -> Path:
    """The file that stores disabled plugins, in MMALIGN_HOME or else in the user's config folder."""
    base = os.environ.get("MMALIGN_HOME")
    root = Path(base) if base else Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "mmalign"
    return root / "plugins.json"


def disabled_plugins() -> frozenset[str]:
    """Names disabled by MMALIGN_DISABLE_PLUGINS and by `mmalign plugins disable`."""
    from_environment = _chosen(os.environ.get("MMALIGN_DISABLE_PLUGINS")) or frozenset()
    return from_environment | _stored()


def set_disabled(name: str, disabled: bool) -> None:
    """Store that a plugin is disabled, or enabled again."""
    names = set(_stored())
    (names.add if disabled else names.discard)(name)
    path = settings_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"disabled": sorted(names)}, indent=2) + "\n", encoding="utf-8")


def _stored() -> frozenset[str]:
    try:
        return frozenset(json.loads(settings_file().read_text(encoding="utf-8"))["disabled"])
    except (OSError, ValueError, KeyError, TypeError):
        return frozenset()


def _chosen(value: str | None) -> frozenset[str] | None:
    return None if value is None else frozenset(name.strip() for name in value.split(",") if name.strip())


# Guards ---------------------------------------------------------------------------------------------------------------


class _TooSlow(BaseException):
    """Raised inside a plugin at the time limit; a BaseException, so that `except Exception` lets it through."""


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    """Interrupt the code inside after MMALIGN_PLUGIN_TIMEOUT seconds (10), on the main thread of systems with SIGALRM.

    This guards against accidents only: an installed plugin is trusted. The plugin is interrupted once. If it swallows
    BaseException in a loop, it hangs, and so does every command that loads plugins. `mmalign plugins disable` imports
    no plugin, and MMALIGN_DISABLE_PLUGINS=NAME leaves that one out.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return
    limit = float(os.environ.get("MMALIGN_PLUGIN_TIMEOUT", "10"))

    def stop(signum: int, frame: FrameType | None) -> None:
        raise _TooSlow(f"still loading after {limit:g} s")

    previous = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, limit)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:  # also if the alarm comes just before it is turned off
        signal.signal(signal.SIGALRM, previous)


def _check_contract(module: Any) -> None:
    """Raises ImportError for a plugin that declares another version of the contract."""
    wanted = vars(module).get("contract_version", CONTRACT_VERSION)
    if wanted != CONTRACT_VERSION:
        behind = "mmalign" if isinstance(wanted, int) and wanted > CONTRACT_VERSION else "the plugin"
        raise ImportError(
            f"written for version {wanted} of the contract, and this mmalign has {CONTRACT_VERSION}; upgrade {behind} "
            "(docs/stability.md)"
        )


def _check_hooks(manager: pluggy.PluginManager, module: Any) -> list[str]:
    """Warnings about unknown and undecorated hooks; raises TypeError for a hook whose arguments have defaults."""
    warnings = []
    for caller in manager.get_hookcallers(module) or []:
        if not caller.has_spec():
            hint = did_you_mean(caller.name, _HOOK_NAMES)
            warnings.append(f"unknown hook {caller.name}. {hint}".strip())
        for implementation in caller.get_hookimpls():
            if implementation.plugin is module and implementation.kwargnames:
                raise TypeError(f"{caller.name}: arguments with defaults are never filled: {implementation.kwargnames}")
    for name, value in vars(module).items():
        if name in _HOOK_NAMES and inspect.isfunction(value) and not hasattr(value, "mmalign_impl"):
            warnings.append(f"{name} lacks @hookimpl and is not called")
    return warnings


def _describe(error: BaseException) -> str:
    moved = where_now(error)
    return f"{type(error).__name__}: {error}".strip(": ") + (f"; {moved}" if moved else "")
