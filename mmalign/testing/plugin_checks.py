"""Conformance of a plugin itself: it loads fast and light, implements known hooks, and its options are sound."""

import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from mmalign.contract.specs import Entry
from mmalign.registry.plugins import PluginRecord
from mmalign.testing.bench import Check, Skip, Workbench

HEAVY = ("torch", "transformers", "open_clip", "pydantic")
MAX_SECONDS = 0.5

# Measures the time that a plugin and its hooks add to `mmalign --help`, in a process that has imported mmalign.
_PROBE = """
import importlib, json, os, sys, time
os.environ.pop("MMALIGN_STRICT_PLUGINS", None)
from mmalign.registry.plugins import PluginHost
host, name = PluginHost(), sys.argv[1]
began = time.perf_counter()
record = host.add("probe", "", "", lambda: importlib.import_module(name))
json.dump({"seconds": time.perf_counter() - began, "why": record.why, "modules": sorted(sys.modules)}, sys.stdout)
"""


def checks(record: PluginRecord, module: Any, bench: Workbench) -> list[Check]:
    cases = [
        Check("plugin: hooks are known and decorated", partial(hooks, record)),
        Check("plugin: imports nothing heavy", partial(imports_nothing_heavy, module.__name__)),
        Check(f"plugin: imports within {MAX_SECONDS} s", partial(imports_fast, module.__name__)),
    ]
    for entry in record.entries:
        where = f"{entry.spec.noun} {entry.spec.name}"
        if entry.spec.configurable:
            cases.append(Check(f"{where}: every option is described", partial(options_described, entry, bench)))
            cases.append(Check(f"{where}: options round-trip through YAML", partial(options_round_trip, entry, bench)))
    return cases


def command_checks(entry: Entry, bench: Workbench) -> list[Check]:
    return [Check(f"command {entry.spec.name}: is a click command with help", partial(command, entry, bench))]


def loads(record: PluginRecord) -> None:
    assert record.status == "loaded", f"{record.status}: {record.why}"


def hooks(record: PluginRecord) -> None:
    assert not record.warnings, "; ".join(record.warnings)
    assert record.entries, "no hook returned a spec"


def imports_nothing_heavy(module_name: str) -> None:
    loaded = _probe(module_name)["modules"]
    heavy = [name for name in HEAVY if name in loaded]
    assert not heavy, f"importing {module_name} imports {', '.join(heavy)}: move these imports into the target's module"


def imports_fast(module_name: str) -> None:
    seconds = min(_probe(module_name)["seconds"] for _ in range(2))
    assert seconds < MAX_SECONDS, f"importing {module_name} takes {seconds:.2f} s"


def command(entry: Entry, bench: Workbench) -> None:
    import click

    target = bench.catalog.load(entry)
    assert isinstance(target, click.Command), f"{entry.spec.target} is {type(target).__name__}"
    assert target.help, "the command has no docstring to show as help"


def options_described(entry: Entry, bench: Workbench) -> None:
    from mmalign.config.schema import field_rows

    bare = [row["key"] for row in field_rows(_config(entry, bench)) if not row["description"]]
    assert not bare, f"without a description: {', '.join(bare)}"


def options_round_trip(entry: Entry, bench: Workbench) -> None:
    """The defaults, written as commented YAML, read and validated, are the defaults again; unknown keys are refused.
    If an option has no default, the options given to the kit are used instead."""
    import yaml
    from pydantic import ValidationError

    from mmalign.config.schema import commented_yaml
    from mmalign.config.validate import build
    from mmalign.errors import UsageError
    from mmalign.train.layers import load_layers

    model = _config(entry, bench)
    assert model.model_config.get("extra") == "forbid", "Config must forbid unknown keys (extra='forbid')"
    assert model.model_config.get("frozen"), "Config must be frozen"
    try:
        build(model, {"no-such-option": 1}, "objective")
    except UsageError as error:
        assert "no-such-option" in str(error)
    given = {"datasets": bench.datasets, "rewards": bench.rewards}.get(entry.kind, {}).get(entry.spec.name, {})
    try:
        expected = model()
        text = commented_yaml(model, "objective")
    except ValidationError as error:
        if not given:
            raise Skip(f"its defaults alone are not enough: {error.errors()[0]['msg']}") from error
        expected = model(**given)
        text = yaml.safe_dump({"objective": expected.model_dump(mode="json")})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "options.yaml"
        path.write_text(text, encoding="utf-8")
        config = build(model, load_layers(files=[path])["objective"], "objective")
    assert config == expected, f"read back as {config!r}"


def _config(entry: Entry, bench: Workbench) -> Any:
    from pydantic import BaseModel

    target = bench.catalog.load(entry)
    config = vars(target).get("Config") or next(
        (vars(b)["Config"] for b in target.__mro__ if "Config" in vars(b)), None
    )
    assert isinstance(config, type) and issubclass(config, BaseModel), f"{entry.spec.target} has no pydantic Config"
    assert bench.catalog.load_config(entry) is config, f"{entry.spec.config} is not {entry.spec.target}'s Config"
    return config


def _probe(module_name: str) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-c", _PROBE, module_name], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr.strip().splitlines()[-1:]
    answer = json.loads(done.stdout)
    assert not answer["why"], answer["why"]
    return answer
