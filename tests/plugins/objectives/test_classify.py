"""Classification: its formula, what transformers gives for a saved classifier, and runs as a user types them."""

import json
from typing import Any

import pytest
import torch
from mmalign_objectives.classify import Classification

from mmalign.cli import run
from mmalign.contract.batch import Batch, Ragged
from mmalign.contract.examples import TextLabel
from mmalign.contract.specs import Role
from mmalign.data.collate import Encoder, collate
from mmalign.errors import DataError
from mmalign.train.roles import Models, build_models
from mmalign.train.step import total_loss
from tests.support.lm_samples import FAMILIES, some_sequences

ROLE = Role(name="policy", needs=("hidden_states", "token_logps"), head="classes")
CLASSES = ("bad", "fair", "good")


@pytest.fixture
def classifier(load_lm, lm_folders) -> Any:
    """family -> models."""

    def build(family: str) -> Models:
        torch.manual_seed(0)
        return build_models((ROLE,), load_lm(lm_folders[family]), classes=CLASSES)

    return build


def labelled(texts: list[torch.Tensor]) -> Batch:
    return Batch({"text": Ragged.from_list(texts), "label": torch.arange(len(texts)) % 3})


def some_texts() -> Batch:
    return labelled([row for row in some_sequences().answers.rows() if len(row) > 1])


def test_the_loss_is_the_papers(classifier) -> None:
    models, batch = classifier("tiny_gpt2"), some_texts()
    for module in models.modules():
        module.double()
    objective = Classification(Classification.Config(language_weight=0.3))
    sums, metrics = objective.loss(objective.forward(models, batch), batch)
    found, _ = total_loss(sums, objective.count(batch), objective.weights)
    classed, nll, tokens, right = 0.0, 0.0, 0, 0
    for row, label in zip(batch["text"].rows(), batch["label"].tolist(), strict=True):
        with torch.no_grad():
            output = models["policy"].module(input_ids=row[None], labels=row[None], output_hidden_states=True)
            logits = models.head("policy")(output.hidden_states[-1][0, -1])
        classed -= float(logits.log_softmax(0)[label])
        right += int(logits.argmax()) == label
        nll += float(output.loss) * (len(row) - 1)
        tokens += len(row) - 1
    assert float(found.detach()) == pytest.approx(classed / len(batch) + 0.3 * nll / tokens, abs=1e-6)
    assert int(metrics["accuracy"][0]) == right


def test_without_the_language_term_its_head_is_not_run(classifier) -> None:
    models, batch = classifier("tiny_llama"), some_texts()
    objective = Classification(Classification.Config(language_weight=0))
    assert set(objective.forward(models, batch)) == {"logits"} and set(objective.count(batch)) == {"class"}


def test_the_head_keeps_its_precision_under_autocast(classifier) -> None:
    models, batch = classifier("tiny_llama"), some_texts()
    objective = Classification(Classification.Config())
    with torch.no_grad():
        exact = objective.forward(models, batch)["logits"]
        with torch.autocast("cpu", torch.bfloat16):
            found = objective.forward(models, batch)["logits"]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", ["right", "left"])
def test_transformers_gives_the_saved_logits_with_either_padding(classifier, tmp_path, family, side) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    models = classifier(family)
    objective = Classification(Classification.Config())
    texts = ["a red car", "the photo of a small black cat", "tree"]
    encoder = Encoder(models["policy"].processor, TextLabel, seed=0)
    batch = collate([encoder.encode(TextLabel(text, text, 0), 0, 0, train=False) for text in texts])
    with torch.no_grad():
        expected = objective.forward(models, batch)["logits"]
    objective.save(models, tmp_path / "saved", [])
    saved = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "saved", padding_side=side)
    assert saved.config.id2label == dict(enumerate(CLASSES)) and saved.config.label2id["good"] == 2
    tokens = tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False)
    lengths = tokens["attention_mask"].sum(1).tolist()
    assert lengths == batch["text"].lengths.tolist(), "the tokenizer ends texts as training does"
    # Learned positions count from the first real token, as in generation.
    positions = {"position_ids": (tokens["attention_mask"].cumsum(1) - 1).clamp(min=0)} if family == "tiny_gpt2" else {}
    with torch.no_grad():
        found = saved(**tokens, **positions).logits
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_the_pipeline_of_transformers_names_the_classes(classifier, tmp_path) -> None:
    from transformers import pipeline

    models = classifier("tiny_llama")
    Classification(Classification.Config()).save(models, tmp_path / "saved", ())
    text = "the photo of a dog"
    ids = models["policy"].processor.text(text).ids
    with torch.no_grad():
        batch = labelled([ids])
        p = Classification(Classification.Config()).forward(models, batch)["logits"][0].softmax(0)
    found = pipeline("text-classification", model=str(tmp_path / "saved"), device="cpu")(text)[0]
    assert found["label"] == CLASSES[int(p.argmax())] and found["score"] == pytest.approx(float(p.max()), abs=1e-5)


def test_one_class_is_refused(load_lm, lm_folders) -> None:
    models = build_models((ROLE,), load_lm(lm_folders["tiny_llama"]), classes=("good",))
    with pytest.raises(DataError, match="classify needs two classes or more"):
        Classification(Classification.Config()).phases(models)


# As a user types it ---------------------------------------------------------------------------------------------------


@pytest.fixture
def train(lm_folders, tmp_path, capsys):
    def call(*arguments: str) -> tuple[int, Any, str]:
        sets = [
            "train.steps=40",
            "dataset.holdout=0.2",
            "train.batch_size=8",
            "train.learning_rate=0.003",
            "data.num_workers=0",
        ]
        options = [part for value in sets for part in ("--set", value)]
        named = ["--objective", "classify", "--backbone", str(lm_folders["tiny_llama"]), "--out", str(tmp_path / "run")]
        code = run(["train", *named, *options, *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_a_run_learns_classes_and_saves_their_names(train, tmp_path) -> None:
    data = tmp_path / "labels.jsonl"
    rows = [
        {"text": f"a {'red' if i % 2 else 'blue'} car {i}", "label": "warm" if i % 2 else "cold"} for i in range(80)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, err = train("--dataset", str(data), "--json")
    assert code == 0, err
    outcome = json.loads(out)
    assert outcome["after"]["heldout/accuracy"] > 0.9 > outcome["before"]["heldout/accuracy"]
    assert outcome["after"]["heldout/class_loss"] < outcome["before"]["heldout/class_loss"]
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert config["id2label"] == {"0": "cold", "1": "warm"} and config["architectures"] == [
        "LlamaForSequenceClassification"
    ]


def test_a_table_with_one_class_says_so(train, tmp_path) -> None:
    data = tmp_path / "labels.jsonl"
    data.write_text("".join(json.dumps({"text": f"a car {i}", "label": "warm"}) + "\n" for i in range(40)))
    code, _, err = train("--dataset", str(data))
    assert code == 3 and "the data set has 1: warm" in err and "Traceback" not in err
