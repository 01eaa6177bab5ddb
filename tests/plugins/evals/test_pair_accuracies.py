"""Preference and reward accuracy against double loops over single answers; intervals of pairs that share a prompt."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from mmalign_evals.preference_accuracy import PreferenceAccuracy
from mmalign_evals.reward_accuracy import RewardAccuracy

from mmalign.cli import run
from mmalign.contract.evaluation import Runtime
from mmalign.contract.examples import Preference, Ranking
from mmalign.errors import DataError, UsageError
from mmalign.evaluate.intervals import wilson
from mmalign.evaluate.pairs import PairAccuracy
from mmalign.testing.models import tiny_gpt2, tiny_reward_model

WORDS = ["a red car", "the cat and a dog", "tree", "a photo of the blue bird", "fish", "two small dogs"]
RANKINGS = [
    Ranking(f"r:{i}", prompt, tuple(f" {WORDS[(i + k) % 6]}" for k in range(4)), ranks)
    for i, (prompt, ranks) in enumerate(
        [("the", (1.0, 2.5, 2.5, 1.25)), ("a photo", (3.0, 1.0, 1.5, 2.0)), ("of", (1.0, 1.0, 1.0, 1.0))] * 2
    )
]
PREFERENCES = [Preference(f"p:{i}", WORDS[i], f" {WORDS[i - 1]}", f" {WORDS[i - 2]}") for i in range(6)]
PREFERENCES += [Preference("p:same", "the", " cat", " cat")]


def share(values: dict[tuple[int, int], float], examples: list[Any], gap: float = 0.0) -> tuple[float, int]:
    """values: (example, answer) -> score."""
    right, pairs = 0.0, 0
    for n, example in enumerate(examples):
        ranks = example.ranks if isinstance(example, Ranking) else (1.0, 2.0)
        for i in range(len(ranks)):
            for j in range(len(ranks)):
                if ranks[j] - ranks[i] > 0 and ranks[j] - ranks[i] >= gap:
                    pairs += 1
                    right += 1.0 if values[n, i] > values[n, j] else 0.5 if values[n, i] == values[n, j] else 0.0
    return right / pairs, pairs


def logps(backbone: Any, examples: list[Any]) -> dict[tuple[int, int], tuple[float, int]]:
    """(example, answer) -> (log-probability by transformers, tokens)."""
    found, tokenizer = {}, backbone.processor.tokenizer
    for n, example in enumerate(examples):
        prompt = tokenizer(example.prompt)["input_ids"]
        for k, text in enumerate(example.answers()):
            answer = [*tokenizer(text)["input_ids"], backbone.processor.end_id]
            with torch.no_grad():
                rows = backbone.module(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
            found[n, k] = sum(float(rows[len(prompt) + t - 1, i]) for t, i in enumerate(answer)), len(answer)
    return found


@pytest.mark.parametrize("examples", [RANKINGS, PREFERENCES], ids=["rankings", "preferences"])
def test_preference_accuracy_is_a_double_loop(load_lm, lm_folders, tmp_path, examples) -> None:
    policy, reference = load_lm(lm_folders["tiny_gpt2"]), load_lm(tiny_gpt2(tmp_path / "reference", seed=7))
    runtime = Runtime(batch_size=2, load_model={"start": reference}.__getitem__)
    own, other = logps(policy, examples), logps(reference, examples)
    for name in ("", "start"):
        config = PreferenceAccuracy.Config(reference=name)
        found = PreferenceAccuracy(config).run(policy, examples, runtime)
        sums = {key: own[key][0] - (other[key][0] if name else 0.0) for key in own}
        means = {key: sums[key] / own[key][1] for key in own}
        if examples is PREFERENCES:  # tied to the last bit, which two ways of summing are not
            assert own[6, 0] == own[6, 1]
        expected, pairs = share(sums, examples)
        assert found["accuracy"] == pytest.approx(expected) and found["pairs"] == pairs
        assert found["accuracy_per_token"] == pytest.approx(share(means, examples)[0])
        assert found["accuracy_low"] <= found["accuracy"] <= found["accuracy_high"]
        assert found["examples"] == len(examples) and found["unreadable"] == 0
    assert found["tied_pairs"] == (14 if examples is RANKINGS else 0)


def test_reward_accuracy_is_a_double_loop_by_gap(load_lm, tmp_path) -> None:
    backbone = load_lm(tiny_reward_model(tmp_path / "rm"))
    values = {}
    for n, example in enumerate(RANKINGS):
        for k, text in enumerate(example.completions):
            ids = backbone.processor.tokenizer(example.prompt + text)["input_ids"]  # padding is the end token: dropped
            with torch.no_grad():
                values[n, k] = float(backbone.module(torch.tensor([ids])).logits[0, 0])
    found = RewardAccuracy(RewardAccuracy.Config(gaps=(0.25, 1.0, 9.0))).run(backbone, RANKINGS, Runtime(batch_size=4))
    assert found["accuracy"] == pytest.approx(share(values, RANKINGS)[0]) and found["pairs"] == 22
    for gap in (0.25, 1.0):
        expected, pairs = share(values, RANKINGS, gap)
        assert found[f"accuracy_gap_{gap:g}"] == pytest.approx(expected) and found[f"pairs_gap_{gap:g}"] == pairs
    assert found["pairs_gap_9"] == 0 and "accuracy_gap_9" not in found
    with pytest.raises(DataError, match="tie in rank"):
        RewardAccuracy(RewardAccuracy.Config()).run(backbone, RANKINGS[2:3], Runtime())


def test_the_interval_of_single_pairs_is_wilsons() -> None:
    accuracy = PairAccuracy()
    for n in range(20):
        accuracy.add(torch.tensor([1.0, 0.0] if n < 13 else [0.0, 1.0]), (1.0, 2.0))
    found = accuracy.summary("a")
    assert (found["a"], found["a_low"], found["a_high"]) == pytest.approx((0.65, *wilson(13, 20)))


def test_pairs_that_repeat_each_other_narrow_nothing() -> None:
    """Each prompt's one comparison copied into three alike: as many prompts, as wide an interval."""
    once, copied = PairAccuracy(), PairAccuracy()
    for n in range(20):
        better = 1.0 if n < 13 else -1.0
        once.add(torch.tensor([better, 0.0]), (1.0, 2.0))
        copied.add(torch.tensor([better, 0.0, 0.0, 0.0]), (1.0, 2.0, 2.0, 2.0))
    assert copied.tied == 60 and copied.pairs == [3] * 20
    assert copied.summary("a") == pytest.approx(once.summary("a"))


