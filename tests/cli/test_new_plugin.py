"""`mmalign plugins new`: what it writes installs, passes the conformance kit and trains; what it refuses."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmalign.cli import run
from mmalign.cli.new_plugin import render
from tests.support.plugin_sites import write_entry_points
from tests.support.project import EXAMPLES

EXAMPLE = EXAMPLES / "starter"
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_example_is_what_the_command_writes(here: Path, capsys: Capture) -> None:
    assert run(["plugins", "new", "starter"]) == 0
    written = {file.relative_to("starter"): file.read_bytes() for file in Path("starter").rglob("*") if file.is_file()}
    caches = {"__pycache__", ".pytest_cache", ".ruff_cache"}
    kept = [file for file in EXAMPLE.rglob("*") if file.is_file() and not caches & {*file.parts}]
    assert written == {file.relative_to(EXAMPLE): file.read_bytes() for file in kept}


def test_files_on_stdout_and_the_next_commands_on_stderr(here: Path, capsys: Capture) -> None:
    assert run(["plugins", "new", "my-plugin"]) == 0
    out, err = capsys.readouterr()
    files = sorted(str(file) for file in Path("my-plugin").rglob("*") if file.is_file())
    assert sorted(out.splitlines()) == files and len(files) == 7
    commands = [
        "python -m pip install -e ./my-plugin",
        "mmalign plugins check my-plugin",
        "mmalign train --objective my-plugin --dataset my-plugin-data --set train.steps=80",
    ]
    assert [line.strip() for line in err.splitlines()] == ["next:", *commands]
    assert run(["plugins", "new", "other-plugin", "--out", "a b", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["plugin"], document["folder"]) == ("other-plugin", "a b")
    assert document["next"][0] == "python -m pip install -e './a b'"
    assert sorted(document["files"]) == sorted(str(file) for file in Path("a b").rglob("*") if file.is_file())


@pytest.mark.parametrize("name", ["ab", "a-rather-long-name-of-a-plugin-that-fits"])
def test_what_it_writes_is_clean(here: Path, name: str) -> None:
    assert run(["-q", "plugins", "new", name]) == 0
    for check in (["check", "--no-cache"], ["format", "--check", "--no-cache"]):
        done = subprocess.run([sys.executable, "-m", "ruff", *check, name], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


# It works as it is ----------------------------------------------------------------------------------------------------


@pytest.fixture
def installed(here: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A new plugin, as `pip install -e` leaves it."""
    assert run(["plugins", "new", "new-one"]) == 0
    site = here / "site"
    site.mkdir()
    write_entry_points(site, here / "new-one")
    for folder in (site, here / "new-one"):
        monkeypatch.syspath_prepend(str(folder))
    yield "new-one"
    for module in [module for module in sys.modules if module.partition(".")[0] == "new_one"]:
        del sys.modules[module]


def test_it_passes_the_conformance_kit(installed: str) -> None:
    from mmalign.testing.runner import run_checks

    results = list(run_checks(installed))
    assert [(result.name, result.why) for result in results if result.outcome != "pass"] == []
    assert {result.name.split()[0] for result in results} == {"plugin:", "objective", "dataset", "reward"}
    assert len(results) >= 30


def test_it_trains_the_embedded_model_on_its_own_data(installed: str, here: Path, capsys: Capture) -> None:
    sets = ["train.steps=2", "train.batch_size=8", "data.num_workers=0", "dataset.letters=2"]
    options = [part for value in sets for part in ("--set", value)]
    named = ["--objective", installed, "--dataset", f"{installed}-data", "--out", "run", "--device", "cpu", "--json"]
    capsys.readouterr()
    assert run(["train", *named, *options]) == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert document["after"]["heldout/examples"] == 7, err
    assert document["after"]["heldout/loss"] < document["before"]["heldout/loss"]
    assert (here / "run" / "model" / "model.safetensors").is_file()


