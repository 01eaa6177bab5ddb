"""Input that cannot be used, typed as a user does: each kind has a message that names it and says what to do."""

import importlib.util
import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmalign.cli import run
from mmalign.contract.examples import Message
from mmalign.testing.models import tiny_reward_model
from mmalign.train import preview

GOOD = {"prompt": "a red car ", "completion": "and a green tree"}
CHAT = {"prompt": [{"role": "user", "content": "the cat"}], "completion": [{"role": "assistant", "content": "a dog"}]}


def lines(*rows: Any) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.fixture
def train(lm_folders, tmp_path, capsys):
    def call(content: bytes, *sets: str, objective: str = "sft", backbone: Path | None = None) -> tuple[int, str]:
        (tmp_path / "data.jsonl").write_bytes(content)
        model = backbone or lm_folders["tiny_llama"]
        options = ("train.steps=2", "train.batch_size=4", "data.num_workers=0", "evaluation.samples=0", *sets)
        named = ["--objective", objective, "--backbone", str(model), "--dataset", str(tmp_path / "data.jsonl")]
        sets_ = [part for option in options for part in ("--set", option)]
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        code = run(["train", *named, *sets_, "--out", str(tmp_path / "run")])
        err = capsys.readouterr().err
        assert "Traceback" not in err
        return code, err

    return call


LONG = {"prompt": "the cat ", "completion": "dog " * 60}
FULL = {"prompt": "cat " * 60, "completion": "a dog"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["data.jsonl: no completion examples in it", "The file is empty"]),
        (b"\n\n", ["no completion examples in it"]),
        (lines(*[{"question": "Q", "answer": "A"}] * 20), ["it has question, answer", "dataset.columns"]),
        (lines(*[{"prompt": "Q", "chosen": "A", "rejected": "B"}] * 20), ["that looks like preference data"]),
        (
            lines(*[GOOD] * 20, {**GOOD, "completion": ""}),
            ["1 of 21 rows", "data.jsonl:21: an empty answer", "max_bad"],
        ),
        (lines(*[LONG] * 20), ["20 of 20 examples are longer than the context of 32 tokens", "data.max_lost=0.01"]),
        (lines(*[FULL] * 20), ["20 of 20 examples are longer than the context of 32 tokens", "data.max_lost=1"]),
        (
            lines({"messages": [{"role": "robot", "content": "Q"}]}),
            ["data.jsonl:1: unknown role 'robot'; known roles: system, developer, user, assistant, tool"],
        ),
        (lines(*[GOOD] * 3) + b'{"prompt": "caf\xe9"}\n', ["data.jsonl:4: not UTF-8 (byte 0xe9)", "iconv"]),
        (lines(*[GOOD] * 6) + b"{broken\n", ["data.jsonl:7: broken JSON", "not one JSON object a line"]),
    ],
    ids=["empty", "blank", "columns", "kind", "answer", "long answer", "full", "role", "utf-8", "json"],
)
def test_unusable_data_say_what_and_where(train, content: bytes, words: list[str]) -> None:
    code, err = train(content)
    assert code == 3 and all(word in err for word in words), err


def test_equal_answers_are_counted(train) -> None:
    pair = {"prompt": "the cat", "chosen": " on the tree", "rejected": " with a fish"}
    rows = lines(*[pair] * 19, {**pair, "rejected": pair["chosen"]})
    code, err = train(rows, objective="dpo")
    assert code == 3 and "1 of 20 rows cannot be used" in err and "data.jsonl:20: chosen equals rejected" in err
    code, err = train(rows, "dataset.max_bad=0.1", "dataset.holdout=0", objective="dpo")
    assert code == 0 and "1 left out of" in err and "chosen equals rejected" in err, err


def test_rankings_that_all_tie_say_why_nothing_is_learnt(train) -> None:
    row = {"prompt": "the cat", "completions": [" on the tree", " with a fish"], "ranks": [1, 1]}
    code, err = train(lines(*[row] * 20), "dataset.holdout=0", "train.steps=2", objective="reward")
    assert code == 0 and "step 1 has nothing to learn from: all answers to a prompt are ranked the same" in err, err
    assert "2 skipped updates" in err, err


@pytest.mark.parametrize("row", [LONG, FULL], ids=["long answer", "full"])
def test_what_is_cut_where_that_is_allowed_still_teaches(train, row: dict[str, str]) -> None:
    code, err = train(lines(*[row] * 20), "data.max_lost=1", "dataset.holdout=0")
    assert code == 0 and "tokens cut from 20 examples" in err and " 0 of them to be learnt" not in err, err


