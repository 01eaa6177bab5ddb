"""Reward models as a family: their scores are transformers', `mmalign score`, and who is refused where."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from mmalign_lm.families import is_causal_lm, is_reward_model

from mmalign.cli import run
from mmalign.errors import CheckpointError
from mmalign.language.sequences import Sequences
from mmalign.models.references import find_source
from mmalign.testing.models import tiny_reward_model
from mmalign.train.roles import linear_head
from tests.support.lm_samples import some_sequences

MEAN = 0.75


@pytest.fixture(scope="module")
def trained(load_lm, lm_folders, tmp_path_factory) -> dict[str, Path]:
    """Reward models as the objective saves them, of three families, and of one without a classifier."""
    from transformers import CohereConfig, CohereForCausalLM

    root, found = tmp_path_factory.mktemp("reward-models"), {}
    beside = root / "cohere-lm"
    backbone = load_lm(lm_folders["tiny_llama"])
    backbone.processor.save(_folder(beside))
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"vocab_size": backbone.processor.num_tokens, "bos_token_id": 1, "eos_token_id": backbone.processor.end_id}
    torch.manual_seed(0)
    config = CohereConfig(**sizes, **ids, num_key_value_heads=1, pad_token_id=0, max_position_embeddings=32)
    CohereForCausalLM(config).save_pretrained(beside)
    for name, folder in {**lm_folders, "beside": beside}.items():
        torch.manual_seed(1)
        backbone = load_lm(folder)
        saved = backbone.save_scorer(root / name, linear_head(backbone.hidden_width, 1), MEAN)
        assert saved == (name != "beside")
        found[name] = root / name
    return found


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def rows_of(sequences: Sequences) -> list[torch.Tensor]:
    prompts = sequences.prompts.rows()
    return [torch.cat([prompts[n], a]) for n, a in zip(sequences.owner.tolist(), sequences.answers.rows(), strict=True)]


@pytest.mark.parametrize("name", ["tiny_llama", "tiny_gpt2", "tiny_bloom"])
def test_scores_are_transformers_less_the_mean(catalog, load_lm, trained, name) -> None:
    from transformers import AutoModelForSequenceClassification

    source = find_source(str(trained[name]), catalog)
    assert source.family.name == "reward-model"
    backbone, sequences = load_lm(trained[name]), some_sequences()
    classifier = AutoModelForSequenceClassification.from_pretrained(trained[name]).eval()
    with torch.no_grad():
        found = backbone.score_sequences(sequences)
        expected = torch.stack([classifier(input_ids=row[None]).logits[0, 0] for row in rows_of(sequences)]) - MEAN
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert backbone.describe()["reward_mean"] == MEAN


def test_a_head_beside_its_language_model(catalog, load_lm, trained, tmp_path) -> None:
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    folder = trained["beside"]
    assert find_source(str(folder), catalog).family.name == "reward-model"
    backbone, sequences = load_lm(folder), some_sequences()
    trunk, weight = AutoModelForCausalLM.from_pretrained(folder).base_model, load_file(folder / "head.safetensors")
    with torch.no_grad():
        states = [trunk(input_ids=row[None]).last_hidden_state[0, -1] for row in rows_of(sequences)]
        expected = torch.stack(states) @ weight["weight"][0] - MEAN
        torch.testing.assert_close(backbone.score_sequences(sequences), expected, rtol=0, atol=1e-5)
        backbone.save(tmp_path / "again")
        twin = load_lm(tmp_path / "again")
        assert torch.equal(twin.score_sequences(sequences), backbone.score_sequences(sequences))
    (tmp_path / "again" / "head.safetensors").write_bytes(b"broken")
    with pytest.raises(CheckpointError, match="the head cannot be read"):
        load_lm(tmp_path / "again")


def test_others_reward_models_whose_padding_is_the_end_token(load_lm, tmp_path) -> None:
    """A classifier then reads the token before the end, and so do we."""
    from transformers import AutoModelForSequenceClassification

    folder = tiny_reward_model(tmp_path / "rm")
    backbone, end = load_lm(folder), load_lm(folder).processor.end_id
    answers = [torch.tensor([5, 6, end]), torch.tensor([7, end, end]), torch.tensor([8, 9]), torch.tensor([end])]
    sequences = Sequences.from_lists([torch.tensor([3, 4])], [answers])
    classifier = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = torch.stack([classifier(input_ids=row[None]).logits[0, 0] for row in rows_of(sequences)]) - 0.25
        torch.testing.assert_close(backbone.score_sequences(sequences), expected, rtol=0, atol=1e-5)


def test_families_by_config_alone() -> None:
    classifier = {"architectures": ["LlamaForSequenceClassification"], "id2label": {"0": "LABEL_0"}}
    policy = {"architectures": ["LlamaForCausalLM"]}
    beside = {**policy, "mmalign_reward_mean": 0.0}
    assert [is_reward_model(config) for config in (classifier, policy, beside)] == [True, False, True]
    assert [is_causal_lm(config) for config in (classifier, policy, beside)] == [False, True, False]
    assert not is_reward_model({**classifier, "id2label": {"0": "bad", "1": "good"}})
    assert not is_reward_model({"architectures": ["LlamaForSequenceClassification"]})


# The command ----------------------------------------------------------------------------------------------------------


def call(capsys: Any, *arguments: str) -> tuple[int, str, str]:
    code = run(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


TEXTS = ["a red car", "the cat", "a dog and a fish", "tree"]


@pytest.mark.parametrize("name", ["tiny_gpt2", "beside"])
def test_the_best_text_comes_first(capsys, load_lm, trained, tmp_path, monkeypatch, name) -> None:
    named = ("score", "--backbone", str(trained[name]), "--prompt", "a photo of")
    backbone = load_lm(trained[name])
    expected = {}
    for text in TEXTS:
        tokens = backbone.processor.answers("a photo of", [text])
        with torch.no_grad():
            expected[text] = float(backbone.score_sequences(Sequences.from_lists([tokens.prompt], [tokens.answers]))[0])
    code, out, err = call(capsys, *named, *TEXTS, "--json", "--out", str(tmp_path / "scores.csv"))
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0, err
    assert [row["text"] for row in rows] == sorted(TEXTS, key=lambda text: -expected[text])
    assert [row["rank"] for row in rows] == [1, 2, 3, 4] and {row["schema"] for row in rows} == {1}
    assert all(row["score"] == pytest.approx(expected[row["text"]], abs=1e-5) for row in rows)
    with (tmp_path / "scores.csv").open(newline="") as file:
        assert [row["text"] for row in csv.DictReader(file)] == [row["text"] for row in rows]
    code, plain, _ = call(capsys, *named, *TEXTS)
    assert code == 0 and [line.split(maxsplit=1)[1] for line in plain.splitlines()] == [row["text"] for row in rows]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(TEXTS)))
    assert call(capsys, *named, "-")[1] == plain
    assert call(capsys, *named, "x", "--out", str(tmp_path / "scores.csv"))[0] == 2
    code, _, err = call(capsys, *named, *TEXTS, "--csv", str(tmp_path / "old.csv"))
    assert code == 0 and "--csv is called --out now" in err
    assert (tmp_path / "old.csv").read_bytes() == (tmp_path / "scores.csv").read_bytes()
    assert call(capsys, *named, *TEXTS, "--out", str(tmp_path / "scores.jsonl"))[0] == 0
    assert (tmp_path / "scores.jsonl").read_text() == out


def test_a_data_set_and_what_cannot_be_scored(capsys, trained, tmp_path) -> None:
    named = ("score", "--backbone", str(trained["tiny_llama"]))
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"prompt": "the cat", "chosen": " is red " * 30, "rejected": " is blue"}) + "\n")
    code, out, err = call(capsys, *named, "--dataset", str(path), "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and len(rows) == 2 and {row["prompt"] for row in rows} == {"the cat"}, err
    assert "2 answers of 1 preference examples" in err and "1 of 2 texts with their prompts are over 32 tokens" in err
    messages = tmp_path / "messages.jsonl"
    turns = [{"role": "user", "content": "cat"}, {"role": "assistant", "content": "dog"}]
    messages.write_text("".join(json.dumps({"messages": m}) + "\n" for m in (turns,) * 9))
    code, out, err = call(capsys, *named, "--dataset", str(messages))
    assert code == 0 and out.splitlines()[0].endswith("assistant: dog"), err


def test_a_policy_and_a_reward_model_are_told_apart(capsys, lm_folders, trained) -> None:
    reward, policy = str(trained["tiny_llama"]), str(lm_folders["tiny_llama"])
    for arguments in (
        ("train", "--objective", "sft", "--backbone", reward, "--dry-run"),
        ("generate", "--backbone", reward, "a cat"),
        ("evaluate", "perplexity", "--backbone", reward),
    ):
        code, _, err = call(capsys, *arguments)
        assert code == 2 and "It is a reward model: mmalign score" in err and "Traceback" not in err, err
    code, _, err = call(capsys, "score", "--backbone", policy, "a cat")
    assert code == 2 and "score needs score_sequences" in err and "mmalign train --objective reward" in err, err
    code, out, _ = call(capsys, "matrix", "sft")
    assert code == 0 and "reward-model" in out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, ["no text to score"]),
        (["@nowhere.txt"], 2, ["texts @nowhere.txt"]),
        (["a", "--dataset", "movie-reviews"], 2, ["Give TEXTS, or --dataset"]),
        (["a", "--split", "test"], 2, ["go with --dataset"]),
        (["--dataset", "emoji"], 2, ["emoji yields image-text"]),
        (["--dataset", "movie-reviews", "--set", "dataset.kind=text"], 2, ["movie-reviews yields text"]),
        (["a", "--set", "backbone.contex_length=3"], 2, ["Did you mean context_length", "mmalign show reward-model"]),
        (["a", "--out", "scores.txt"], 2, ["unknown kind of file"]),
    ],
)
def test_mistakes_are_named(capsys, trained, arguments, code, words) -> None:
    got, _, err = call(capsys, "score", "--backbone", str(trained["tiny_llama"]), *arguments)
    assert got == code and all(word in err for word in words) and "Traceback" not in err, err
