"""`mmalign train` as a user types it, on a tiny model and a small CSV."""

import csv
import json
import math
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mmalign.cli import run
from mmalign.report import png_bytes
from tests.support.pictures import write_pairs


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs"))


@pytest.fixture
def train(tiny_folder, pairs, capsys):
    """train(*arguments) -> (exit code, stdout, stderr), with the tiny model, the CSV and four steps."""

    def call(*arguments: str) -> tuple[int, str, str]:
        options = {"train.steps": 4, "train.batch_size": 8, "data.num_workers": 0, "train.warmup_steps": 1}
        sets = [part for key, value in options.items() for part in ("--set", f"{key}={value}")]
        named = ["--objective", "contrastive", "--backbone", str(tiny_folder), "--dataset", str(pairs)]
        code = run(["train", *named, *sets, *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_a_run_leaves_everything(train, tmp_path, tiny_folder, curves) -> None:
    code, out, err = train("--out", str(tmp_path / "run"), "--json")
    assert code == 0, err
    assert "the packaged recipe contrastive.yaml is tuned to clip-lite and emoji, so it is left out" in err
    assert "mmalign config show contrastive" in err and "train.learning_rate" in err
    assert re.search(r"4 steps of 8 are .* over \d+ examples", err)
    outcome = json.loads(out)
    assert outcome["schema"] == 1 and outcome["steps"] == 4 and outcome["examples"] == 32
    names = {path.name for path in (tmp_path / "run").iterdir()}
    wanted = {"run.json", "config.yaml", "metrics.jsonl", "skipped.jsonl", "curve.png", "report.html", "README.md"}
    assert wanted | {"model", "checkpoints"} <= names
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if "loss" in record] == [1, 2, 3, 4]
    assert all(math.isfinite(record["loss"]) for record in records if "loss" in record)
    assert {"heldout/loss", "retrieval/mean_r1"} <= set(outcome["before"]) & set(outcome["after"])
    page = (tmp_path / "run" / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page
    assert "data:image/png;base64" in page and "mmalign zero-shot" in page
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert info["status"] == "finished" and info["data"]["kept"] > 0
    start, end = (load_file(f / "open_clip_model.safetensors") for f in (tiny_folder, tmp_path / "run" / "model"))
    assert any(not torch.equal(start[name].float(), end[name]) for name in end)


def test_a_finished_run_of_a_version_that_counted_nothing_is_shown(train, tmp_path, capsys) -> None:
    assert train("--out", str(tmp_path / "run"), "--set", "train.steps=1")[0] == 0
    path = tmp_path / "run" / "run.json"
    info = json.loads(path.read_text())
    assert info["summary"].pop("counts") == {}
    path.write_text(json.dumps(info))
    assert run(["train", "--resume", str(tmp_path / "run")]) == 0, capsys.readouterr().err
    assert "8 examples in " in capsys.readouterr().err


@pytest.mark.parametrize("names", [(), ("loss",), ("loss", "learning_rate", "a", "b")])
def test_curves_of_any_metrics_are_drawn(curves, names) -> None:
    """A metric that only some steps have, and one that has no value in a step."""
    records = [{"step": step, "peak_memory_mb": 1, **dict.fromkeys(names, 0.5 * step)} for step in range(3)]
    records.append({"step": 3, "loss": None, "rare": 2.0} if names else {"step": 3})
    figure = curves(records)
    drawn = [axes.get_title() for axes in figure.axes]
    assert drawn == ([*(name.replace("_", " ") for name in names), "rare"] if names else [])
    assert all(len(axes.lines[0].get_xdata()) == (1 if axes.get_title() == "rare" else 3) for axes in figure.axes)
    assert png_bytes(figure).startswith(b"\x89PNG")


def test_training_learns(train, tmp_path) -> None:
    options = ("--set", "train.steps=30", "--set", "train.learning_rate=0.003", "--set", "train.batch_size=10")
    code, _, err = train("--out", str(tmp_path / "run"), "--json", *options)
    assert code == 0, err
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [record["loss"] for record in records if "loss" in record]
    assert sum(losses[-5:]) / 5 < 0.7 * losses[0]


def test_wise_ft_lies_between_the_starting_and_the_trained_weights(train, tmp_path, tiny_folder) -> None:
    for share in (1.0, 0.25):
        code, _, err = train("--out", str(tmp_path / str(share)), "--set", f"train.wise_ft={share}")
        assert code == 0, err
    start = load_file(tiny_folder / "open_clip_model.safetensors")
    trained = load_file(tmp_path / "1.0" / "model" / "open_clip_model.safetensors")
    mixed = load_file(tmp_path / "0.25" / "model" / "open_clip_model.safetensors")
    for name, value in mixed.items():
        if value.is_floating_point():
            expected = 0.25 * trained[name].double() + 0.75 * start[name].double()
            torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6, msg=name)


def test_dry_run_prints_the_plan_and_writes_nothing(train, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = train("--dry-run", "--json")
    assert code == 0, err
    document = json.loads(out)
    assert document["plan"]["train"]["steps"] == 4
    figures = document["estimate"]
    moments = 2 * figures["gradient_bytes"]
    assert moments == 8 * figures["trainable"]
    assert moments < figures["optimizer_bytes"] < moments + 1000, "and a counter for each parameter"
    (policy,) = figures["roles"]
    assert policy["role"] == "policy" and policy["trains"] and policy["shares"] == ""
    assert policy["weights_bytes"] == figures["weights_bytes"] and policy["trainable"] == figures["trainable"]
    assert figures["seconds"] > 0 and figures["disk_free_bytes"] > figures["disk_bytes"] > 0
    assert not list(tmp_path.iterdir())


def test_dry_run_shows_the_plan_and_the_first_example_and_options_on_request(train, pairs) -> None:
    code, out, err = train("--dry-run")
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0] == f"contrastive on {lines[0].split()[2]} with {pairs}"
    places = [
        next(n for n, line in enumerate(lines) if line.startswith(word)) for word in ("data ", "memory ", "time ")
    ]
    example = next(n for n, line in enumerate(lines) if line.startswith("the first example, pairs.csv"))
    assert places == sorted(places) and places[-1] < example <= 20, "the plan first"
    with pairs.open(newline="") as file:
        captions = [row["caption"] for row in csv.DictReader(file)]
    (text,) = [line.removeprefix("  text: ") for line in lines if line.startswith("  text: ")]
    assert text in captions and re.search(r"  image: .*, \d+ x \d+ pixels", out)
    assert "learning_rate:" not in out and "add --options" in err
    code, out, err = train("--dry-run", "--options")
    assert code == 0 and out.index("the first example") < out.index("\ntrain:\n") and "learning_rate:" in out
    code, _, err = train("--options")
    assert code == 2 and "--options goes with --dry-run" in err


def test_bf16_trains(train, tmp_path) -> None:
    code, out, err = train("--out", str(tmp_path / "run"), "--json", "--set", "train.precision=bf16")
    assert code == 0 and math.isfinite(json.loads(out)["after"]["heldout/loss"]), err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--set", "train.step=3"], 2, ["train.step: unknown key", "Did you mean steps"]),
        (["--set", "objective.loss=infonc"], 2, ["objective.loss", "infonce"]),
        (["--set", "train.batch_size=0", "--set", "train.steps=x"], 2, ["train.batch_size", "train.steps"]),
        (["--set", "objective.loss=sigmoid"], 2, ["bias", "backbone.init_logit_bias=-10"]),
        (["--set", "backbone.lock_image=true", "--set", "backbone.lock_text=true", "--set", "train.steps=1"], 0, []),
        (["--device", "cudaa"], 2, ["cudaa"]),
        (["--set", "dataset.path=elsewhere.csv"], 2, ["disagree"]),
    ],
)
def test_mistakes_are_named_without_a_traceback(train, tmp_path, arguments, code, words) -> None:
    got, _, err = train("--out", str(tmp_path / "run"), *arguments)
    assert got == code, err
    assert all(word in err for word in words), err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--objective", "contrastve"], ["Did you mean contrastive"]),
        ([], ["no objective", "contrastive"]),
        (["--objective", "contrastive", "--backbone", "clip-lit"], ["Did you mean clip-lite"]),
        (["--objective", "contrastive", "--dataset", "emojis"], ["Did you mean emoji"]),
        (["--objective", "contrastive", "--dataset", "photos"], ["image-text", "image-label"]),
        (["--resume", "nowhere"], ["holds no run"]),
        (["--objective", "contrastive", "-c", "none.yaml"], ["none.yaml"]),
    ],
)
def test_wrong_names_say_what_would_work(capsys, arguments, words) -> None:
    assert run(["train", *arguments]) == 2
    err = capsys.readouterr().err
    assert all(word in err for word in words) and "Traceback" not in err, err


def test_a_missing_file_is_a_data_error(capsys, tiny_folder, tmp_path) -> None:
    named = ["--objective", "contrastive", "--backbone", str(tiny_folder), "--out", str(tmp_path / "run")]
    assert run(["train", *named, "--dataset", str(tmp_path / "none.csv")]) in (2, 3)
    assert "none.csv" in capsys.readouterr().err
