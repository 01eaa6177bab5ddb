"""grpo, rloo and online-dpo, which compare the answers to a prompt: losses and gradients against loops and `dpo`."""

import math

import pytest
import torch

from mmalign.errors import UsageError
from mmalign.train.plan import make_plan
from tests.support.online_samples import (
    Talk,
    assert_gradients,
    metric,
    move,
    naive,
    prepared_batch,
    total,
    trainer_of,
    writes,
)

pytestmark = pytest.mark.usefixtures("one_thread")

# Four answers to each of four prompts; those to the third all score the same, one is empty, others never end.
ANSWERED = ([7, 8, 9, 11], [8, -1], [-1], [4, 6, 8, -1], [5, 7, -1], [9], [6, 8, 9], [4, 4])
ANSWERED += ([5, 7, 9, 3], [3], [9, 7], [7, 7, 5], [7, 7, 7, 8], [8], [5, -1], [2, 4, 6, 7])
SIBLINGS = ("grpo", "rloo", "online-dpo")


def sampled(bench, name: str, options: dict | None = None, update: int = -1):
    """A trainer and its prepared batch; update: which one of several it is, the policy having moved on since."""
    trainer = trainer_of(bench, name, options)
    writes(trainer, *ANSWERED)
    batch = prepared_batch(trainer)
    if update >= 0:
        move(trainer, 0.02, seed=1)
        batch = batch.with_columns(update=torch.full((4,), update))
    return trainer, batch


@pytest.mark.parametrize("update", [0, 1])
@pytest.mark.parametrize("variant", ["grpo", "dr-grpo", "dapo"])
def test_grpo_is_the_loop(bench, variant, update) -> None:
    options = {"variant": variant, "epochs": 2, "clip": 0.1, "clip_high": 0.0 if variant == "dapo" else 0.15}
    trainer, batch = sampled(bench, "grpo", options, update)
    found = [row[0] for row in naive(trainer.models["policy"], batch)]
    with torch.no_grad():
        reference = [row[0].tolist() for row in naive(trainer.models["reference"], batch)]
    old, score = batch["old"].values.tolist(), batch["score"].tolist()
    high = 0.28 if variant == "dapo" else 0.15
    sums, answers, tokens, place = torch.zeros(()), 0, 0, 0
    for n, row in enumerate(score):
        mean = sum(row) / 4
        deviation = math.sqrt(sum((s - mean) ** 2 for s in row) / 3)
        for k in range(4):
            logps = found[4 * n + k]
            advantage = row[k] - mean if variant == "dr-grpo" else (row[k] - mean) / (deviation + 1e-4)
            losses = []
            for t, logp in enumerate(logps):
                ratio = (logp - (old[place] if update else logp.detach())).exp()
                place += 1
                surrogate = torch.maximum(-advantage * ratio, -advantage * ratio.clamp(0.9, 1 + high))
                d = reference[4 * n + k][t] - logp
                losses.append(surrogate + 0.04 * (d.exp() - 1 - d))
            if deviation == 0:
                continue
            answers, tokens = answers + 1, tokens + len(logps)
            sums += sum(losses) / len(losses) if variant == "grpo" else sum(losses)
    expected = sums / {"grpo": answers, "dr-grpo": answers * 4, "dapo": tokens}[variant]
    assert answers == 12 and metric(trainer, batch, "no_difference") == 4 / 16
    assert float(total(trainer, batch)) == pytest.approx(float(expected.detach()), abs=1e-6)
    assert_gradients(trainer, batch, expected)


def test_rloo_in_the_first_update_is_reinforce(bench) -> None:
    """-A_i grad log pi(y_i) / M, of the trunk that transformers runs; A from the other three."""
    trainer, batch = sampled(bench, "rloo", {"beta": 0.2})
    with torch.no_grad():
        reference = [float(row[0].sum()) for row in naive(trainer.models["reference"], batch)]
    whole = [row[0].sum() for row in naive(trainer.models["policy"], batch)]
    score = batch["score"].flatten().tolist()
    paid = [s - 0.2 * (float(p.detach()) - q) for s, p, q in zip(score, whole, reference, strict=True)]
    losses = []
    for row, logp in enumerate(whole):
        others = [paid[other] for other in range(row - row % 4, row - row % 4 + 4) if other != row]
        losses.append(-(paid[row] - sum(others) / 3) * logp)
    assert_gradients(trainer, batch, torch.stack(losses).mean())


def test_rloo_clips_whole_answers_and_whitens(bench) -> None:
    trainer, batch = sampled(bench, "rloo", {"whiten": True, "epochs": 2, "clip": 0.05}, update=1)
    advantage = batch["advantage"].flatten()
    assert float(advantage.mean()) == pytest.approx(0, abs=1e-6)
    assert float(advantage.std(correction=0)) == pytest.approx(1, abs=1e-5)
    losses = []
    old = batch["old"].values.split(batch["sequences"].num_labels().tolist())
    with torch.no_grad():
        found = naive(trainer.models["policy"], batch)
    for row, (logps, _) in enumerate(found):
        ratio, a = math.exp(float(logps.sum() - old[row].sum())), float(advantage[row])
        losses.append(max(-a * ratio, -a * min(max(ratio, 0.95), 1.05)))
    assert float(total(trainer, batch)) == pytest.approx(sum(losses) / 16, abs=1e-6)