def test_the_interval_covers_as_often_as_it_says() -> None:
    """Rankings of six whose scores are the truth with much noise: 95% of the intervals hold the long-run share."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.arange(6.0)
    shares, covered, runs = [], 0, 150
    scores = -truth + 3 * torch.randn(runs, 30, 6, generator=generator, dtype=torch.float64)
    intervals = []
    for run_scores in scores:
        accuracy = PairAccuracy()
        for row in run_scores:
            accuracy.add(row, truth.tolist())
        found = accuracy.summary("a")
        shares.append(found["a"])
        intervals.append((found["a_low"], found["a_high"]))
    mean = sum(shares) / runs
    covered = sum(low <= mean <= high for low, high in intervals)
    assert 0.89 <= covered / runs <= 1.0


def test_ratings_that_differ_by_the_gap_up_to_rounding_count() -> None:
    accuracy = PairAccuracy(gap=0.1)
    accuracy.add(torch.tensor([1.0, 0.0]), (0.7, 0.8 - 1e-12))
    assert accuracy.pairs == [1]


# The command ----------------------------------------------------------------------------------------------------------


def evaluate(capsys: Any, *arguments: str) -> tuple[int, str, str]:
    code = run(["evaluate", *arguments, "--set", "evaluation.max_examples=8"])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_reward_model_and_a_policy_on_the_embedded_reviews(capsys, lm_folders, tmp_path) -> None:
    code, out, err = evaluate(capsys, "--backbone", str(tiny_reward_model(tmp_path / "rm")), "--json")
    document = json.loads(out)
    assert code == 0 and [r["evaluation"] for r in document["results"]] == ["reward-accuracy"], err
    assert document["results"][0]["kind"] == "ranking" and "perplexity" in document["left_out"]
    assert document["results"][0]["metrics"]["pairs_gap_2"] < document["results"][0]["metrics"]["pairs"]
    policy = str(lm_folders["tiny_gpt2"])
    own = ("preference-accuracy", "--backbone", policy)
    code, out, err = evaluate(capsys, *own, "--set", f"evaluation.reference={policy}", "--json")
    assert code == 0 and json.loads(out)["results"][0]["metrics"]["accuracy"] == 0.5, err  # every implicit reward is 0


def test_references_that_cannot_be_compared_with(capsys, lm_folders, load_lm, tmp_path: Path) -> None:
    policy = str(lm_folders["tiny_gpt2"])
    own = ("preference-accuracy", "--backbone", policy)
    for reference, words in (
        ("clip-lite", "evaluation.reference needs hidden_states"),
        (str(tiny_reward_model(tmp_path / "rm")), "It is a reward model"),
        ("nowhere/at/all", "unknown folder"),
    ):
        code, _, err = evaluate(capsys, *own, "--set", f"evaluation.reference={reference}")
        assert code == 2 and words in err and "Traceback" not in err, err
    code, _, err = evaluate(capsys, "reward-accuracy", "--backbone", policy)
    assert code == 2 and "reward-accuracy needs score_sequences" in err and "Provided by: reward-model" in err
    other = load_lm(lm_folders["tiny_gpt2"])
    other.processor.tokenizer.add_tokens(["cat"])
    runtime = Runtime(load_model=lambda name: other)
    with pytest.raises(UsageError, match="another tokenizer"):
        config = PreferenceAccuracy.Config(reference="other")
        PreferenceAccuracy(config).run(load_lm(lm_folders["tiny_gpt2"]), PREFERENCES, runtime)


def _train(objective: str, start: str, folder: Path, capsys: Any, *sets: str, chat: bool = False) -> dict[str, float]:
    """Two steps on thirty pairs or so; the final held-out figures. chat: the same as messages."""
    data = folder / "pairs.jsonl"
    rows = [{"prompt": f"the cat {i}", "chosen": f" {WORDS[i % 6]}", "rejected": f" {WORDS[i % 5]}"} for i in range(60)]
    rows = [row for row in rows if row["chosen"] != row["rejected"]]
    if chat:
        roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
        rows = [{k: [{"role": roles[k], "content": text.strip()}] for k, text in row.items()} for row in rows]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = ["train.steps=2", "train.batch_size=8", "train.learning_rate=0.01", "train.warmup_steps=0", *sets]
    values += ["data.num_workers=0", "dataset.holdout=0.5"]
    options = [part for value in values for part in ("--set", value)]
    named = ["--backbone", start, "--dataset", str(data), "--out", str(folder / "run")]
    assert run(["train", "--objective", objective, *named, *options, "--json"]) == 0
    return json.loads(capsys.readouterr().out)["after"]


@pytest.mark.parametrize(
    ("objective", "evaluation", "sets"),
    [
        ("dpo", "preference-accuracy", ()),
        ("dpo", "preference-accuracy", ("objective.loss=ipo",)),
        ("simpo", "preference-accuracy", ()),
        ("cpo", "preference-accuracy", ()),
        ("reward", "reward-accuracy", ()),
    ],
)
def test_evaluate_repeats_the_runs_own_figure(capsys, lm_folders, tmp_path, objective, evaluation, sets) -> None:
    """Reference, normalisation and held-out rows come from the record beside the model; nothing is said again."""
    start = str(lm_folders["tiny_gpt2"])
    held_out = _train(objective, start, tmp_path, capsys, *sets)
    assert run(["evaluate", evaluation, "--backbone", str(tmp_path / "run"), "--json"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)["results"][0]
    metrics = result["metrics"]
    assert result["split"] == "validation" and metrics["examples"] == held_out["heldout/examples"] > 10
    assert metrics["accuracy"] == pytest.approx(held_out["heldout/accuracy"]) and metrics["accuracy"] != 0.5
    assert f"{evaluation}: held out by the model's run" in err
    assert (f"less those of its reference {start}" in err) == (objective == "dpo")


TWICE = "{% for m in messages %}{{ m.content }} {{ m.content }} <end>{% endfor %}"


@pytest.mark.parametrize(
    ("objective", "evaluation"),
    [("dpo", "preference-accuracy"), ("simpo", "preference-accuracy"), ("reward", "reward-accuracy")],
)
def test_evaluate_reads_texts_as_the_run_did(capsys, lm_folders, tmp_path, objective, evaluation) -> None:
    """A short context, in which texts are cut, and a template of the user's, which is the saved model's own."""
    from transformers import AutoTokenizer

    template = tmp_path / "twice.jinja"
    template.write_text(TWICE)
    sets = ("backbone.context_length=14", f"backbone.template={template}", "data.max_lost=1")
    held_out = _train(objective, str(lm_folders["tiny_gpt2"]), tmp_path, capsys, *sets, chat=True)
    model = tmp_path / "run" / "model"
    talk = [{"role": "user", "content": "cat"}]
    saved = AutoTokenizer.from_pretrained(model)
    assert saved.apply_chat_template(talk, tokenize=False) == "cat cat <end>"
    assert (model / "chat_template.jinja").read_text() == TWICE
    template.unlink()  # the model has it

    def measure(*arguments: str) -> tuple[dict[str, float], str]:
        assert run(["evaluate", evaluation, "--backbone", str(model), "--json", *arguments]) == 0
        out, err = capsys.readouterr()
        return json.loads(out)["results"][0]["metrics"], err

    metrics, err = measure()
    for name in ("accuracy", "examples"):
        assert metrics[name] == pytest.approx(held_out[f"heldout/{name}"]), name
    assert metrics["truncated"] > 0 and "not the run's own" not in err
    metrics, err = measure("--set", "backbone.context_length=48")
    assert metrics["truncated"] == 0
    assert "the model's run had backbone.context_length=14: with backbone.context_length=48 figures are not the" in err


def test_evaluate_says_whose_rows_it_measures(capsys, lm_folders, tmp_path) -> None:
    held_out = _train("dpo", str(lm_folders["tiny_gpt2"]), tmp_path, capsys)
    data, model = tmp_path / "pairs.jsonl", str(tmp_path / "run" / "model")

    def measure(*arguments: str) -> tuple[dict[str, float], str]:
        assert run(["evaluate", "preference-accuracy", "--backbone", model, "--json", *arguments]) == 0
        out, err = capsys.readouterr()
        return json.loads(out)["results"][0]["metrics"], err

    metrics, err = measure("--dataset", str(data))  # the same file: its held-out rows, not those learnt
    assert metrics["accuracy"] == pytest.approx(held_out["heldout/accuracy"]) and "held out by the model's run" in err
    metrics, err = measure("--split", "train")
    assert metrics["examples"] + held_out["heldout/examples"] == len(data.read_text().splitlines())
    assert "learnt these rows" in err
    _, err = measure("--set", "dataset.holdout=0.7")
    assert "it may have learnt some of these rows" in err
    other = tmp_path / "other.jsonl"
    other.write_text(data.read_text())
    metrics, err = measure("--dataset", str(other))
    assert metrics["examples"] == len(data.read_text().splitlines()) and "whether it learnt any" in err
    own, plain = measure()[0], measure("--set", "evaluation.reference=none")[0]
    assert plain["accuracy"] == plain["accuracy_sum"] != own["accuracy"]
    record = tmp_path / "run" / "model" / "mmalign.json"
    content = json.loads(record.read_text())
    record.write_text(json.dumps({**content, "reference": str(tmp_path / "gone")}))
    metrics, err = measure()
    assert metrics["accuracy"] == plain["accuracy"] and "a reference that cannot be had" in err
    data.unlink()
    assert run(["evaluate", "preference-accuracy", "--backbone", model]) == 3
    _, err = capsys.readouterr()
    assert f"which {record} names, cannot be read: {data}: no such file or folder" in err and "--dataset DATA" in err
    assert run(["evaluate", "preference-accuracy", "--backbone", model, "--dataset", str(data)]) != 0
    assert str(record) not in capsys.readouterr().err  # the user named that file
    record.write_text("{}")
    assert run(["evaluate", "preference-accuracy", "--backbone", model]) != 0
    assert "mmalign.json cannot be read" in capsys.readouterr().err
