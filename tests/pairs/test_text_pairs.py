"""Pairs of texts: their tables, and runs of `contrastive` on them, of a language model and of a dual encoder."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mmalign.cli import run
from mmalign.contract.examples import TextPair
from mmalign.errors import IncompatibleError, UsageError
from mmalign.registry.catalog import Catalog
from mmalign.testing.bench import Workbench
from mmalign.train.layers import load_layers
from mmalign.train.plan import Plan, make_plan
from tests.support.resume_cases import OPTIONS, Lab, assert_same_run, quick_runs
from tests.support.two_processes import run_on_two

pytestmark = pytest.mark.usefixtures("one_thread")
ANIMALS = ("cat", "dog", "bird", "fish", "cow", "ant", "owl", "fox", "hen", "pig", "bee", "rat")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half of the rows have a hard negative."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    rows = [
        {"anchor": f"{colour} {a}", "positive": f"a {a}", **({"negative": f"a {ANIMALS[n - 1]}"} if n % 2 else {})}
        for n, a in enumerate(ANIMALS)
        for colour in ("red", "old")
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory):
    with quick_runs():
        yield Lab(Workbench({}, {}), tmp_path_factory.mktemp("runs"))


def plan_of(lab: Lab, table: Path, model: str, *options: str) -> Plan:
    names = {"objective": "contrastive", "backbone": str(lab.bench.model(model)), "dataset": str(table)}
    sets = [*OPTIONS, "train.micro_batch_size=2", "dataset.holdout=0.3", *options]
    return make_plan(lab.catalog, load_layers(sets=sets, names=names))


LEARNT = ("backbone.embedder.learn_temperature=true",)


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("tiny-gpt2", LEARNT),
        ("tiny-gpt2", ("backbone.embedder.bidirectional=true", "backbone.dropout=0.2")),
        ("tiny-llama", ("backbone.lora.rank=2", "backbone.embedder.pooling=eos")),
        ("tiny-open-clip", ()),
    ],
)
def test_a_run_that_was_killed_goes_on_to_the_same_bits(
    lab: Lab, table: Path, model: str, options: tuple[str, ...]
) -> None:
    whole = lab.begin(plan_of(lab, table, model, *options))
    run_folder = lab.copy(whole.moments["5/6"])
    lab.resume(run_folder)
    assert_same_run(run_folder, whole.folder)
    after = json.loads((whole.folder / "run.json").read_text())["summary"]["after"]
    assert 0 <= after["text-retrieval/query_to_document_r10"] <= 1
    assert ("retrieval/mean_r1" in after) == (model == "tiny-open-clip")
    assert (whole.folder / "model" / "modules.json").is_file() == (model != "tiny-open-clip")


@pytest.mark.parametrize("options", [LEARNT, ("backbone.embedder.bidirectional=true", "objective.directions=first")])
def test_the_cut_of_a_batch_changes_no_run(lab: Lab, table: Path, options: tuple[str, ...]) -> None:
    models = []
    for size in (1, 2, 4):
        sets = (f"train.micro_batch_size={size}", "optimizer.eps=0.01", *options)
        models.append(load_file(lab.begin(plan_of(lab, table, "tiny-gpt2", *sets)).folder / "model/model.safetensors"))
    for other in models[1:]:
        for name, value in models[0].items():
            torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_the_saved_model_may_lie_between_the_start_and_the_end(lab: Lab, table: Path) -> None:
    """The learned temperature, too, which no file holds at the start."""
    end, between = (
        lab.begin(plan_of(lab, table, "tiny-gpt2", *LEARNT, *more)).folder / "model"
        for more in ((), ("train.wise_ft=0.5",))
    )
    start = load_file(lab.bench.model("tiny-gpt2") / "model.safetensors")
    trained, mixed = load_file(end / "model.safetensors"), load_file(between / "model.safetensors")
    for name, value in trained.items():
        torch.testing.assert_close(mixed[name], start[name].lerp(value, 0.5), msg=name)
    trained, mixed = (temperature_of(folder) for folder in (end, between))
    assert mixed != pytest.approx(trained, rel=1e-5) and mixed == pytest.approx((0.05 * trained) ** 0.5, rel=1e-5)


def test_what_trains_beside_an_adapter_lies_between_too(lab: Lab, table: Path) -> None:
    options = ("backbone.lora.rank=2", *LEARNT)
    end, between = (
        temperature_of(lab.begin(plan_of(lab, table, "tiny-gpt2", *options, *more)).folder / "model")
        for more in ((), ("train.wise_ft=0.5",))
    )
    assert between != pytest.approx(end, rel=1e-5) and between == pytest.approx((0.05 * end) ** 0.5, rel=1e-5)


def test_a_scale_that_the_first_step_would_move_is_refused(lab: Lab, table: Path) -> None:
    with pytest.raises(UsageError, match=r"scale 200 .*max_scale=100"):
        lab.begin(plan_of(lab, table, "tiny-gpt2", *LEARNT, "backbone.embedder.temperature=0.005"))
    with pytest.raises(IncompatibleError, match="needs a learned bias"):
        lab.begin(plan_of(lab, table, "tiny-gpt2", "objective.loss=sigmoid"))


def temperature_of(model: Path) -> float:
    return json.loads((model / "config_sentence_transformers.json").read_text())["mmalign"]["temperature"]


def test_two_processes_give_the_run_of_one(lab: Lab, table: Path, tmp_path: Path) -> None:
    """Of shares in which one process has fewer hard negatives than the other."""
    sets = (
        "train.steps=3", "train.batch_size=6", "train.learning_rate=0.001", "data.num_workers=0", "train.save_every=0",
        "dataset.holdout=0", *LEARNT,
    )  # fmt: skip
    command = ["train", "--objective", "contrastive", "--backbone", str(lab.bench.model("tiny-gpt2"))]
    command += ["--dataset", str(table), "--device", "cpu", *(part for value in sets for part in ("--set", value))]
    assert run_on_two([*command, "--out", str(tmp_path / "two")]) == [0, 0]
    assert run([*command, "--out", str(tmp_path / "one")]) == 0
    one, two = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5, msg=name)


ROWS: dict[str, tuple[dict[str, Any], tuple[str, str, str]]] = {
    "all-nli": ({"anchor": "a", "positive": "b", "negative": "c"}, ("a", "b", "c")),
    "natural-questions": ({"query": "a", "answer": "b"}, ("a", "b", "")),
    "msmarco": ({"query": "a", "positive": "b", "negative": "c"}, ("a", "b", "c")),
    "mined negatives": ({"query": "a", "document": "b", "negative_1": "c", "negative_2": "d"}, ("a", "b", "c")),
    "no negative": ({"anchor": "a", "positive": "b", "negative": None}, ("a", "b", "")),
}


@pytest.mark.parametrize("case", ROWS)
def test_columns_as_sentence_transformers_has_them(case: str, catalog: Catalog, tmp_path: Path) -> None:
    row, sides = ROWS[case]
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    reader = catalog.load(catalog.find("datasets", "text-pairs"))
    data = reader.build(reader.Config(path=str(tmp_path / "rows.jsonl"), holdout=0), "train")
    assert data[0] == TextPair(data[0].key, *sides)
    assert ("hard negative" in str(data.report().get("notes"))) == (case == "mined negatives")


BAD = {
    "empty positive": ({"anchor": "a", "positive": " "}, "empty positive"),
    "no text": ({"anchor": "a", "positive": ["b"]}, "the positive is not a string"),
    "negative is positive": ({"anchor": "a", "positive": "b", "negative": "b"}, "the negative equals the positive"),
    "other columns": ({"sentence1": "a", "sentence2": "b"}, '{"anchor": "sentence1", "positive": "sentence2"}'),
}


@pytest.mark.parametrize("case", BAD)
def test_rows_that_make_no_pair_are_refused(case: str, tmp_path: Path, capsys: Any) -> None:
    row, word = BAD[case]
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    names = ["--backbone", "gpt-mini", "--dataset", "text-pairs", "--out", str(tmp_path / "run")]
    data = ["--set", f"dataset.path={tmp_path / 'rows.jsonl'}"]
    assert run(["train", "--objective", "contrastive", *names, *data]) in (2, 3)
    assert word in capsys.readouterr().err


def test_pictures_are_refused_for_a_language_model(tmp_path: Path, capsys: Any) -> None:
    names = ["--backbone", "gpt-mini", "--dataset", "emoji", "--out", str(tmp_path / "run")]
    assert run(["train", "--objective", "contrastive", *names]) == 2
    told = capsys.readouterr().err
    assert "emoji" in told and "image" in told
