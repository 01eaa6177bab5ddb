"""Answers of another sampler than the policy: weights of the losses against loops, and the gradient that they give."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mmalign.contract.batch import Batch
from mmalign.contract.specs import EngineSpec, Entry
from mmalign.language.sampling import Generated, Sampling
from mmalign.language.sequences import Sequences
from mmalign.rl.engines import Engine, OwnGeneration
from mmalign.rl.rollout_batch import OTHER_SAMPLER, per_prompt
from tests.support.online_samples import metric, move, prepared_batch, total, trainer_of

pytestmark = pytest.mark.usefixtures("one_thread")

POLICY_GRADIENTS = ("ppo", "grpo", "rloo")


class Tempered(OwnGeneration):
    """Wrong on purpose: it draws at another temperature than it was asked for, and says honestly how."""

    def generate(self, policy: Any, prompts: Sequence[Tensor], sampling: Sampling, seeds: Sequence[int]) -> Generated:
        return policy.generate(prompts, replace(sampling, temperature=0.02 * sampling.temperature), seeds)


def drawing(bench, name: str, options: dict[str, Any], engine: Any = Tempered, exact: bool = False, **how: Any):
    """A trainer whose answers that engine draws."""
    trainer = trainer_of(bench, name, options, **how)
    spec = EngineSpec(name="tests", summary="", target="tests:tests", exact=exact)
    vars(trainer.feed.sampler)["_engine"] = Engine(Entry("engines", "tests", spec), engine(None))
    return trainer


def split(batch: Any, values: Tensor) -> list[list[float]]:
    return [part.tolist() for part in values.split(batch["sequences"].num_labels().tolist())]


@pytest.mark.parametrize("name", POLICY_GRADIENTS)
def test_weights_are_the_loop(bench, name) -> None:
    """In an update after the first, so that old is neither new nor the sampler's."""
    options = {"epochs": 2, "clip": 0.1}
    options |= {"ppo": {"value_coef": 0.0}, "grpo": {"beta": 0.0, "variant": "dapo", "clip_high": 0.1}}.get(name, {})
    trainer = drawing(bench, name, options)
    batch = prepared_batch(trainer)
    move(trainer, 0.02, seed=1)
    batch = batch.with_columns(update=torch.full((4,), 1))
    with torch.no_grad():
        new = split(batch, trainer.objective.forward(trainer.models, batch)["logps"])
    old, drawn = split(batch, batch["old"].values), split(batch, batch["sampler_logps"].values)
    advantages = (
        split(batch, batch["advantages"].values)
        if name == "ppo"
        else [[a] * len(row) for a, row in zip(batch["advantage"].flatten().tolist(), new, strict=True)]
    )
    learns = batch["learns"].flatten().tolist() if name == "grpo" else [True] * len(new)
    if name == "rloo":  # an answer is one action
        new, old, drawn = ([[sum(row)] for row in rows] for rows in (new, old, drawn))
        advantages = [row[:1] for row in advantages]
    known = [math.exp(o - s) for olds, draws in zip(old, drawn, strict=True) for o, s in zip(olds, draws, strict=True)]
    limit = sorted(known)[len(known) // 2]  # half of them are above it
    trainer.objective.config = trainer.objective.config.model_copy(update={"sampler_clip": limit})
    losses, weights, truncated = [], [], 0
    for row, learnt in enumerate(learns):
        for p, o, s, a in zip(new[row], old[row], drawn[row], advantages[row], strict=True):
            ratio, weight = math.exp(p - o), math.exp(o - s)
            truncated += weight > limit
            weights.append(min(weight, limit))
            if learnt:
                losses.append(weights[-1] * max(-a * ratio, -a * min(max(ratio, 0.9), 1.1)))
    assert 0 < truncated < len(weights)
    assert float(total(trainer, batch)) == pytest.approx(sum(losses) / len(losses), abs=1e-7)
    assert metric(trainer, batch, "sampler_weight") == pytest.approx(sum(weights) / len(weights), abs=1e-6)
    assert metric(trainer, batch, "sampler_truncated") == truncated / len(weights)
    gaps = (batch["old"].values - batch["sampler_logps"].values).abs().double()
    assert metric(trainer, batch, "sampler_gap") == pytest.approx(float(gaps.mean()), rel=1e-5)
    assert float(gaps.mean()) > 0.01


def test_online_dpo_reports_the_gap_of_the_first_update_and_weighs_nothing(bench) -> None:
    trainer = drawing(bench, "online-dpo", {"epochs": 2})
    batch = prepared_batch(trainer)
    assert metric(trainer, batch.with_columns(update=torch.zeros(4, dtype=torch.int64)), "sampler_gap") > 0.01
    outputs = trainer.objective.forward(trainer.models, batch)
    later = trainer.objective.loss(outputs, batch.with_columns(update=torch.ones(4, dtype=torch.int64)))[1]
    assert not {name for name in later if name.startswith("sampler_")}


@pytest.mark.parametrize("name", POLICY_GRADIENTS)
def test_an_exact_engine_is_the_policy_to_the_bit(bench, name) -> None:
    found = []
    for trainer in (drawing(bench, name, {}, OwnGeneration, exact=True), trainer_of(bench, name)):
        batch = prepared_batch(trainer)
        result, gradients = trainer.gradients_of([batch])
        assert OTHER_SAMPLER not in batch and "sampler_weight" not in result.metrics
        gap, count = result.metrics["sampler_gap"]
        assert float(gap) / float(count) < 1e-5
        found.append([result.loss, *(g for g in gradients.values() if g is not None)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


VOCABULARY = 5
LENGTHS = {"ppo": 1, "grpo": 1, "rloo": 2}  # weights a token are exact for one, weights an answer for any


@pytest.mark.parametrize("limit", [1e9, 0.0])
@pytest.mark.parametrize("name", POLICY_GRADIENTS)
def test_the_corrected_gradient_is_the_on_policy_one(bench, name, limit) -> None:
    """In expectation: over all answers y, sum_y q(y) w(y) A(y) grad log pi(y) = grad sum_y pi(y) A(y), q tempered.

    Not with the weights off, or there would be nothing to correct.
    """
    generator, length = torch.Generator().manual_seed(3), LENGTHS[name]
    shapes = [(VOCABULARY,) * (place + 1) for place in range(length)]
    tables = [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]
    rows = torch.cartesian_prod(*[torch.arange(VOCABULARY)] * length).view(-1, length)
    advantage = torch.randn(len(rows), generator=generator, dtype=torch.float64)

    def logps(temperature: float) -> Tensor:
        """[answers, tokens]"""
        parts = [(table / temperature).log_softmax(-1)[tuple(rows[:, : k + 1].T)] for k, table in enumerate(tables)]
        return torch.stack(parts, 1)

    new, drawn = logps(1.0), logps(0.5).detach()
    q = drawn.sum(1).exp()
    assert float(q.sum()) == pytest.approx(1.0)
    # Answers stand for how often they are drawn: each once, with its probability in its advantage.
    objective = trainer_of(bench, name, {"sampler_clip": limit, **({"beta": 0.0} if name == "grpo" else {})}).objective
    batch = enumerated(rows, q * advantage, drawn)
    sums, _ = objective.loss({"logps": new.flatten(), "values": torch.zeros(new.numel())}, batch)
    found = torch.autograd.grad(sums["policy"], tables, retain_graph=True)
    expected = torch.autograd.grad(-(new.sum(1).exp() * advantage).sum(), tables)
    same = [torch.allclose(a, b, rtol=0, atol=1e-12) for a, b in zip(found, expected, strict=True)]
    assert all(same) if limit else not any(same)


def enumerated(rows: Tensor, advantage: Tensor, drawn: Tensor) -> Batch:
    """One prompt with every possible answer; of the columns of all three objectives."""
    answers, length = rows.shape
    learn = [torch.ones(length, dtype=torch.bool)] * answers
    sequences = Sequences.from_lists([torch.tensor([1])], [list(rows)], [learn])
    each = torch.zeros(1, answers, dtype=torch.float64)
    a_token = {"advantages": advantage.repeat_interleave(length), "sampler_logps": drawn.flatten()}
    a_token |= {name: torch.zeros(answers * length) for name in ("values", "returns", "deviations")}
    ragged: dict[str, Any] = {name: per_prompt(values, sequences) for name, values in a_token.items()}
    return Batch(
        {
            "sequences": sequences, "score": each, "kl": each, "beta": each, "ended": each > 0,
            "learns": each == 0, "advantage": advantage[None], "written": (("",) * answers,),
            OTHER_SAMPLER: torch.ones(1, dtype=torch.bool), **ragged,
        },
        size=1,
    )  # fmt: skip
