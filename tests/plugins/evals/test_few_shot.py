"""Few-shot classification against prompts that are written out by hand."""

import json
from typing import Any

import pytest
import torch
from mmalign_evals.few_shot import Asker, FewShot

from mmalign.cli import run
from mmalign.contract.evaluation import Runtime
from mmalign.contract.examples import TextLabel
from mmalign.errors import DataError
from mmalign.testing.models import tiny_gpt2

CLASSES = ("dog", "black cat")
TEXTS = ["a red car", "the cat", "a dog and a fish", "tree", "two birds", "the blue house"]


class Labelled(list):
    """A data set of text-label examples."""

    classes = CLASSES


def examples(part: str) -> Labelled:
    return Labelled(TextLabel(f"{part}:{i}", text, i % 2) for i, text in enumerate(TEXTS))


@pytest.fixture
def backbone(load_lm, lm_folders) -> Any:
    return load_lm(lm_folders["tiny_gpt2"], packing="auto")


def naive_logp(backbone: Any, prompt: str, answer: str) -> float:
    tokenizer = backbone.processor.tokenizer
    head, tail = tokenizer(prompt)["input_ids"], tokenizer(answer)["input_ids"]
    with torch.no_grad():
        rows = backbone.module(torch.tensor([head + tail])).logits[0].log_softmax(-1)
    return sum(float(rows[len(head) + t - 1, i]) for t, i in enumerate(tail))


@pytest.mark.parametrize("calibrate", [False, True])
@pytest.mark.parametrize("shots", [0, 1])
def test_the_most_probable_class_name_wins(backbone, shots, calibrate) -> None:
    data, train = examples("test"), examples("train")
    config = FewShot.Config(shots=shots, template="{text}: {label}", calibrate=calibrate)
    runtime = Runtime(batch_size=4, split={"train": train}.__getitem__)
    found = FewShot(config).run(backbone, data, runtime)
    asker, right = Asker(backbone.processor, CLASSES, config, train), 0
    for question in data:
        drawn = "".join(f"{shot.text}: {CLASSES[shot.label]}\n\n" for shot in asker._drawn(question))
        assert drawn.count("\n\n") == shots
        scores = [naive_logp(backbone, f"{drawn}{question.text}:", f" {name}") for name in CLASSES]
        if calibrate:
            scores = [s - naive_logp(backbone, f"{drawn}N/A:", f" {n}") for s, n in zip(scores, CLASSES, strict=True)]
        right += scores[question.label] > scores[1 - question.label]
    assert found["accuracy"] == pytest.approx(right / 6) and found["majority"] == 0.5 and found["examples"] == 6
    assert found["accuracy_low"] < found["accuracy"] < found["accuracy_high"] or right in (0, 6)
    assert (found["mean_shots"], found["fewer_shots"], found["truncated"]) == (shots, 0, 0)


def test_prompts_are_as_written(backbone) -> None:
    train = examples("train")
    config = FewShot.Config(shots=2)
    backbone.processor.__dict__["context_length"] = 500  # the prompt alone: no model reads it
    asker = Asker(backbone.processor, CLASSES, config, train)
    (first, second), question = asker._drawn(train[0]), train[0]
    assert question.key not in (first.key, second.key), "a question is never its own example"
    text = backbone.processor.decode(asker.prompt(question)).strip()
    blocks = [f"review: {shot.text}\nsentiment: {CLASSES[shot.label]}" for shot in (first, second)]
    # The tiny tokenizer writes a blank before each line of text, and lower case.
    assert text.split() == "\n\n".join([*blocks, f"review: {question.text}\nsentiment:"]).split()
    assert [backbone.processor.decode(ids) for ids in asker.labels] == [" dog", " black cat"]
    assert torch.equal(asker.prompt(question), Asker(backbone.processor, CLASSES, config, train).prompt(question))
    other = Asker(backbone.processor, CLASSES, FewShot.Config(shots=2, seed=1), train)
    assert any(not torch.equal(asker.prompt(q), other.prompt(q)) for q in train)


def test_what_does_not_fit_is_left_out_first_and_counted(backbone) -> None:
    train = examples("train")
    config = FewShot.Config(shots=5, template="{text}: {label}")
    asker = Asker(backbone.processor, CLASSES, config, train)
    ids = asker.prompt(TextLabel("q", "the cat", 1))
    room = backbone.processor.context_length - max(map(len, asker.labels))
    counts = asker.counts()
    assert len(ids) <= room and counts["fewer_shots"] == 1 and 0 < counts["mean_shots"] < 5 and not counts["truncated"]
    assert backbone.processor.decode(ids).strip().endswith("the cat:")
    long = asker.prompt(TextLabel("long", "tree " * 60 + "dog", 0))
    assert len(long) == room and asker.counts()["truncated"] == 1
    assert backbone.processor.decode(long).strip().endswith("dog:")


def test_a_tie_is_not_right(load_lm, tmp_path) -> None:
    backbone = load_lm(tiny_gpt2(tmp_path / "even"))
    with torch.no_grad():
        backbone.module.get_output_embeddings().weight.zero_()
    one_token = Labelled(examples("test"))
    one_token.classes = ("dog", "cat")  # ties: every token is as probable
    config = FewShot.Config(shots=0, template="{text}: {label}")
    lengths = {len(ids) for ids in Asker(backbone.processor, one_token.classes, config, ()).labels}
    assert len(lengths) == 1
    assert FewShot(config).run(backbone, one_token, Runtime())["accuracy"] == 0


def test_too_few_examples_to_draw_from(backbone) -> None:
    runtime = Runtime(split={"train": examples("train")}.__getitem__)
    with pytest.raises(DataError, match="6 examples before each question"):
        FewShot(FewShot.Config(shots=6)).run(backbone, examples("test"), runtime)


def test_the_command_on_the_embedded_reviews(capsys, lm_folders) -> None:
    named = ["evaluate", "few-shot", "--backbone", str(lm_folders["tiny_gpt2"]), "--json"]
    options = ["--set", "evaluation.max_examples=6", "--set", "evaluation.shots=1"]
    assert run([*named, *options]) == 0
    captured = capsys.readouterr()
    (result,) = json.loads(captured.out)["results"]
    assert result["kind"] == "text-label" and result["metrics"]["examples"] == 6
    assert result["metrics"]["truncated"] == 6 and "6 examples are longer than the context" in captured.err
    for template in ("Review: {text}", "{label} for {text}"):
        assert run([*named, "--set", f"evaluation.template={template}"]) == 2
        error = capsys.readouterr().err
        assert "evaluation.template" in error and "once at its end" in error and "Traceback" not in error
