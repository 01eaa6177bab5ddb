"""Collect and run conformance checks.

for result in run_checks("my_pkg"):
    print(result.outcome, result.name, result.why)
"""

import importlib
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mmalign.catalog import Catalog
from mmalign.errors import MmalignError
from mmalign.plugins import PluginHost, PluginRecord, load_plugins

# The kit's own models (in mmalign.testing.models) and the prefix in whose format they are.
TINY_MODELS = {
    "tiny-open-clip": "open_clip",
    "tiny-open-clip-bn": "open_clip",
    "tiny-siglip-like": "open_clip",
    "tiny-transformers-clip": "hf",
    "tiny-transformers-siglip": "hf",
}


class Skip(Exception):
    """Raised by a check that does not apply; the message says why."""


@dataclass(frozen=True)
class Check:
    """One thing to verify. `run` returns on success, and raises AssertionError, Skip or whatever goes wrong."""

    name: str
    run: Callable[[], None]


@dataclass(frozen=True)
class Result:
    """outcome: pass, fail, skip, or xfail (failed as expected, for the reason in `why`)."""

    name: str
    outcome: str
    why: str
    seconds: float


class Workbench:
    """What checks share: the plugins, and tiny models written once into a folder that goes with this object."""

    def __init__(self, models: Mapping[str, Callable[[Path], Path]], datasets: Mapping[str, Mapping[str, Any]]) -> None:
        self.own_models = dict(models)
        self.datasets = dict(datasets)
        self.folder = Path(tempfile.mkdtemp(prefix="mmalign-check-"))
        self._written: dict[str, Path] = {}
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

    @cached_property
    def host(self) -> PluginHost:
        return load_plugins()

    @property
    def catalog(self) -> Catalog:
        return Catalog(self.host)

    @property
    def model_names(self) -> list[str]:
        return [*TINY_MODELS, *self.own_models]

    def model_names_for(self, prefixes: Sequence[str]) -> list[str]:
        """The models that a backbone with these prefixes may read, and all that the plugin brought itself."""
        return [*(name for name, prefix in TINY_MODELS.items() if prefix in prefixes), *self.own_models]

    def model(self, name: str) -> Path:
        """The folder of a tiny model, written on first use."""
        if name not in self._written:
            from mmalign.testing import models

            write = self.own_models.get(name) or vars(models)[name.replace("-", "_")]
            self._written[name] = write(self.folder / name)
        return self._written[name]

    def find(self, name: str) -> tuple[PluginRecord, Any]:
        """The record and module of a plugin, by plugin name or module name; a module not installed as one is added."""
        manager = self.host.manager
        for record in self.host.records:
            module = manager.get_plugin(record.name)
            if name == record.name or (module is not None and name == module.__name__):
                return record, module
        record = self.host.add(name, "module", "", lambda: importlib.import_module(name))
        return record, manager.get_plugin(name)


def find_checks(name: str, bench: Workbench) -> list[Check]:
    """All checks that apply to a plugin, without running or importing anything heavy."""
    from mmalign.testing import backbone_checks, data_checks, objective_checks, plugin_checks

    record, module = bench.find(name)
    checks = [Check("plugin: loads", lambda: plugin_checks.loads(record))]
    if record.status != "loaded":
        return checks
    checks += plugin_checks.checks(record, module, bench)
    for entry in record.entries:
        if entry.kind == "backbones":
            checks += backbone_checks.checks(entry, bench)
        elif entry.kind == "objectives":
            checks += objective_checks.checks(entry, bench)
        elif entry.kind == "datasets":
            checks += data_checks.dataset_checks(entry, bench)
        elif entry.kind == "evaluations":
            checks += data_checks.evaluation_checks(entry, bench)
    return checks


def run_checks(name: str) -> Iterator[Result]:
    """Run every check of a plugin, yielding results as they come."""
    for check in find_checks(name, Workbench({}, {})):
        yield run_check(check)


def run_check(check: Check, expected_failure: str = "") -> Result:
    """Run one check; nothing that it raises escapes, save KeyboardInterrupt."""
    started = time.perf_counter()
    try:
        check.run()
        outcome, why = "pass", ""
    except Skip as skip:
        outcome, why = "skip", str(skip)
    except AssertionError as error:
        outcome, why = "fail", str(error) or "assertion failed"
    except MmalignError as error:
        outcome, why = "fail", str(error)
    except Exception as error:
        # The code under test is a stranger's: whatever it raises is its failure, and the other checks still run.
        outcome, why = "fail", f"{type(error).__name__}: {error}"
    if expected_failure and outcome == "fail":
        outcome, why = "xfail", f"{expected_failure} ({why})"
    elif expected_failure and outcome == "pass":
        outcome, why = "fail", f"passes, though it is expected to fail: {expected_failure}"
    return Result(check.name, outcome, why, time.perf_counter() - started)
