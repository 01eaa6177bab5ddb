"""Every bare command of the README to its end, as a user types it: `python -m pytest -m recipes`, half an hour.

    python -m pytest -m recipes -k "pretrain or kto"
    RECIPE_THREADS=1 python -m pytest -m recipes      # on a machine that does other work

Each command runs in a process of its own, with as many threads as torch takes, and its held-out figure is held
against the floor in `floors.py`. A table of all figures stands at the end.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from mmalign import cli
from mmalign.train.layers import recipe_path
from tests.recipes.floors import FLOORS, OBJECTIVES, OF_NAMED, PHOTOGRAPHS
from tests.support.project import ROOT

README = ROOT / "README.md"
CONFIGS = ROOT / "configs"

Mmalign = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def mmalign(tmp_path: Path) -> Mmalign:
    """mmalign(*arguments) -> the finished process, started in an empty folder."""

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        if "RECIPE_THREADS" in os.environ:
            environment["OMP_NUM_THREADS"] = os.environ["RECIPE_THREADS"]
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        command = [sys.executable, "-m", "mmalign", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)

    return call


def test_every_objective_has_a_recipe_and_a_floor() -> None:
    """A bare command that nothing measures can stop learning, and nobody sees it."""
    assert set(FLOORS) == set(OBJECTIVES)
    assert [objective for objective in OBJECTIVES if recipe_path(objective) is None] == []
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == {*FLOORS, *OF_NAMED, "instructgpt"}


def test_recipes_are_listed_with_the_command_that_runs_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["config", "recipes", "--json"]) == 0
    listed = {item["name"]: item for item in json.loads(capsys.readouterr().out)["recipes"]}
    assert sorted(listed) == sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    for name, item in listed.items():
        verb, flag = ("pipeline", "") if name == "instructgpt" else ("train", "-c ")
        flag = "--objective " if name in FLOORS else flag
        assert item["command"] == f"mmalign {verb} {flag}{name}" and len(item["summary"]) > 20


@pytest.mark.parametrize("recipe", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_states_what_it_was_measured_with(recipe: Path) -> None:
    """Another default must not change it."""
    content = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    runs = [stage for stage in content.get("stages", {"": content}).values() if "train" in stage]
    assert runs
    for run in runs:
        assert {"steps", "batch_size", "learning_rate", "warmup_steps"} <= set(run["train"])


@pytest.mark.recipes
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", [*OBJECTIVES, *OF_NAMED])
def test_the_bare_command_learns(name: str, mmalign: Mmalign, tmp_path: Path, record_property) -> None:
    began = time.perf_counter()
    done = mmalign("train", "-c" if name in OF_NAMED else "--objective", name, "--out", "run")
    seconds = time.perf_counter() - began
    assert done.returncode == 0, done.stderr[-3000:]

    info = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    summary, floor = info["summary"], (FLOORS | OF_NAMED)[name]
    before, after = (summary[when][floor.figure] for when in ("before", "after"))
    record_property("recipe", (name, floor.figure, before, after, floor.value, round(seconds)))

    assert info["status"] == "finished" and summary["skipped_updates"] == 0
    assert [record["step"] for record in records if "loss" in record] == list(range(1, summary["steps"] + 1))
    assert (tmp_path / "run" / "model").is_dir()
    assert floor.holds(before, after), (floor, before, after)


@pytest.mark.recipes
def test_the_bare_zero_shot_command_names_its_photographs(mmalign: Mmalign, record_property) -> None:
    command = re.search(r'mmalign zero-shot --labels "([^"]*)"$', README.read_text(encoding="utf-8"), re.M)
    assert command is not None
    began = time.perf_counter()
    done = mmalign("zero-shot", "--labels", command[1], "--json")
    seconds = time.perf_counter() - began
    assert done.returncode == 0, done.stderr[-3000:]
    images = [json.loads(line) for line in done.stdout.splitlines()]
    named = {Path(image["image"]).stem: image["predictions"][0]["object"] for image in images}
    right = sum(named.get(photograph) == shown for photograph, shown in PHOTOGRAPHS.items())
    record_property("recipe", ("zero-shot", "photographs named", "", right, len(PHOTOGRAPHS), round(seconds)))
    assert named == PHOTOGRAPHS
