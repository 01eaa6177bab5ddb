"""KTO: its formula on transformers' log-probabilities, the reference point z0, order, processes, cuts, and a run."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from mmalign_objectives.kto import KahnemanTverskyOptimization as KTO
from mmalign_objectives.kto import mismatched

from mmalign.cli import run
from mmalign.contract.batch import Batch
from mmalign.contract.objective import Context
from mmalign.language.sequences import Sequences
from mmalign.train.roles import Models
from tests.support.lm_samples import naive_logps

LABELS = (True, False, False, True, False)


def context(total: Callable[[torch.Tensor], torch.Tensor] = lambda tensor: tensor, chunk: int = 2) -> Context:
    return Context(0, 0, total, chunk)


def some_answers(lengths: tuple[tuple[int, int], ...] = ((4, 3), (2, 6), (7, 1), (1, 4), (3, 2))) -> Batch:
    """(prompt, answer) lengths -> a batch."""
    generator = torch.Generator().manual_seed(5)
    ids = [[torch.randint(1, 300, (length,), generator=generator) for length in row] for row in lengths]
    sequences = Sequences.from_lists([prompt for prompt, _ in ids], [[answer] for _, answer in ids])
    keys = tuple(f"row:{i}" for i in range(len(ids)))
    return Batch({"key": keys, "sequences": sequences, "label": torch.tensor(LABELS[: len(ids)])})


@pytest.fixture
def models(load_lm, lm_folders) -> Models:
    policy, reference = (load_lm(lm_folders["tiny_gpt2"]) for _ in range(2))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.module.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    for backbone in (policy, reference):
        backbone.module.double()
    return Models({"policy": policy, "reference": reference}, {"policy"})


@torch.no_grad()
def ratios(models: Models, sequences: Sequences) -> torch.Tensor:
    """[N] log pi - log ref, one answer at a time."""
    sums = [
        torch.stack([part.sum() for part in naive_logps(role.module, sequences).split(sequences.num_labels().tolist())])
        for role in (models["policy"], models["reference"])
    ]
    return sums[0] - sums[1]


def loss_of(models: Models, batch: Batch, chunk: int = 2, **options: float) -> tuple[float, Any]:
    objective = KTO(KTO.Config(**options))
    with torch.no_grad():
        prepared = objective.prepare(models, batch, context(chunk=chunk))
    terms, metrics = objective.loss(objective.forward(models, prepared), prepared)
    return float(terms["utility"].detach()), metrics


def test_kto_equals_its_formula_on_transformers_log_probabilities(models) -> None:
    batch = some_answers()
    r, z = ratios(models, batch["sequences"]), ratios(models, mismatched(batch, 32))
    z0 = max(0.0, float(z.mean()))
    expected = 0.0
    for ratio, wanted in zip(r.tolist(), LABELS, strict=True):
        utility = 1 / (1 + math.exp(-0.3 * ((ratio - z0) if wanted else (z0 - ratio))))
        expected += (1.4 if wanted else 0.6) * (1 - utility)
    found, metrics = loss_of(models, batch, beta=0.3, desirable_weight=1.4, undesirable_weight=0.6)
    assert found == pytest.approx(expected, abs=1e-9)
    assert float(metrics["kl"][0]) / 5 == pytest.approx(z0, abs=1e-9)


def test_at_the_reference_every_answer_loses_one_half(load_lm, lm_folders) -> None:
    models = Models({role: load_lm(lm_folders["tiny_gpt2"]) for role in ("policy", "reference")}, {"policy"})
    batch = some_answers()
    # In passes of the policy's size: in others, sums of floats differ in their last digit, and a tie is none.
    found, metrics = loss_of(models, batch, chunk=len(batch))
    assert found == 2.5 and metrics["accuracy"] == (2.5, 5) and metrics["kl"][0] == 0


def test_the_reference_point_has_no_gradient_and_is_never_negative(models) -> None:
    batch, objective = some_answers(), KTO(KTO.Config())
    with torch.no_grad():
        z0 = objective.prepare(models, batch, context())["z0"]
        swapped = Models({"policy": models["reference"], "reference": models["policy"]}, set())
        other = objective.prepare(swapped, batch, context())["z0"]
    assert not z0.requires_grad and len(set(z0.tolist())) == 1
    assert sorted([float(z0[0]) > 0, float(other[0]) > 0]) == [False, True]
    assert min(float(z0[0]), float(other[0])) == 0.0


def test_every_answer_goes_to_another_prompt_whatever_the_order() -> None:
    batch = some_answers()
    order = [3, 1, 4, 0, 2]
    pairs = []
    for one in (batch, batch.select(order)):
        sequences = mismatched(one, 32)
        rows = zip(sequences.prompts.rows(), sequences.answers.rows(), strict=True)
        pairs.append(sorted((p.tolist(), a.tolist()) for p, a in rows))
        own = zip(sequences.answers.rows(), one["sequences"].answers.rows(), strict=True)
        assert not any(torch.equal(answer, other) for answer, other in own)
    assert pairs[0] == pairs[1]


def test_the_reference_point_is_one_mean_over_processes(models) -> None:
    batch, objective = some_answers(), KTO(KTO.Config())
    shares = [batch.select([0, 1, 2]), batch.select([3, 4])]
    sums: list[torch.Tensor] = []

    def record(tensor: torch.Tensor) -> torch.Tensor:
        sums.append(tensor)
        return tensor

    with torch.no_grad():
        for share in shares:
            objective.prepare(models, share, context(record))
        both = [objective.prepare(models, share, context(lambda _: sums[0] + sums[1]))["z0"][0] for share in shares]
    expected = torch.cat([ratios(models, mismatched(share, 32)) for share in shares]).mean().clamp(min=0)
    torch.testing.assert_close(torch.stack(both), expected.expand(2), rtol=1e-9, atol=1e-9)


def test_a_long_answer_is_cut_behind_a_long_prompt(models) -> None:
    batch = some_answers(((20, 2), (2, 25)))  # of 32 positions
    assert mismatched(batch, 32).answers.lengths.tolist() == [12, 2]
    assert math.isfinite(loss_of(models, batch)[0])


def test_mismatched_pairs_stay_on_their_device() -> None:
    sequences = mismatched(some_answers().to("meta"), 32)
    devices = {tensor.device.type for tensor in (sequences.prompts.values, sequences.answers.values, sequences.learn)}
    assert devices == {"meta"}


def test_a_single_example_has_no_reference_point(models) -> None:
    batch = some_answers().select([0])
    with torch.no_grad():
        assert float(KTO(KTO.Config()).prepare(models, batch, context())["z0"]) == 0.0


def test_a_run_makes_wanted_answers_likelier(lm_folders, tmp_path, capsys) -> None:
    data = tmp_path / "judged.jsonl"
    rows = [
        {"prompt": f"the cat {i}", "completion": " on the tree" if i % 2 else " with a fish", "label": bool(i % 2)}
        for i in range(60)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sets = ["train.steps=20", "train.batch_size=8", "train.learning_rate=0.003", "data.num_workers=0"]
    options = [part for value in sets for part in ("--set", value)]
    named = ["--backbone", str(lm_folders["tiny_llama"]), "--dataset", str(data), "--out", str(tmp_path / "run")]
    assert run(["train", "--objective", "kto", *named, *options, "--json"]) == 0
    outcome = json.loads(capsys.readouterr().out)
    before, after = outcome["before"], outcome["after"]
    assert before["heldout/loss"] == pytest.approx(0.5, abs=1e-6) and after["heldout/loss"] < 0.45
    assert after["heldout/desirable_reward"] > 0 > after["heldout/undesirable_reward"]