def test_its_loss_is_the_formula_and_without_its_exponent_the_likelihood(installed: str) -> None:
    import torch
    from new_one.objective import Focal  # type: ignore[import-not-found]

    from mmalign.contract.batch import Batch

    logps = torch.tensor([-2.0, -0.5, 0.0], dtype=torch.float64, requires_grad=True)
    outputs, batch = {"logps": logps, "hits": torch.tensor([False, True, True])}, Batch({"key": ("a",)})
    for gamma in (0.0, 0.5, 2.0):
        terms, metrics = Focal(Focal.Config(gamma=gamma)).loss(outputs, batch)
        expected = -sum(((1 - p) ** gamma if p < 1 else 0**gamma) * p.log() for p in logps.detach().exp())
        torch.testing.assert_close(terms["focal"].detach(), expected)
        (gradient,) = torch.autograd.grad(terms["focal"], logps)
        assert gradient.isfinite().all() and (gamma or gradient.tolist() == [-1, -1, -1])
        assert float(metrics["accuracy"][0]) == 2


def test_its_reward_is_the_share_of_words_in_their_place(installed: str) -> None:
    from new_one.reward import InPlace  # type: ignore[import-not-found]

    texts, solutions = ("a b c", " a c b", "a b c d", "", "x"), ("a b c",) * 4 + ("",)
    answers = type("Answers", (), {"texts": texts, "solutions": solutions})()
    assert InPlace(InPlace.Config()).score(answers) == [1, 1 / 3, 3 / 4, 0, None]
    assert InPlace(InPlace.Config(partly=False)).score(answers) == [1, 0, 0, 0, None]


# What it refuses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "why", "free"),
    [
        ("MyPlugin", "lower-case letters and digits", "my-plugin"),
        ("../my_plugin", "lower-case letters and digits", "my-plugin"),
        ("9-lives", "lower-case letters and digits", "lives"),
        ("ä", "lower-case letters and digits", "my-plugin"),
        ("Class", "lower-case letters and digits", "class-plugin"),
        ("class", "a keyword of Python", "class-plugin"),
        ("json", "Python's standard library", "json-plugin"),
        ("torch", "a module torch is installed", "torch-plugin"),
        ("tests", "a folder of that name", "tests-plugin"),
        ("sft", "sft is one of the objectives already", "sft-plugin"),
        ("mmalign-lm", "there is a plugin of that name", "mmalign-lm-plugin"),
    ],
)
def test_a_name_that_cannot_be_had(here: Path, capsys: Capture, name: str, why: str, free: str) -> None:
    assert run(["plugins", "new", name]) == 2
    err = capsys.readouterr().err
    assert why in err and err.endswith(f"\nTry: mmalign plugins new {free}\n")
    assert not list(here.iterdir())
    assert run(["plugins", "new", free]) == 0


def test_the_name_of_an_installed_plugin(here: Path, capsys: Capture, install) -> None:
    install("taken", "", module="plug_taken")
    install("taken-plugin", "", module="plug_taken_too")
    assert run(["plugins", "new", "taken"]) == 2
    err = capsys.readouterr().err
    assert "there is a plugin of that name" in err and "Try: mmalign plugins new taken-2" in err


def test_a_folder_that_is_there_is_left_alone(here: Path, capsys: Capture) -> None:
    (here / "my-plugin").mkdir()
    (here / "my-plugin" / "README.md").write_text("mine")
    (here / "link").symlink_to("nowhere")
    (here / "file").write_text("mine")
    for options in ([], ["--out", "link"], ["--out", "file"], ["--out", "."]):
        assert run(["plugins", "new", "my-plugin", *options]) == 2
        err = capsys.readouterr().err
        assert "exists already and is not changed" in err and "--out FOLDER" in err
    assert run(["plugins", "new", "my-plugin", "--out", "no/where"]) == 2
    assert "there is no folder no" in capsys.readouterr().err
    assert {str(file.relative_to(here)) for file in here.rglob("*")} == {
        "my-plugin", "my-plugin/README.md", "link", "file"
    }  # fmt: skip
    assert (here / "my-plugin" / "README.md").read_text() == (here / "file").read_text() == "mine"


def test_a_disk_that_is_full_leaves_nothing(here: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    real, last = Path.write_text, list(render("my-plugin"))[-1]

    def write(path: Path, text: str, **options: str) -> int:
        if str(path).endswith(last):
            raise OSError(28, "No space left on device", str(path))
        return real(path, text, **options)

    monkeypatch.setattr(Path, "write_text", write)
    assert run(["plugins", "new", "my-plugin"]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert not list(here.iterdir())
