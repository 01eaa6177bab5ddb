"""Folders of runs on the command line: one that made no step gives way, and one that is finished is its model."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from mmalign.cli import run
from mmalign.printable import json_text
from mmalign.testing.bench import Workbench
from mmalign.train.run_folder import Run
from tests.support.hostile_text import EVIL, obeyed

ROWS = [{"prompt": f"the cat {n}", "completion": f" {EVIL} {n}"} for n in range(30)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("answers") / "answers.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


@pytest.fixture
def train(bench: Workbench, data: Path, capfd: pytest.CaptureFixture[str]):
    """train(*arguments) -> (exit code, stdout, stderr): two steps of sft, or of the objective given, on the tiny Llama;
    a missing objective is sft."""

    def call(*arguments: str) -> tuple[int, str, str]:
        options = ("train.steps=2", "train.batch_size=4", "data.num_workers=0", "data.max_lost=1",
                   "evaluation.samples=1", "evaluation.sample_tokens=4")  # fmt: skip
        sets = [part for text in options for part in ("--set", text)]
        named = [] if "--objective" in arguments else ["--objective", "sft"]
        model = [] if "--backbone" in arguments else ["--backbone", str(bench.model("tiny-llama"))]
        capfd.readouterr()  # of writing the model
        code = run(["train", *named, *model, "--dataset", str(data), *sets, *arguments])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def raw_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Click sends escapes, as to a terminal."""
    monkeypatch.setattr("click.utils.should_strip_ansi", lambda *arguments: False)


def test_a_run_is_its_model_and_its_data_command_nothing(train, raw_terminal, tmp_path, capfd) -> None:
    out = tmp_path / "run"
    code, told, err = train("--out", str(out))
    assert code == 0, err
    ours = "\x1b[32m«", "»\x1b[0m"
    for mark in ours:
        assert mark in err, "what is learnt is green"
        err = err.replace(mark, "")
    assert "[31mred" in err and not obeyed(told + err), sorted(obeyed(told + err))
    code, _, err = train("--backbone", str(out), "--out", str(tmp_path / "next"))
    assert code == 0 and f"{out} is a run; its model is {out / 'model'}" in err, err
    assert f"name: {out / 'model'}\n" in (tmp_path / "next" / "config.yaml").read_text()
    for name in (out, out / "model"):
        assert run(["generate", "--backbone", str(name), "the cat", "--max-tokens", "4", "--temperature", "0"]) == 0
    direct, by_run = (text for text in [capfd.readouterr().out.splitlines()] for text in (text[0], text[-1]))
    assert direct == by_run


def test_a_run_without_a_model_says_so(train, tmp_path) -> None:
    folder = tmp_path / "begun"
    folder.mkdir()
    (folder / "run.json").write_text("{}")
    code, _, err = train("--backbone", str(folder), "--out", str(tmp_path / "run"))
    assert code == 1 and "has saved no model yet" in err and f"--resume {folder}" in err, err


def test_a_run_that_made_no_step_gives_way(train, tmp_path) -> None:
    """One whose reward fails in its first step has measured, and saved the state before that step."""
    mine, out = tmp_path / "mine.py", tmp_path / "run"
    mine.write_text("calls = []\ndef score(answers):\n    calls.append(1)\n    assert len(calls) < 3, 'down'\n"
                    "    return [0.0 for a in answers]\n", encoding="utf-8")  # fmt: skip
    reward = json.dumps({"name": "function", "function": f"{mine}:score"})
    named = ("--objective", "grpo", "--reward", reward, "--set", "rollout.max_tokens=3", "--set", "rollout.samples=2",
             "--set", "dataset.holdout=0.1", "--set", "rollout.heldout_answers=2", "--out", str(out))  # fmt: skip
    code, _, err = train(*named)
    assert code == 1 and "down" in err, err
    assert (out / "metrics.jsonl").is_file() and (out / "checkpoints" / "step-000000").is_dir(), "it had begun"
    code, _, err = train("--out", str(out))
    assert code == 0 and f"{out} held a run that made no step; this run replaces it" in err, err
    assert json.loads((out / "run.json").read_text())["plan"]["objective"] == "sft"
    code, _, err = train("--out", str(out))
    assert code == 2 and "is not empty" in err and "--resume" in err, "this one has made steps"


def test_foreign_files_are_never_removed(train, tmp_path) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "run.json").write_text("{}")
    (out / "config.yaml").write_text("")
    (out / "thesis.txt").write_text("years of work")
    code, _, err = train("--out", str(out))
    assert code == 2 and "is not empty" in err, err
    assert (out / "thesis.txt").read_text() == "years of work"


def test_every_line_of_a_run_is_json_where_figures_are_not_finite(tmp_path: Path) -> None:
    """No NaN or Infinity, which `json.loads` takes and other readers refuse; read back, figures are numbers again."""

    def strict(text: str) -> Any:
        def refuse(word: str) -> None:
            raise ValueError(word)

        return json.loads(text, parse_constant=refuse)

    started = Run.create(tmp_path / "run", "train: {}\n", {"device": "cpu"})
    figures = {"heldout/loss": math.nan, "heldout/accuracy": 0.5}
    started.log({"step": 0, "loss": math.inf, "evaluation": figures, "parts": {"heldout/loss": [1.0, -math.inf]}})
    started.write_info(summary={"before": figures, "rows": [(1, math.nan)]})
    for _ in range(2):
        (line,) = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
        record = strict(line)
        assert record["evaluation"] == {"heldout/loss": None, "heldout/accuracy": 0.5} and record["loss"] is None
        assert record["parts"] == {"heldout/loss": [1.0, None]}
        started.rewind(0)  # writes the same lines again
    info = strict((tmp_path / "run" / "run.json").read_text())
    assert info["summary"] == {"before": {"heldout/loss": None, "heldout/accuracy": 0.5}, "rows": [[1, None]]}
    (record,) = started.metrics()
    assert math.isnan(record["evaluation"]["heldout/loss"]) and math.isnan(record["parts"]["heldout/loss"][1])
    assert strict(json_text({"metrics": figures}))["metrics"]["heldout/loss"] is None
    started.close()