def test_a_template_that_does_not_render_is_named_with_its_error(train, tmp_path) -> None:
    (tmp_path / "t.jinja").write_text("{{ raise_exception('roles must take turns') }}")
    code, err = train(lines(*[CHAT] * 20), f"backbone.template={tmp_path / 't.jinja'}")
    assert code == 3 and "the chat template does not render" in err and "roles must take turns" in err, err
    (tmp_path / "t.jinja").write_text("{% for m in messages %}{{ m['role'] }")
    code, err = train(lines(*[CHAT] * 20), f"backbone.template={tmp_path / 't.jinja'}")
    assert code == 3 and "the chat template does not render: TemplateSyntaxError" in err, err


def test_a_tokenizer_of_another_model_is_refused(train, lm_folders, tmp_path) -> None:
    folder = Path(shutil.copytree(lm_folders["tiny_llama"], tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 300}))
    code, err = train(lines(*[GOOD] * 20), backbone=folder)
    assert code == 1 and "the tokenizer has 323 tokens and the model knows 300" in err, err


def test_a_loss_that_becomes_nan_stops_the_run_and_names_the_batch(train, tmp_path) -> None:
    rates = ("train.steps=9", "train.learning_rate=1e30", "train.warmup_steps=0", "train.save_every=1")
    code, err = train(lines(*[GOOD] * 20), *rates, "train.schedule=constant", "dataset.holdout=0")
    assert code == 4 and "not finite: loss" in err and "; the batch holds data.jsonl:" in err, err
    assert "The weights were not updated." in err and "This state is not saved" in err
    assert list((tmp_path / "run" / "checkpoints").iterdir()) and not (tmp_path / "run" / "model").exists()


def test_damaged_weights_are_refused_when_they_are_loaded(train, lm_folders, tmp_path) -> None:
    folder = Path(shutil.copytree(lm_folders["tiny_llama"], tmp_path / "model"))
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.mlp.down_proj.weight"][3, 1] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    code, err = train(lines(*[GOOD] * 20), backbone=folder)
    assert code == 1 and "the model gives NaN or infinity" in err and "weights are damaged" in err, err


def test_the_survey_is_bounded_by_answers_and_says_how_far_it_looked(train, monkeypatch) -> None:
    ranked = {"prompt": "the cat", "completions": [" a tree", " a fish", " a car", " a dog"], "ranks": [1, 2, 3, 4]}
    monkeypatch.setattr(preview, "SURVEYED", 60)
    code, err = train(lines(*[ranked] * 50), "dataset.holdout=0", objective="reward")
    assert code == 0 and "16 of 50 examples looked at: " in err, err  # 64 answers, in whole batches of 8
    code, err = train(lines(*[GOOD] * 70), "dataset.holdout=0")
    assert code == 0 and "60 of 70 examples looked at: " in err, err


def test_generate_refuses_a_prompt_that_fills_the_context(lm_folders, capsys) -> None:
    backbone = ["--backbone", str(lm_folders["tiny_llama"]), "--max-tokens", "8"]
    assert run(["generate", *backbone, "cat " * 60]) == 3
    assert "and 8 to generate do not fit the context of 32" in capsys.readouterr().err


def test_messages_of_a_processor_name_the_unknown_role(load_lm, lm_folders) -> None:
    from mmalign.errors import BadSample

    processor = load_lm(lm_folders["tiny_llama"]).processor
    with pytest.raises(BadSample, match="unknown role 'robot'; known: system, developer, user, assistant, tool"):
        processor.prompt((Message("robot", "x"),))


def test_a_reward_model_or_a_gguf_file_that_cannot_be_used_as_a_policy(train, tmp_path, monkeypatch) -> None:
    code, err = train(lines(*[GOOD] * 20), backbone=tiny_reward_model(tmp_path / "rm"))
    assert code == 2 and "It is a reward model: mmalign score ranks texts with it" in err, err
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "gguf" else find(name, *rest))
    architecture = b"general.architecture"
    entry = struct.pack("<Q", len(architecture)) + architecture + struct.pack("<IQ", 8, 5) + b"llama"
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + entry)
    code, err = train(lines(*[GOOD] * 20), backbone=tmp_path / "model.gguf")
    assert code == 1 and "the package gguf that reads it is not installed" in err and "pip install gguf" in err, err
