"""Pretraining, SFT and DPO: identities, peers' losses on the same log-probabilities, and runs as a user types them."""

import html
import json
import math
from typing import Any

import pytest
import torch
from mmalign_objectives.dpo import DirectPreferenceOptimization as DPO
from mmalign_objectives.pretrain import Pretrain
from mmalign_objectives.sft import SupervisedFineTuning as SFT

from mmalign.cli import run
from mmalign.contract.batch import Batch, Ragged
from mmalign.contract.objective import Context
from mmalign.language.sequences import Sequences
from mmalign.ops.preference import PAIR_LOSSES, odds_ratio
from mmalign.train.roles import Models
from tests.support.lm_samples import naive_logps, some_pairs, some_sequences


def test_pretraining_is_the_mean_cross_entropy_of_transformers(load_lm, lm_folders) -> None:
    backbone = load_lm(lm_folders["tiny_gpt2"])
    rows = [row for row in some_sequences().answers.rows() if len(row) > 1]
    batch = Batch({"text": Ragged.from_list(rows)})
    objective = Pretrain(Pretrain.Config())
    terms, metrics = objective.loss(objective.forward(Models({"policy": backbone}, {"policy"}), batch), batch)
    total = sum(backbone.module(input_ids=row[None], labels=row[None]).loss * (len(row) - 1) for row in rows)
    torch.testing.assert_close(terms["nll"], total, rtol=1e-5, atol=1e-5)
    assert objective.count(batch)["nll"] == sum(len(row) - 1 for row in rows) == metrics["accuracy"][1]


@pytest.mark.parametrize("loss_on", ["completion", "assistant", "all"])
def test_sft_learns_the_labels_that_it_says(load_lm, lm_folders, loss_on) -> None:
    backbone = load_lm(lm_folders["tiny_llama"])
    answer, prompt = torch.tensor([30, 31, 32, 33]), torch.tensor([10, 11, 12])
    learn = torch.tensor([True, False, False, True])
    batch = Batch({"sequences": Sequences.from_lists([prompt], [[answer]], [[learn]])})
    objective, models = SFT(SFT.Config(loss_on=loss_on)), Models({"policy": backbone}, {"policy"})
    batch = objective.prepare(models, batch, Context(0, 0, lambda tensor: tensor, 8))
    terms, _ = objective.loss(objective.forward(models, batch), batch)
    row = torch.cat([prompt, answer])
    logps = backbone.module(input_ids=row[None]).logits[0].log_softmax(-1)[:-1].gather(1, row[1:, None])[:, 0]
    mask = {"completion": [0, 0, 1, 1, 1, 1], "assistant": [0, 0, 1, 0, 0, 1], "all": [1] * 6}[loss_on]
    torch.testing.assert_close(terms["nll"], -(logps * torch.tensor(mask)).sum(), rtol=1e-5, atol=1e-5)
    assert objective.count(batch)["nll"] == sum(mask)


@pytest.mark.parametrize("loss", ["sigmoid", "hinge", "ipo", "robust"])
def test_dpo_at_the_reference_is_exactly_its_loss_at_zero(load_lm, lm_folders, loss) -> None:
    policy, reference = load_lm(lm_folders["tiny_llama"]), load_lm(lm_folders["tiny_llama"])
    models = Models({"policy": policy, "reference": reference}, {"policy"})
    objective = DPO(DPO.Config(loss=loss, beta=0.1))
    batch = Batch({"sequences": some_pairs()})
    batch = batch.with_columns(**objective.frozen(models, batch))
    terms, metrics = objective.loss(objective.forward(models, batch), batch)
    expected = {"sigmoid": math.log(2), "robust": math.log(2), "hinge": 1.0, "ipo": 25.0}[loss]
    assert float(terms["preference"].detach()) / 2 == pytest.approx(expected, abs=1e-7)
    assert float(metrics["accuracy"][0]) == 1.0, "ties count half"


def test_dpo_equals_its_formula_on_transformers_log_probabilities(load_lm, lm_folders) -> None:
    policy, reference = load_lm(lm_folders["tiny_llama"]), load_lm(lm_folders["tiny_llama"])
    with torch.no_grad():
        for parameter in policy.module.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    models = Models({"policy": policy, "reference": reference}, {"policy"})
    objective = DPO(DPO.Config(beta=0.3, label_smoothing=0.1))
    batch = Batch({"sequences": some_pairs()})
    batch = batch.with_columns(**objective.frozen(models, batch))
    terms, _ = objective.loss(objective.forward(models, batch), batch)
    lengths = some_pairs().num_labels().tolist()
    sums = [
        torch.stack([part.sum() for part in naive_logps(backbone.module, some_pairs()).split(lengths)]).view(2, 2)
        for backbone in (policy, reference)
    ]
    margin = (sums[0] - sums[1]) @ torch.tensor([1.0, -1.0])
    expected = -0.9 * (0.3 * margin).sigmoid().log() - 0.1 * (-0.3 * margin).sigmoid().log()
    torch.testing.assert_close(terms["preference"], expected.sum(), rtol=1e-4, atol=1e-4)


