"""The example plugin as a user gets it: installed beside a broken one into a folder of its own, listed, and trained."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.plugin_sites import write_plugin
from tests.support.project import EXAMPLES

EXAMPLE = EXAMPLES / "mmalign-triplet"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling", reason="building the example offline needs hatchling installed")
    folder = tmp_path_factory.mktemp("site")
    install = ["install", "--quiet", "--no-deps", "--no-build-isolation", "--target", str(folder), str(EXAMPLE)]
    done = subprocess.run([sys.executable, "-m", "pip", *install], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    write_plugin(folder, "broken", "import no_such_module_anywhere")
    return folder


def mmalign(site: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(site), *(path for path in sys.path if path)])
    environment = {**os.environ, "PYTHONPATH": paths}
    command = [sys.executable, "-m", "mmalign", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd, check=False)


def test_it_is_listed_and_a_broken_plugin_beside_it_changes_nothing(site: Path, tmp_path: Path) -> None:
    done = mmalign(site, "plugins", "list", "--json", cwd=tmp_path)
    plugins = {plugin["name"]: plugin for plugin in json.loads(done.stdout)["plugins"]}
    assert (plugins["triplet"]["status"], plugins["triplet"]["version"]) == ("loaded", "0.1.0")
    assert plugins["triplet"]["contributions"] == {"objectives": ["triplet"]}
    assert plugins["broken"]["status"] == "failed"
    done = mmalign(site, "matrix", "triplet", "--json", cwd=tmp_path)
    cells = json.loads(done.stdout)["items"]
    assert {cell["verdict"] for cell in cells if cell["backbone"] == "clip-lite"} == {"yes"}
    assert "plugin broken failed and is not used" in done.stderr


def test_it_trains_on_the_defaults_without_a_recipe(site: Path, tmp_path: Path) -> None:
    options = ["--set", "train.steps=2", "--set", "train.batch_size=8", "--set", "evaluation.max_examples=16"]
    done = mmalign(site, "train", "--objective", "triplet", *options, "--device", "cpu", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    json.loads(done.stdout)


def test_its_own_tests_pass(site: Path, tmp_path: Path) -> None:
    done = mmalign(site, "-q", "plugins", "check", "triplet", "--json", cwd=tmp_path)
    document = json.loads(done.stdout)
    failed = [check for check in document["checks"] if check["outcome"] == "fail"]
    assert (done.returncode, failed) == (0, [])
    assert document["counts"]["pass"] >= 30
