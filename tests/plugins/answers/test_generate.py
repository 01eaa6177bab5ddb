"""Generation: against transformers, alone or in company, its end, and the command."""

import io
import json
from typing import Any

import pytest
import torch

from mmalign.cli import run
from mmalign.language.sampling import Sampling, draw, uniforms
from tests.support.lm_samples import FAMILIES


def prompts(seed: int = 0, lengths: tuple[int, ...] = (3, 7, 1, 5, 7)) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(1, 300, (length,), generator=generator) for length in lengths]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_best_tokens_are_transformers(load_lm, lm_folders, family) -> None:
    backbone = load_lm(lm_folders[family])
    generated = backbone.generate(prompts(), Sampling(max_tokens=9, temperature=0), [0] * 5)
    for prompt, ids, ended in zip(prompts(), generated.ids, generated.ended, strict=True):
        expected = backbone.module.generate(prompt[None], max_new_tokens=9, do_sample=False)[0, len(prompt) :]
        assert ids.tolist() == expected.tolist() and ended == (int(ids[-1]) == backbone.processor.end_id)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_depends_on_its_prompt_and_seed_alone(load_lm, lm_folders, family) -> None:
    backbone = load_lm(lm_folders[family])
    with torch.no_grad():  # so that some rows end early and leave
        backbone.module.get_output_embeddings().weight[backbone.processor.end_id] *= 3
    sampling, seeds = Sampling(max_tokens=12, temperature=0.9, top_p=0.9), list(range(5))
    together = backbone.generate(prompts(), sampling, seeds)
    for place, prompt in enumerate(prompts()):
        alone = backbone.generate([prompt], sampling, [seeds[place]])
        assert alone.ids[0].tolist() == together.ids[place].tolist()
        torch.testing.assert_close(alone.logps[0], together.logps[place], rtol=1e-4, atol=1e-5)
    assert together.ids[1].tolist() != backbone.generate([prompts()[1]], sampling, [99]).ids[0].tolist()


def test_drawing_follows_the_distribution() -> None:
    logits = torch.tensor([0.1, 2.0, -1.0, 0.5]).expand(20_000, 4)
    u = uniforms(range(20_000), step=3)
    assert float(u.min()) >= 0 and float(u.max()) < 1 and abs(float(u.mean()) - 0.5) < 0.01
    for sampling, kept in ((Sampling(), 4), (Sampling(temperature=2.0), 4), (Sampling(top_p=0.8), 2)):
        p = (logits[0] / sampling.temperature).softmax(0)
        order = p.argsort(descending=True)[:kept]
        expected = torch.zeros(4).index_copy(0, order, p[order] / p[order].sum())
        tokens, logps = draw(logits, sampling, u)
        found = torch.bincount(tokens, minlength=4) / len(tokens)
        torch.testing.assert_close(found, expected, rtol=0, atol=0.015)
        torch.testing.assert_close(logps.exp(), expected[tokens], rtol=1e-4, atol=1e-6)


def test_no_prompts_and_no_room() -> None:
    tokens, _ = draw(torch.tensor([[0.0, 50.0]]), Sampling(), torch.tensor([1 - 2.0**-53], dtype=torch.float64))
    assert tokens.tolist() == [1], "the last of the distribution is never passed"


# The command ----------------------------------------------------------------------------------------------------------


def call(capsys: Any, *arguments: str) -> tuple[int, str, str]:
    code = run(["generate", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_json_lines_and_a_seed(capsys, lm_folders, tmp_path, monkeypatch) -> None:
    backbone = ("--backbone", str(lm_folders["tiny_llama"]), "--max-tokens", "6")
    code, out, _ = call(capsys, *backbone, "a red car", "the cat", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [row["prompt"] for row in rows] == ["a red car", "the cat"]
    assert all(row["tokens"] <= 6 and row["logp"] < 0 for row in rows)
    (tmp_path / "prompts.txt").write_text("a red car\n\nthe cat\n")
    assert call(capsys, *backbone, f"@{tmp_path / 'prompts.txt'}", "--json")[1] == out
    monkeypatch.setattr("sys.stdin", io.StringIO("a red car\nthe cat\n"))
    assert call(capsys, *backbone, "-", "--json")[1] == out
    assert call(capsys, *backbone, "a red car", "the cat", "--json", "--seed", "1")[1] != out
    code, out, err = call(capsys, *backbone, "a red car", "--chat", "--temperature", "0")
    assert code == 0 and out.strip() and "without an end" in err


def test_prompts_of_a_file_or_data_set(capsys, lm_folders, tmp_path) -> None:
    backbone = ("--backbone", str(lm_folders["tiny_llama"]), "--max-tokens", "6", "--json")
    chat = [{"role": "user", "content": "the cat"}]
    rows = [{"prompt": p, "chosen": c, "rejected": r} for p, c, r in (("a red car", "A", "B"), ("fish", "A", "B"))]
    rows.append({"prompt": chat, "chosen": [{"role": "assistant", "content": "x"}], "rejected": chat})
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, err = call(capsys, *backbone, "--dataset", str(tmp_path / "pairs.jsonl"))
    found = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and "3 of 3 prompts of prompts" in err, err
    assert [(row["key"], row["prompt"]) for row in found] == [
        ("pairs.jsonl:1", "a red car"), ("pairs.jsonl:2", "fish"), ("pairs.jsonl:3", chat)
    ]  # fmt: skip
    typed = [json.loads(line) for line in call(capsys, *backbone, "a red car", "fish")[1].splitlines()]
    assert [row["text"] for row in found[:2]] == [row["text"] for row in typed]
    code, out, err = call(capsys, *backbone, "--dataset", str(tmp_path / "pairs.jsonl"), "--limit", "1")
    assert len(out.splitlines()) == 1 and "1 of 3 prompts" in err
    code, out, _ = call(capsys, *backbone, "--dataset", "movie-reviews")
    assert code == 0 and json.loads(out)["prompt"] == "Movie review:"
    assert call(capsys, *backbone, "a", "--limit", "1")[0] == call(capsys, *backbone, "a", "--dataset", "x")[0] == 2
    assert "emoji yields image-text" in call(capsys, *backbone, "--dataset", "emoji")[2]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, ["no prompt"]),
        (["@nowhere.txt"], 2, ["nowhere.txt"]),
        (["cat " * 40], 3, ["do not fit the context of 32"]),
        (["cat"], 3, ["and 64 to generate do not fit the context of 32"]),
        (["a", "--set", "train.steps=3"], 2, ["generate takes no section train"]),
        (["a", "--set", "backbone.row_lenth=3"], 2, ["Did you mean row_length"]),
    ],
)
def test_mistakes_are_named(capsys, lm_folders, arguments, code, words) -> None:
    got, _, err = call(capsys, "--backbone", str(lm_folders["tiny_llama"]), *arguments)
    assert got == code and all(word in err for word in words) and "Traceback" not in err, err


def test_a_clip_cannot_generate(capsys) -> None:
    code, _, err = call(capsys, "--backbone", "clip-lite", "a cat")
    assert code == 2 and "generate needs generate; clip-lite" in err and "causal-lm" in err