@pytest.mark.parametrize("loss", ["sigmoid", "ipo", "hinge"])
def test_online_dpo_is_dpo_on_the_same_answers(bench, loss) -> None:
    trainer, batch = sampled(bench, "online-dpo", {"loss": loss, "beta": 0.3})
    other = trainer_of(bench, "dpo", {"loss": loss, "beta": 0.3})
    for role in ("policy", "reference"):
        other.models[role].module.load_state_dict(trainer.models[role].module.state_dict())
    ranks = tuple(tuple(-s for s in row) for row in batch["score"].tolist())
    ranked = type(batch)({"sequences": batch["sequences"], "ranks": ranks, "key": batch["key"]})
    result, expected = other.gradients([ranked])
    own, found = trainer.gradients_of([batch])
    assert float(own.loss) == pytest.approx(float(result.loss), abs=1e-6)
    assert metric(trainer, batch, "no_difference") == 1 / 4 and float(own.loss) != 0
    for name, gradient in expected.items():
        assert (gradient is None) == (found[name] is None) and (
            gradient is None or torch.allclose(found[name], gradient, rtol=0, atol=1e-7)
        ), name


@pytest.mark.parametrize("name", SIBLINGS)
def test_answers_that_all_score_the_same_teach_nothing(bench, name) -> None:
    """grpo and online-dpo: no term counts anything. rloo: what is left is the distance from the reference."""
    trainer = trainer_of(bench, name)
    writes(trainer, [7, 8])
    batch = prepared_batch(trainer)
    result, gradients = trainer.gradients_of([batch])
    own = [grad for grad in gradients.values() if grad is not None]
    assert own and all(bool(grad.isfinite().all()) for grad in (result.loss, *own))
    assert not any(bool((grad.abs() > 1e-12).any()) for grad in own)
    assert result.empty == (name != "rloo")
    if name != "rloo":
        assert metric(trainer, batch, "no_difference") == 1


@pytest.mark.parametrize("name", SIBLINGS)
def test_observations_are_not_learnt(bench, name) -> None:
    trainer = trainer_of(bench, name)
    sampler = trainer.feed.sampler
    assert sampler is not None
    sampler.config = sampler.config.model_copy(update={"max_tokens": 14, "max_turns": 3})
    vars(sampler)["_environment"] = Talk(turns=2)
    writes(trainer, [8, -1], [5, 7, -1], [4, -1], [3, 9, -1])
    batch = prepared_batch(trainer)
    sequences = batch["sequences"]
    assert int(sequences.learn.sum()) == int(sequences.num_labels().sum()) < len(sequences.learn)
    # What the embeddings of an observation's ids are is read, but the ids themselves are no labels.
    outputs = trainer.objective.forward(trainer.models, batch)
    expected = torch.cat([row[0] for row in naive(trainer.models["policy"], batch)])
    assert torch.allclose(outputs["logps"], expected, atol=1e-9)


def test_one_answer_has_no_siblings(bench) -> None:
    for name in SIBLINGS:
        sections = {
            "objective": {"name": name},
            "backbone": {"name": str(bench.model("tiny-gpt2"))},
            "dataset": {},
            "optimizer": {},
            "rollout": {"samples": 1, "rewards": [{"name": "vader"}]},
        }
        with pytest.raises(UsageError, match="compares answers to a prompt") as error:
            make_plan(bench.catalog, sections)
        assert "rollout.samples=4" in error.value.hint


def test_answers_without_a_score_are_compared_with_nothing(bench) -> None:
    """TRL 1.16's GRPOTrainer on rewards of NaN: nanmean and nanstd over a group, then an advantage of 0."""
    from mmalign.ops.policy_gradient import group_relative, leave_one_out

    nan = math.nan
    rewards = torch.tensor([[1.0, nan, 3.0, 2.5], [nan, nan, 4.0, nan], [2.0, 2.0, nan, 2.0], [1.0, 2.0, 3.0, 4.0]])
    has, given = ~rewards.isnan(), rewards.nan_to_num(0.0)
    centred = rewards - rewards.nanmean(1, keepdim=True)
    count = has.sum(1, keepdim=True)
    std = (centred.square().nanmean(1, keepdim=True) * count / (count - 1)).sqrt()
    expected = (centred / (std + 1e-4)).nan_to_num(0.0)
    assert torch.allclose(group_relative(given, scale=True, scored=has), expected, atol=1e-6)
    assert torch.allclose(group_relative(given, scale=False, scored=has), centred.nan_to_num(0.0), atol=1e-6)
    for row in range(4):
        for k in range(4):
            others = [float(rewards[row, j]) for j in range(4) if j != k and has[row, j]]
            alone = not others or not has[row, k]
            value = 0.0 if alone else float(rewards[row, k]) - sum(others) / len(others)
            assert float(leave_one_out(given, has)[row, k]) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("name", SIBLINGS)
def test_answers_without_a_score_leave_the_gradient_alone(bench, name) -> None:
    """Whatever number stands in for a score that there is not, and the answer itself: nothing is learnt of it."""
    trainer = trainer_of(bench, name)
    writes(trainer, *ANSWERED)
    reward = trainer.feed.sampler._rewards._rewards[0][1]
    plain, gone = type(reward).score, {1, 6}
    found = []
    for stand_in in (None, 0.0):

        def score(self, answers, stand_in=stand_in):
            values = [float(value) for value in plain(self, answers)]
            return [stand_in if row in gone else value for row, value in enumerate(values)]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(reward), "score", score)
            batch = prepared_batch(trainer)
        found.append(batch)
    batch, other = found
    assert batch["unscored"].flatten().nonzero().flatten().tolist() == sorted(gone) and "unscored" not in other
    assert metric(trainer, batch, "score") == pytest.approx((float(batch["score"].sum())) / (16 - len(gone)), abs=1e-6)
    if name != "online-dpo":
        assert batch["advantage"].flatten()[[1, 6]].tolist() == [0.0, 0.0]
    assert not torch.equal(total(trainer, batch), total(trainer, other))
