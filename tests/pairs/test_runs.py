"""Runs of language models' objectives on a tiny CLIP: saved, resumed to the bit, cut, on two processes, refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from mmalign.cli import run
from mmalign.errors import CheckpointError, UsageError
from mmalign.evaluate.classifier import PictureClassifier
from mmalign.testing.bench import Workbench
from mmalign.train.layers import load_layers
from mmalign.train.plan import Plan, make_plan
from tests.support.pictures import COLOURS, SHAPES, write_pairs, write_rows
from tests.support.resume_cases import OPTIONS, Lab, assert_same_run, quick_runs
from tests.support.two_processes import run_on_two

pytestmark = pytest.mark.usefixtures("one_thread")
NAMES = [f"a {colour} {shape}" for colour in COLOURS for shape in SHAPES]
REWARD = ('rollout.rewards=["exact-match"]', "rollout.samples=2", "objective.minibatches=2")
OBJECTIVES: dict[str, tuple[str, ...]] = {
    "sft": (),
    "dpo": (),
    "dpo pictures": (),
    "kto": (),
    "reward": (),
    "ppo": (*REWARD, "objective.epochs=2"),
    "rloo": (*REWARD,),
}


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write_rows(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory):
    with quick_runs():
        yield Lab(Workbench({}, {}), tmp_path_factory.mktemp("runs"))


def plan_of(lab: Lab, tables: dict[str, str], case: str, *options: str) -> Plan:
    objective, _, of_answers = case.partition(" ")
    table = "pictures" if of_answers or objective == "reward" else "prompts" if OBJECTIVES[case] else "texts"
    names = {"objective": objective, "backbone": str(lab.bench.model("tiny-open-clip")), "dataset": tables[table]}
    sets = [*OPTIONS, "train.micro_batch_size=2", "dataset.holdout=0.2", *OBJECTIVES[case], *options]
    return make_plan(lab.catalog, load_layers(sets=sets, names=names))


@pytest.mark.parametrize("case", OBJECTIVES)
def test_a_run_that_was_killed_goes_on_to_the_same_bits(lab: Lab, tables: dict[str, str], case: str) -> None:
    whole = lab.begin(plan_of(lab, tables, case))
    run_folder = lab.copy(whole.moments["5/6"])
    lab.resume(run_folder)
    assert_same_run(run_folder, whole.folder)
    summary = json.loads((whole.folder / "run.json").read_text())["summary"]
    assert any(name.startswith("heldout/") for name in summary["after"])
    assert {"open_clip_config.json", "open_clip_model.safetensors"} <= {
        p.name for p in (whole.folder / "model").iterdir()
    }


def test_the_saved_model_may_lie_between_the_start_and_the_end(lab: Lab, tables: dict[str, str]) -> None:
    whole = lab.begin(plan_of(lab, tables, "dpo", "train.wise_ft=0.5"))
    model = load_file(whole.folder / "model" / "open_clip_model.safetensors")
    start = load_file(lab.bench.model("tiny-open-clip") / "open_clip_model.safetensors")
    end = lab.begin(plan_of(lab, tables, "dpo"))
    end = load_file(end.folder / "model" / "open_clip_model.safetensors")
    moved = [name for name, value in start.items() if value.is_floating_point() and not torch.equal(value, end[name])]
    assert len(moved) > 10
    for name in moved:
        torch.testing.assert_close(model[name], start[name].lerp(end[name], 0.5), msg=name)


@pytest.mark.parametrize("case", ["sft", "dpo", "dpo pictures"])
def test_the_cut_of_a_batch_changes_no_run(lab: Lab, tables: dict[str, str], case: str) -> None:
    models = []
    for size in (1, 2, 4):
        whole = lab.begin(plan_of(lab, tables, case, f"train.micro_batch_size={size}", "optimizer.eps=0.01"))
        models.append(load_file(whole.folder / "model" / "open_clip_model.safetensors"))
    for other in models[1:]:
        for name, value in models[0].items():
            torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_the_first_step_learns_from_what_the_reference_saw(lab: Lab, tables: dict[str, str]) -> None:
    """BatchNorm keeps its running statistics, also where the batch is not split."""
    names = {"objective": "dpo", "backbone": str(lab.bench.model("tiny-open-clip-bn")), "dataset": tables["texts"]}
    sets = [*OPTIONS, "train.micro_batch_size=4", "train.batch_size=4"]
    whole = lab.begin(make_plan(lab.catalog, load_layers(sets=sets, names=names)))
    first = next(
        row for row in map(json.loads, (whole.folder / "metrics.jsonl").read_text().splitlines()) if "loss" in row
    )
    assert abs(first["margin"]) < 1e-5 and first["loss"] == pytest.approx(0.693147, abs=1e-5)


def test_a_classifier_of_pictures_needs_no_candidates(lab: Lab, tmp_path: Path) -> None:
    names = {"objective": "classify", "backbone": str(lab.bench.model("tiny-open-clip")), "dataset": "photos"}
    whole = lab.begin(make_plan(lab.catalog, load_layers(sets=[*OPTIONS, "train.micro_batch_size=2"], names=names)))
    head = load_file(whole.folder / "model" / "head.safetensors")["weight"]
    classes = json.loads((whole.folder / "model" / "classes.json").read_text())
    assert head.shape[0] == len(classes) == 9 and "koala" in classes
    summary = json.loads((whole.folder / "run.json").read_text())["summary"]
    assert "PictureClassifier.load" in summary["next"][0] and str(whole.folder / "model") in summary["next"][0]
    classifier = PictureClassifier.load(whole.folder / "model")
    write_pairs(tmp_path, copies=1)
    files = [str(tmp_path / "red-square-0.png"), str(tmp_path / "blue-circle-0.png")]
    images = torch.stack([classifier.backbone.processor.image(Image.open(file)) for file in files])
    expected = (classifier.backbone.encode_image(images) @ head.T).softmax(1)
    torch.testing.assert_close(classifier.probabilities(files), expected)
    assert classifier(*files) == [classes[row.argmax()] for row in expected]
    with pytest.raises(CheckpointError, match="is no classifier of pictures"):
        PictureClassifier.load(lab.bench.model("tiny-open-clip"))


def test_what_is_augmented_cannot_be_cached(lab: Lab, tables: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="reads pictures, which are augmented anew in each step"):
        plan_of(lab, tables, "dpo", "train.frozen_roles=cache")


def test_two_processes_give_the_run_of_one(tables: dict[str, str], lab: Lab, tmp_path: Path) -> None:
    sets = (
        "train.steps=3",
        "train.batch_size=8",
        "train.learning_rate=0.001",
        "data.num_workers=0",
        "train.save_every=0",
    )
    command = ["train", "--objective", "sft", "--backbone", str(lab.bench.model("tiny-open-clip"))]
    command += ["--dataset", tables["texts"], "--device", "cpu", *(part for value in sets for part in ("--set", value))]
    assert run_on_two([*command, "--out", str(tmp_path / "two")]) == [0, 0]
    assert run([*command, "--out", str(tmp_path / "one")]) == 0
    one, two = (load_file(tmp_path / name / "model" / "open_clip_model.safetensors") for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5, msg=name)


REFUSED = {
    "texts for texts": (
        "dpo",
        {"prompt": "Q", "chosen": "yes", "rejected": "no"},
        "texts with texts as answers",
        "pictures with texts as answers or texts with pictures as answers",
    ),
    "pictures as answers of sft": (
        "sft",
        {"prompt": "Q", "completion": {"path": "red-square-0.png"}},
        "texts with pictures as answers",
        "pictures with texts as answers",
    ),
    "one candidate": (
        "sft",
        {"image": "red-square-0.png", "completion": "a"},
        "one candidate, 'a'",
        "backbone.candidates",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_dual_encoder_does_not_read_is_refused(case: str, lab: Lab, tmp_path: Path, capsys: Any) -> None:
    objective, row, *words = REFUSED[case]
    write_pairs(tmp_path, copies=1)
    (tmp_path / "rows.jsonl").write_text((json.dumps(row) + "\n") * 8)
    names = ["--backbone", str(lab.bench.model("tiny-open-clip")), "--dataset", str(tmp_path / "rows.jsonl")]
    code = run(
        ["train", "--objective", objective, *names, "--set", "dataset.holdout=0", "--out", str(tmp_path / "run")]
    )
    told = capsys.readouterr().err
    assert code == 2 and all(word in told for word in words), told


def test_pictures_are_refused_for_a_language_model(
    tables: dict[str, str], lab: Lab, tmp_path: Path, capsys: Any
) -> None:
    names = ["--backbone", str(lab.bench.model("tiny-llama")), "--dataset", tables["texts"]]
    assert run(["train", "--objective", "sft", *names, "--out", str(tmp_path / "run")]) == 2
    told = capsys.readouterr().err
    assert "pictures with texts as answers" in told and "learns from texts with texts as answers" in told


def test_embedded_data_of_texts_are_refused_before_weights_are_loaded(capsys: Any, tmp_path: Path) -> None:
    names = ["--backbone", "clip-lite", "--dataset", "movie-reviews"]
    assert run(["train", "--objective", "dpo", *names, "--out", str(tmp_path / "run")]) == 2
    assert "movie-reviews holds" in capsys.readouterr().err


def test_a_list_of_candidates_counts_other_answers_as_bad(
    lab: Lab, tables: dict[str, str], tmp_path: Path, capsys: Any
) -> None:
    names = ["--backbone", str(lab.bench.model("tiny-open-clip")), "--dataset", tables["texts"]]
    listed = tmp_path / "names.txt"
    listed.write_text("\n".join(NAMES[5:]))
    sets = ["--set", f"backbone.candidates=@{listed}", "--set", "train.steps=2", "--set", "train.batch_size=4"]
    sets += ["--set", "data.num_workers=0", "--set", "data.max_bad=0"]
    assert run(["train", "--objective", "sft", *names, *sets, "--out", str(tmp_path / "run")]) != 0
    told = capsys.readouterr().err
    assert "5 candidates" in told and "is none of the 5 candidates" in told
