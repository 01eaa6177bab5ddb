"""A third party's kind of example works everywhere, and nothing in the core was touched for it."""

import json
from pathlib import Path
from typing import Any

import pytest

from mmalign.cli import run
from mmalign.errors import UsageError
from mmalign.registry.catalog import Catalog
from mmalign.registry.plugins import load_plugins
from mmalign.testing import models
from mmalign.testing.bench import Workbench
from mmalign.testing.runner import find_checks, run_check
from mmalign.testing.subjects import make_examples
from tests.support import moods
from tests.support.graded import PLUGIN, GradedPair, pairs

GRADED = "tests.support.graded"
SIZES = ("train.steps=2", "train.batch_size=4", "data.num_workers=0", "evaluation.samples=1", "evaluation.batch_size=4")
EXAMPLES = """
from mmalign import ExampleSpec, hookimpl

@hookimpl
def register_examples():
    return [ExampleSpec(name="{name}", summary="s", target="{target}", modalities={modalities}, samples="{samples}")]
"""


def plugin(name: str, target: str = f"{GRADED}:GradedPair", modalities: str = "('text',)", samples: str = "") -> str:
    return EXAMPLES.format(name=name, target=target, modalities=modalities, samples=samples)


def train(objective: str, model: Path, *arguments: str) -> int:
    sets = [part for value in SIZES for part in ("--set", value)]
    return run(["train", "--objective", objective, "--backbone", str(model), *sets, *arguments])


MODELS = {"grade-cosine": models.tiny_open_clip, "grade-likelihood": models.tiny_gpt2}


@pytest.mark.parametrize("objective", MODELS)
def test_it_trains_with_its_own_data_set_and_objective(
    objective: str, install: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install("graded-plugin", PLUGIN)
    folder, out = MODELS[objective](tmp_path / "tiny"), tmp_path / "run"
    assert train(objective, folder, "--dry-run") == 0
    shown = capsys.readouterr().out
    assert "the first example, pair:4" in shown and "  left: a house and a bird" in shown
    assert train(objective, folder, "--out", str(out), "--json") == 0
    assert json.loads(capsys.readouterr().out)["after"]["heldout/examples"] == 4
    record = json.loads((out / "model" / "mmalign.json").read_text())
    assert (record["objective"], record["kind"]) == (f"graded-plugin/{objective}", "graded-pair")
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in steps if "loss" in row] == [1, 2]


def test_lists_show_where_it_comes_from(install: Any, capsys: pytest.CaptureFixture[str]) -> None:
    install("graded-plugin", PLUGIN)
    assert run(["list", "examples", "--json"]) == 0
    items = {item["name"]: item for item in json.loads(capsys.readouterr().out)["items"]}
    own = items["graded-pair"]
    assert (own["plugin"], own["target"], own["modalities"]) == ("graded-plugin", f"{GRADED}:GradedPair", ["text"])
    assert (items["image-text"]["plugin"], items["image-text"]["modalities"]) == ("mmalign_data", ["image", "text"])
    assert run(["show", "graded-pair"]) == 0
    assert capsys.readouterr().out.startswith("graded-pair (example kind of graded-plugin)\n")
    assert run(["plugins", "show", "graded-plugin"]) == 0
    assert "  example kind graded-pair: Two texts and how alike they are" in capsys.readouterr().out
    assert run(["plugins", "list"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("graded-plugin"))
    assert line.endswith("2 objectives, 1 dataset, 1 example kind")


def test_the_kit_makes_examples_of_it(install: Any, tmp_path: Path) -> None:
    install("graded-plugin", PLUGIN)
    bench = Workbench({}, {})
    assert make_examples("graded-pair", 6, bench) == pairs(6)
    checks = {check.name: check for check in find_checks("graded-plugin", bench)}
    names = [
        "example kind graded-pair: its fields become columns",
        "example kind graded-pair: its samples are examples of it",
        "dataset grades: yields its kind",
        "objective grade-cosine on tiny-open-clip: 1x8 equals 4x2",
        "objective grade-likelihood on tiny-gpt2: finite, with a count for each term",
    ]
    assert {name: run_check(checks[name]).why for name in names} == dict.fromkeys(names, "")
    assert not any("options" in name for name in checks if name.startswith("example kind"))


FAULTS = {
    "modalities": (plugin("graded-pair", modalities="('image', 'text')"), "says ['image', 'text'], and the fields are"),
    "class": (plugin("graded-pair", target=f"{GRADED}:Grades"), f"example kind {GRADED}:Grades is no dataclass"),
    "samples": (plugin("graded-pair", samples=f"{GRADED}:_WORDS"), "TypeError"),
    "none": (plugin("graded-pair", samples="builtins:list"), "'int' object is not iterable"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_kit_finds_what_is_wrong_with_one(fault: str, install: Any) -> None:
    source, why = FAULTS[fault]
    install("faulty-kind", source)
    checks = find_checks("faulty-kind", Workbench({}, {}))
    results = [run_check(check) for check in checks if check.name.startswith("example kind")]
    assert [why in result.why for result in results if result.outcome == "fail"] == [True]


def test_the_kit_checks_the_classes_of_a_labelled_kind(install: Any) -> None:
    install("moody", moods.PLUGIN)
    checks = {check.name: check for check in find_checks("moody", Workbench({}, {}))}
    result = run_check(checks["dataset moods: names its classes"])
    assert (result.outcome, "has the label 2, and there are 2 classes" in result.why) == ("fail", True)


def test_two_third_parties_with_one_kind_are_an_error_that_names_both(install: Any, tmp_path: Path) -> None:
    install("graded-plugin", PLUGIN)
    install("other", plugin("graded-pair"))
    catalog = Catalog(load_plugins())
    with pytest.raises(UsageError, match="two plugins offer example kind 'graded-pair'") as caught:
        catalog.find("examples", "graded-pair")
    assert caught.value.message.endswith(": graded-plugin/graded-pair and other/graded-pair")
    assert catalog.lookup("examples", "graded-pair") is None
    assert catalog.load(catalog.find("examples", "other/graded-pair")) is GradedPair
    assert run(["matrix", "grade-cosine"]) == 0
    assert train("grade-cosine", models.tiny_open_clip(tmp_path / "tiny"), "--out", str(tmp_path / "run")) == 2


def test_a_built_in_kind_keeps_its_name(install: Any) -> None:
    install("mine", plugin("text"))
    host = load_plugins()
    assert host.record("mine").warnings == ["example kind text is built in; this one is called mine/text"]
    assert Catalog(host).find("examples", "text").plugin == "mmalign_data"


def test_an_objective_of_a_kind_that_nobody_registers_says_so(
    install: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install("graded-plugin", PLUGIN.replace("return [ExampleSpec", "return [] and [ExampleSpec"))
    assert train("grade-cosine", models.tiny_open_clip(tmp_path / "tiny"), "--out", str(tmp_path / "run")) == 2
    assert "unknown example kind 'graded-pair'" in capsys.readouterr().err


@pytest.mark.parametrize("field", ["target", "samples"])
def test_places_are_checked_when_the_spec_is_made(field: str, install: Any) -> None:
    install("wrong", plugin("graded-pair", **{field: f"{GRADED}.GradedPair"}))
    assert f"'{GRADED}.GradedPair' is not 'package.module:Name'" in load_plugins().record("wrong").why
