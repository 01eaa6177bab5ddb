"""A classifier beside its starting model, prompted and not trained: `evaluation.baselines`."""

import json

import pytest
import yaml

from mmalign.cli import run
from mmalign.evaluate.intervals import wilson
from mmalign.train.baselines import compare, table
from mmalign.train.layers import recipe_path

FEW_SHOT = (
    'evaluation.baselines=[{"name": "few-shot", "shots": 0}, {"name": "few-shot", "shots": 2, "max_examples": 5}]'
)


@pytest.fixture
def train(lm_folders, tmp_path):
    rows = [{"text": f"{word} {i}", "label": "good" if i % 3 else "bad"} for i, word in enumerate(["cat", "dog"] * 40)]
    (tmp_path / "labelled.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["train", "--objective", "classify", "--backbone", str(lm_folders["tiny_gpt2"]), "--device", "cpu"]
    command += ["--dataset", str(tmp_path / "labelled.jsonl"), "--out", str(tmp_path / "run")]
    options = ("train.steps=2", "train.batch_size=8", "data.num_workers=0", "dataset.holdout=0.2")

    def start(*more: str) -> int:
        return run([*command, *(part for value in (*options, *more) for part in ("--set", value))])

    return start


def test_one_table_holds_the_trained_and_the_prompted_model(train, tmp_path, capsys) -> None:
    assert train(FEW_SHOT) == 0
    printed = capsys.readouterr().out
    summary = json.loads((tmp_path / "run" / "run.json").read_text())["summary"]
    trained, none, two, majority = summary["comparison"]
    assert trained["value"] == summary["after"]["heldout/accuracy"]
    assert trained["examples"] == none["examples"] == majority["examples"] > two["examples"] == 5
    assert trained["interval"] == pytest.approx(wilson(trained["value"] * trained["examples"], trained["examples"]))
    assert none["what"] == "starting model, few-shot (shots 0)" and two["what"] == "starting model, few-shot (shots 2)"
    assert none["interval"][0] <= none["value"] <= none["interval"][1]
    report, card = ((tmp_path / "run" / name).read_text() for name in ("report.html", "README.md"))
    for row in table(summary["comparison"]):
        assert all(row[0] in text and row[1] in text for text in (printed, report, card)), row
    asked = [line for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines() if "baselines" in line]
    assert len(asked) == 1, "the starting model is asked once"
    assert "text-classification" in summary["next"][0]


@pytest.mark.parametrize(
    ("baseline", "message"),
    [
        ({"name": "few-shot", "shotz": 1}, "shotz"),
        ({"name": "few-shots"}, "few-shots"),
        ({"shots": 1}, "names no evaluation"),
        ({"name": "retrieval"}, "encode_image"),
    ],
)
def test_a_baseline_that_cannot_be_is_refused_before_anything_is_loaded(
    train, tmp_path, capsys, baseline, message
) -> None:
    assert train(f"evaluation.baselines={json.dumps([baseline])}") == 2
    assert message in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_only_like_is_set_beside_like() -> None:
    results = {"accuracy": 0.5, "accuracy_low": 0.2, "accuracy_high": 0.8, "examples": 10}
    baselines = [{"evaluation": "few-shot", "what": "few-shot", "metric": "accuracy", "results": results}]
    after = {"heldout/accuracy": 0.9, "heldout/examples": 10.0}  # of sft: a share of tokens
    beside = ("starting model, few-shot", "0.500", "0.200 to 0.800", "10")
    assert table(compare(baselines, after, "sft", frozenset())) == [beside]
    low, high = wilson(9, 10)
    trained = ("classify, trained: accuracy", "0.900", f"{low:.3f} to {high:.3f}", "10")
    assert table(compare(baselines, after, "classify", frozenset({"few-shot"}))) == [trained, beside]
    assert compare([], {"heldout/accuracy": 1.0}, "sft", frozenset()) == []


def test_the_recipe_asks_for_no_one_and_eight_examples() -> None:
    recipe = yaml.safe_load(recipe_path("classify").read_text())
    assert [baseline["shots"] for baseline in recipe["evaluation"]["baselines"]] == [0, 1, 8]
