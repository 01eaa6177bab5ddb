"""A kind of thing is a spec class and a hook: lists, `show`, errors, `plugins` and the kit follow from these two."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmalign.contract.specs import KINDS, Spec
from mmalign.testing.runner import CHECKS
from tests.support.plugin_sites import write_plugin

# What the two files of the contract would say of a new kind; nothing else is loaded before it.
TWO_FILES = """
import sys
from dataclasses import dataclass
from typing import ClassVar
from mmalign.contract import hooks, specs

@dataclass(frozen=True, kw_only=True)
class ProbeSpec(specs.Spec):
    layers: tuple = ()
    noun: ClassVar[str] = "probe"
    members: ClassVar[tuple] = ("Config", "fit")

    def headline(self):
        return f"{len(self.layers)} layers"

    def facts(self):
        return {"layers": list(self.layers)}

def register_probes():
    return ()

specs.ProbeSpec, specs.KINDS["probes"] = ProbeSpec, ProbeSpec
hooks.register_probes = hooks.hookspec(register_probes)
from mmalign.cli import run
sys.exit(run(sys.argv[1:]))
"""
PLUGIN = """
from mmalign import hookimpl
from mmalign.contract.specs import ProbeSpec

@hookimpl
def register_probes():
    return [ProbeSpec(name="linear", summary="A line", target="probes:Linear", layers=("first", "last"))]
"""
TARGET = """
from pydantic import BaseModel, ConfigDict, Field

class Linear:
    class Config(BaseModel):
        model_config = ConfigDict(frozen=True, extra="forbid")
        width: int = Field(3, description="how wide")

    def fit(self): ...
"""


@pytest.fixture
def program(tmp_path: Path):
    """program(*arguments) runs `mmalign` with the new kind and a plugin of it -> (exit code, stdout, stderr)."""
    site = tmp_path / "site"
    write_plugin(site, "prober", PLUGIN)
    (site / "probes.py").write_text(TARGET)
    paths = os.pathsep.join([str(site), *(path for path in sys.path if path)])

    def program(*arguments: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, "-c", TWO_FILES, *arguments],
            env={**os.environ, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            timeout=120,
        )
        return done.returncode, done.stdout, done.stderr

    return program


def test_a_new_kind_is_listed_shown_and_checked(program) -> None:
    listed = program("list", "probes")
    assert [line.split() for line in listed[1].splitlines()[1:]] == [["linear", "prober", "2", "layers", "A", "line"]]
    assert program("list")[1].splitlines()[-1].split() == ["probes", "1", "linear"]
    assert "trackers or probes." in " ".join(program("list", "--help")[1].split())
    code, out, _ = program("show", "linear", "--options")
    assert code == 0 and out.startswith("linear (probe of prober)\n  A line\n") and "  layers: first, last\n" in out
    assert "how wide" in out
    code, out, _ = program("plugins", "show", "prober")
    assert code == 0 and "  probe linear: A line" in out
    checks = json.loads(program("plugins", "check", "prober", "--json")[1])["checks"]
    own = [(check["name"], check["outcome"]) for check in checks if check["name"].startswith("probe ")]
    options = ("every option is described", "options round-trip through YAML")
    assert own == [(f"probe linear: {title}", "pass") for title in options]


def test_every_kind_says_what_it_is_called_and_no_check_is_of_another() -> None:
    assert all(spec.noun.replace(" kind", "") in kind and issubclass(spec, Spec) for kind, spec in KINDS.items())
    assert CHECKS.keys() <= KINDS.keys()