def test_pair_losses_equal_their_formulas() -> None:
    margin = torch.linspace(-30, 30, 13, dtype=torch.float64)
    sigma = lambda x: 1 / (1 + torch.exp(-x))  # noqa: E731
    z = 0.2 * margin
    expected = {
        "sigmoid": -0.9 * sigma(z).log() - 0.1 * sigma(-z).log(),
        "robust": (-0.9 * sigma(z).log() + 0.1 * sigma(-z).log()) / 0.8,
        "ipo": (margin - 2.5) ** 2,
        "hinge": torch.maximum(torch.zeros_like(z), 1 - z),
    }
    assert set(expected) == set(PAIR_LOSSES)
    for name, value in expected.items():
        torch.testing.assert_close(PAIR_LOSSES[name](margin, 0.2, 0.1), value, rtol=1e-12, atol=1e-12)


def test_odds_ratio_is_right_near_zero_and_far_away() -> None:
    from mpmath import mp, mpf

    mp.dps = 50
    chosen = torch.tensor([-1e-9, -0.5, -2.0, -40.0], dtype=torch.float64)
    rejected = torch.tensor([-0.7, -1e-12, -50.0, -0.1], dtype=torch.float64)
    odds = lambda x: mp.log(mp.exp(mpf(x)) / (1 - mp.exp(mpf(x))))  # noqa: E731
    expected = [float(odds(a) - odds(b)) for a, b in zip(chosen.tolist(), rejected.tolist(), strict=True)]
    torch.testing.assert_close(
        odds_ratio(chosen, rejected), torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12
    )


# As a user types it ---------------------------------------------------------------------------------------------------

ROWS = {
    "pretrain": lambda i: {"text": f"the red car and a small dog {i}"},
    "sft": lambda i: {"prompt": f"a red car {i} ", "completion": "and a green tree"},
    "dpo": lambda i: {"prompt": f"the cat {i}", "chosen": " on the tree", "rejected": " with a fish"},
}


SAMPLE = {"prompt", "before", "after"}


@pytest.fixture
def train(lm_folders, tmp_path, capsys):
    def call(objective: str, *arguments: str, steps: int = 6) -> tuple[int, Any, str]:
        data = tmp_path / f"{objective}.jsonl"
        if not data.exists():
            data.write_text("".join(json.dumps(ROWS[objective](i)) + "\n" for i in range(40)))
        sets = [f"train.steps={steps}", "train.batch_size=8", "data.num_workers=0", "train.learning_rate=0.003"]
        options = [part for value in (*sets, "train.warmup_steps=1") for part in ("--set", value)]
        named = ["--objective", objective, "--backbone", str(lm_folders["tiny_llama"]), "--dataset", str(data)]
        code = run(["train", *named, *options, *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.mark.parametrize("objective", list(ROWS))
def test_a_run_learns_and_saves_what_transformers_loads(train, tmp_path, objective) -> None:
    from transformers import AutoModelForCausalLM

    code, out, err = train(objective, "--out", str(tmp_path / "run"), "--json", steps=20)
    assert code == 0, err
    outcome = json.loads(out)
    before, after = outcome["before"]["heldout/loss"], outcome["after"]["heldout/loss"]
    assert after < 0.8 * before
    if objective == "dpo":
        assert before == pytest.approx(math.log(2), abs=1e-5) and outcome["after"]["heldout/accuracy"] == 1.0
    AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    samples = outcome["samples"]
    assert len(samples) == min(4, outcome["before"]["heldout/examples"]) and set(samples[0]) == SAMPLE
    assert any(sample["before"] != sample["after"] for sample in samples)
    report = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "What it writes" in report and html.escape(samples[0]["prompt"]) in report


@pytest.mark.parametrize(
    ("objective", "row", "code", "words"),
    [
        ("sft", {"prompt": "a", "chosen": "b", "rejected": "c"}, 3, ["completion", "looks like preference data"]),
        ("dpo", {"prompt": "a", "chosen": "b", "rejected": "b"}, 3, ["chosen equals rejected", "max_bad"]),
        ("dpo", {"prompt": "a", "chosen": "b", "rejected": " "}, 3, ["an empty answer"]),
        ("sft", {"messages": [{"role": "robot", "content": "x"}]}, 3, ["known roles"]),
        ("pretrain", {"txt": "a"}, 3, ["columns text", "it has txt", "dataset.columns"]),
    ],
)
def test_data_that_does_not_fit_is_named(train, tmp_path, objective, row, code, words) -> None:
    (tmp_path / f"{objective}.jsonl").write_text((json.dumps(row) + "\n") * 20)
    got, _, err = train(objective, "--out", str(tmp_path / "run"))
    assert got == code and all(word in err for word in words) and "Traceback" not in err, err


def test_broken_json_names_its_line(train, tmp_path) -> None:
    good = json.dumps(ROWS["sft"](0)) + "\n"
    (tmp_path / "sft.jsonl").write_text(good * 6 + "{broken\n" + good)
    code, _, err = train("sft", "--out", str(tmp_path / "run"))
    assert code == 3 and "sft.jsonl:7" in err and "Traceback" not in err


def test_pictures_for_a_language_model_are_refused_with_what_it_reads(capsys, lm_folders) -> None:
    named = ["--backbone", str(lm_folders["tiny_llama"]), "--dataset", "emoji"]
    assert run(["train", "--objective", "contrastive", *named]) == 2
    err = capsys.readouterr().err
    assert "learns from text-pair examples; emoji yields image-text" in err
