"""`mmalign evaluate`: what it chooses, prints and refuses; perplexity against whole logits."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from mmalign_evals.choose import select

from mmalign.cli import run
from mmalign.contract.evaluation import Runtime
from mmalign.models.references import find_source

LIMIT = ("--set", "evaluation.max_examples=6")


def call(capsys: Any, *arguments: str) -> tuple[int, str, str]:
    code = run(["evaluate", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# Perplexity -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["tiny_llama", "tiny_gpt2"])
def test_perplexity_of_documents_and_of_answers(capsys, lm_folders, load_lm, tmp_path, family) -> None:
    backbone = load_lm(lm_folders[family])
    tokenizer, end = backbone.processor.tokenizer, backbone.processor.end_id
    texts, prompts, answers = ["a red car", "the cat and a dog"], ["a photo of", "the"], [" a cat", " small red fish"]
    named = ("--backbone", str(lm_folders[family]))

    def nats(ids: list[int], start: int) -> tuple[float, int]:
        with torch.no_grad():
            logps = backbone.module(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        return -sum(float(logps[t - 1, ids[t]]) for t in range(start, len(ids))), len(ids) - start

    documents = [(tokenizer(text)["input_ids"] + [end], 1) for text in texts]
    pairs = [
        (tokenizer(p)["input_ids"] + tokenizer(a)["input_ids"] + [end], len(tokenizer(p)["input_ids"]))
        for p, a in zip(prompts, answers, strict=True)
    ]
    files = (
        (write_lines(tmp_path / "d.jsonl", [{"text": text} for text in texts]), documents),
        (
            write_lines(
                tmp_path / "c.jsonl", [{"prompt": p, "completion": a} for p, a in zip(prompts, answers, strict=True)]
            ),
            pairs,
        ),
    )
    for path, rows in files:
        code, out, err = call(capsys, "perplexity", *named, "--dataset", str(path), "--json")
        assert code == 0, err
        metrics = json.loads(out)["results"][0]["metrics"]
        total, tokens = (sum(column) for column in zip(*(nats(*row) for row in rows), strict=True))
        size = sum(len(tokenizer.decode(ids[start:-1]).encode()) for ids, start in rows)
        assert metrics["tokens"] == tokens and metrics["examples"] == 2 and metrics["bytes"] == size
        assert metrics["perplexity"] == pytest.approx(math.exp(total / tokens), rel=1e-4)
        assert metrics["bits_per_byte"] == pytest.approx(total / math.log(2) / size, rel=1e-4)


def test_what_was_cut_or_left_out_is_counted_and_said(capsys, lm_folders, tmp_path) -> None:
    path = write_lines(tmp_path / "long.jsonl", [{"text": "cat " * 99}, {"text": "a dog"}, {"text": "a fish"}])
    code, out, err = call(capsys, "--backbone", str(lm_folders["tiny_gpt2"]), "--dataset", str(path))
    rows = {row.split()[1]: row.split()[2] for row in out.splitlines()[1:]}
    assert code == 0 and rows["truncated"] == "1" and rows["examples"] == "3"
    assert "1 examples are longer than the context" in err
    assert "left out: zero-shot: causal-lm: missing" in err and "3 text examples of text-files, all" in err


# The command ----------------------------------------------------------------------------------------------------------


def test_a_clip_gets_its_own_evaluations_with_intervals_and_a_report(capsys, tmp_path) -> None:
    report = tmp_path / "report.html"
    named = ("--backbone", "clip-lite", *LIMIT, "--html", str(report))
    code, out, err = call(capsys, *named, "--json")
    document = json.loads(out)
    assert code == 0, err
    assert [result["evaluation"] for result in document["results"]] == ["retrieval", "zero-shot"]
    assert "missing" in document["left_out"]["perplexity"]
    page = report.read_text()
    assert "zero-shot: top1" in page and "http" not in page.replace("http-equiv", "")
    code, out, err = call(capsys, "zero-shot", *named)
    assert code == 2 and "exists already" in err
    code, out, _ = call(capsys, "zero-shot", *named, "--force")
    line = next(line for line in out.splitlines() if " top1 " in line)
    assert code == 0 and line.split()[0] == "zero-shot" and " to " in line


def test_splits_and_kinds(capsys, lm_folders) -> None:
    named = ("perplexity", "--backbone", str(lm_folders["tiny_gpt2"]), *LIMIT, "--json")
    found = {}
    for split in ("", "validation", "test", "train"):
        code, out, err = call(capsys, *named, *(("--split", split) if split else ()))
        assert code == 0, err
        found[split] = json.loads(out)["results"][0]
    assert found[""] == found["validation"] and found[""]["split"] == "validation"
    assert len({found[split]["metrics"]["perplexity"] for split in ("validation", "test", "train")}) == 3
    code, out, _ = call(capsys, *named, "--dataset", "movie-reviews", "--set", "dataset.kind=completion")
    assert code == 0 and json.loads(out)["results"][0]["kind"] == "completion"


def test_a_named_part_of_a_file_is_what_training_holds_out(catalog, lm_folders, tmp_path) -> None:
    path = write_lines(tmp_path / "d.jsonl", [{"text": f"the cat {i}"} for i in range(100)])
    source = find_source(str(lm_folders["tiny_gpt2"]), catalog)
    sizes = {}
    for split in ("", "validation", "train"):
        (task,), _ = select(catalog, source, ("perplexity",), str(path), split, {})
        sizes[split] = len(task.open(catalog).dataset)
    assert sizes[""] == 100 == sizes["validation"] + sizes["train"] and 0 < sizes["validation"] < 20


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["perplexty"], 2, ["Did you mean perplexity"]),
        (["zero-shot"], 2, ["zero-shot needs encode_image", "missing", "clip-lite"]),
        (["perplexity", "--dataset", "emoji"], 2, ["runs on text or completion examples; emoji yields image-text"]),
        (["--dataset", "photos"], 2, ["no evaluation runs on", "photos yields image-label"]),
        (["--dataset", "movie-revews"], 2, ["Did you mean movie-reviews"]),
        (["perplexity", "--dataset", "nowhere.jsonl"], 3, ["nowhere.jsonl"]),
        (["--split", "tset"], 2, ["movie-reviews has no part tset", "test"]),
        (["--set", "evaluation.max_example=3"], 2, ["Did you mean max_examples", "mmalign show"]),
        (["--set", "dataset.gapp=3"], 2, ["Did you mean gap"]),
        (["--set", "backbone.row_lenth=3"], 2, ["Did you mean row_length"]),
        (["--set", "train.steps=3"], 2, ["evaluate takes no section train", "evaluation.key=value"]),
        (["--device", "abacus"], 2, ["unknown device"]),
        (["--html", "report.pdf"], 2, ["unknown kind of file"]),
    ],
)
def test_mistakes_are_named(capsys, lm_folders, arguments, code, words) -> None:
    got, _, err = call(capsys, "--backbone", str(lm_folders["tiny_llama"]), *arguments)
    assert got == code and all(word in err for word in words) and "Traceback" not in err, err


def test_broken_weights_are_not_a_result(capsys, load_lm, lm_folders, tmp_path) -> None:
    backbone = load_lm(lm_folders["tiny_gpt2"])
    with torch.no_grad():
        backbone.module.base_model.wte.weight.fill_(float("inf"))
    backbone.save(tmp_path / "broken")
    code, _, err = call(capsys, "perplexity", "--backbone", str(tmp_path / "broken"), *LIMIT)
    assert code != 0 and "Traceback" not in err, err


def test_an_evaluation_outside_the_command_has_no_other_parts_or_models() -> None:
    from mmalign.errors import UsageError

    with pytest.raises(UsageError, match="is not available here"):
        Runtime().load_model("clip-lite")


def test_training_measures_what_it_is_told_to(capsys, lm_folders, tmp_path) -> None:
    sets = ["train.steps=1", "train.batch_size=4", "data.num_workers=0", "evaluation.max_examples=8"]
    sets += ['evaluation.names=["perplexity"]', "dataset.kind=text"]
    options = [part for value in sets for part in ("--set", value)]
    named = ["--backbone", str(lm_folders["tiny_gpt2"]), "--dataset", "movie-reviews", "--out", str(tmp_path / "run")]
    assert run(["train", "--objective", "pretrain", *named, *options, "--json", "--set", "data.max_lost=1"]) == 0
    outcome = json.loads(capsys.readouterr().out)
    # The run's own held-out loss is the same mean over the same first texts, or others evenly spread.
    assert outcome["before"]["perplexity/examples"] == 8
    assert abs(math.log(outcome["before"]["perplexity/perplexity"]) - outcome["before"]["heldout/loss"]) < 0.3
