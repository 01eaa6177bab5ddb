"""PPO's experience and losses against a slow twin, token by token from the formula."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from mmalign_objectives.ppo import PolicyPhase, ValuePhase

from mmalign.contract.batch import Ragged
from mmalign.language.sampling import Sampling
from mmalign.testing.trainer import ANSWER_TOKENS
from mmalign.train.step import StepModule
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

# Of 4 x 4 answers: two alike, an empty one, some without an end, one that ends with its last token.
ANSWERED = ([7, 8, 9, 11], [8, -1], [-1], [4, 6, 8, -1], [5, 7, -1], [7, 8, 9, 11], [9])
OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "k2": {"kl_estimator": "k2", "kl_coef": 0.3},
    "k3, not whitened": {"kl_estimator": "k3", "kl_coef": 0.3, "whiten": False},
    "discounted, fined": {"gamma": 0.9, "lam": 0.7, "missing_end_penalty": 0.5, "whiten": False},
    "lambda 1": {"lam": 1.0, "whiten": False},
    "scaled and clipped": {"scale_scores": True, "clip_scores": 1.5, "whiten": False},
    "steered": {"kl_target": 0.5, "kl_coef": 0.2, "kl_horizon": 20.0},
    "openai": {"openai_eos": True, "gamma": 0.9, "lam": 0.8, "whiten": False},
}


def twin(trainer: Any, batch: Any, beta: float, moments: list[float]) -> dict[str, list[list[float]]]:
    """By loops, from the answers of a prepared batch. moments: scores seen so far, which get this batch's."""
    config, temperature = trainer.objective.config, trainer.objective.sampling.temperature
    with torch.no_grad():
        policy = naive(trainer.models["policy"], batch, temperature, trainer.models.head("critic"))
        reference = naive(trainer.models["reference"], batch, temperature)
    scores, ended = batch["score"].flatten().tolist(), batch["ended"].flatten().tolist()
    moments += scores
    mean = sum(moments) / len(moments)
    deviation = math.sqrt(sum((score - mean) ** 2 for score in moments) / len(moments))
    found: dict[str, list[list[float]]] = {"advantages": [], "returns": [], "old": [], "values": []}
    for row, (logps, values) in enumerate(policy):
        given, other = logps.tolist(), reference[row][0].tolist()
        score = scores[row] / deviation if config.scale_scores else scores[row]
        score = max(-config.clip_scores, min(config.clip_scores, score)) if config.clip_scores else score
        score -= 0.0 if ended[row] else config.missing_end_penalty
        d = [p - q for p, q in zip(given, other, strict=True)]
        kl = {"k1": d, "k2": [x * x / 2 for x in d], "k3": [math.exp(-x) - 1 + x for x in d]}[config.kl_estimator]
        rewards, v = [-beta * x for x in kl], values.tolist()[:-1]
        if config.openai_eos and ended[row] and len(given) < ANSWER_TOKENS:
            rewards.append(score)
            v.append(float(values[-1]))
        else:
            rewards[-1] += score
        advantages = [0.0] * len(v)
        for t in reversed(range(len(v))):
            last = t + 1 == len(v)
            next_value, next_advantage = (0.0, 0.0) if last else (v[t + 1], advantages[t + 1])
            advantages[t] = rewards[t] + config.gamma * next_value - v[t] + config.gamma * config.lam * next_advantage
        actions = len(given)
        found["returns"].append([a + b for a, b in zip(advantages, v, strict=True)][:actions])
        found["advantages"].append(advantages[:actions])
        found["old"].append(given)
        found["values"].append(v[:actions])
    if config.whiten:
        flat = [a for row in found["advantages"] for a in row]
        centre = sum(flat) / len(flat)
        spread = math.sqrt(sum((a - centre) ** 2 for a in flat) / len(flat) + 1e-8)
        found["advantages"] = [[(a - centre) / spread for a in row] for row in found["advantages"]]
    return found


@pytest.mark.parametrize("name", OPTIONS)
def test_experience_is_the_twins(bench, name) -> None:
    """Of two batches: what is kept between them counts too."""
    trainer = trainer_of(bench, "ppo", OPTIONS[name])
    trainer.objective.sampling = Sampling(ANSWER_TOKENS, 0.7)
    writes(trainer, *ANSWERED)
    config, beta, moments = trainer.objective.config, trainer.objective.config.kl_coef, list[float]()
    for _ in range(2):
        batch = prepared_batch(trainer)
        for column, expected in twin(trainer, batch, beta, moments).items():
            flat = torch.tensor([value for row in expected for value in row], dtype=torch.float64)
            assert torch.allclose(batch[column].values, flat, rtol=0, atol=1e-6), column
        distance = float(batch["kl"].mean())
        assert batch["kl"].abs().min() > 1e-4, "the policy has moved"
        if config.kl_target:
            error = max(-0.2, min(0.2, distance / config.kl_target - 1))
            beta *= 1 + error * batch["kl"].numel() / config.kl_horizon
            assert error and trainer.objective.state["beta"] == pytest.approx(beta, rel=1e-9)
        writes(trainer, *ANSWERED[2:])
    assert trainer.objective.state["beta"] == pytest.approx(beta, rel=1e-9)


def test_scores_are_the_share_of_even_ids_and_an_empty_answer_is_one_token(bench) -> None:
    trainer = trainer_of(bench, "ppo")
    writes(trainer, *ANSWERED)
    batch, end = prepared_batch(trainer), trainer.models["policy"].processor.end_id
    for row, answer in enumerate(batch["sequences"].answers.rows()):
        ids = [end if token == -1 else token for token in ANSWERED[row % len(ANSWERED)]]
        assert answer.tolist() == ids
        share = sum(token % 2 == 0 for token in ids) / len(ids)
        assert float(batch["score"].flatten()[row]) == pytest.approx(share, abs=1e-6)
    empty = sum(ANSWERED[row % len(ANSWERED)] == [-1] for row in range(16))
    assert metric(trainer, batch, "empty") == pytest.approx(empty / 16) and empty
    assert metric(trainer, batch, "length") == pytest.approx(sum(len(ANSWERED[row % 7]) for row in range(16)) / 16)


def test_losses_are_the_loops(bench) -> None:
    """After the policy moved on from what was noted: clipped ratios, clipped values, the entropy."""
    trainer = trainer_of(bench, "ppo", {"entropy_coef": 0.01, "value_coef": 0.3, "value_clip": 0.05, "clip": 0.1})
    writes(trainer, *ANSWERED)
    batch = prepared_batch(trainer)
    move(trainer, 0.02, seed=1)
    batch = batch.with_columns(update=torch.ones(4, dtype=torch.int64))
    with torch.no_grad():
        found = naive(trainer.models["policy"], batch, head=trainer.models.head("critic"))
    logps = torch.cat([row[0] for row in found]).tolist()
    values = torch.cat([row[1][:-1] for row in found]).tolist()
    policy = value = 0.0
    clipped = 0
    for t, (logp, v) in enumerate(zip(logps, values, strict=True)):
        old, a, r, o = (float(batch[name].values[t]) for name in ("old", "advantages", "returns", "values"))
        ratio = math.exp(logp - old)
        held = min(max(ratio, 0.9), 1.1)
        clipped += -a * held > -a * ratio
        policy += max(-a * ratio, -a * held)
        near = min(max(v, o - 0.05), o + 0.05)
        value += max((v - r) ** 2, (near - r) ** 2) / 2
    entropy, policy_module = 0.0, trainer.models["policy"].module
    sequences = batch["sequences"]
    for owner, answer in zip(sequences.owner.tolist(), sequences.answers.rows(), strict=True):
        row = torch.cat([sequences.prompts.rows()[owner], answer])
        with torch.no_grad():
            logits = policy_module(input_ids=row[None]).logits[0, -1 - len(answer) : -1].log_softmax(-1)
        entropy += float(-(logits.exp() * logits).sum())
    expected = (policy + 0.3 * value - 0.01 * entropy) / len(logps)
    assert 0 < clipped < len(logps)
    assert metric(trainer, batch, "clipped") == pytest.approx(clipped / len(logps))
    assert float(total(trainer, batch)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("update", [0, 1])
def test_gradients_are_autograds_on_the_formula(bench, update) -> None:
    """At a temperature; nothing but new log-probabilities and values carries a gradient."""
    trainer = trainer_of(bench, "ppo", {"value_coef": 0.3, "value_clip": 0.05, "clip": 0.02})
    trainer.objective.sampling = Sampling(ANSWER_TOKENS, 0.7)
    writes(trainer, *ANSWERED)
    batch = prepared_batch(trainer)
    if update:
        move(trainer, 0.02, seed=1)
    batch = batch.with_columns(update=torch.full((4,), update))
    found = naive(trainer.models["policy"], batch, 0.7, trainer.models.head("critic"))
    logps, values = torch.cat([row[0] for row in found]), torch.cat([row[1][:-1] for row in found])
    noted, a, r, o = (batch[name].values for name in ("old", "advantages", "returns", "values"))
    ratio = (logps - (noted if update else logps.detach())).exp()
    policy = torch.where(a > 0, -a * ratio.clamp(max=1.02), -a * ratio.clamp(min=0.98)).mean()
    near = o + (values - o).clamp(-0.05, 0.05)
    assert bool((near != values).any()) == bool((ratio - 1).abs().max() > 0.02) == bool(update)
    value = torch.maximum((values - r).square(), (near - r).square()).mean() / 2
    assert_gradients(trainer, batch, policy + 0.3 * value)


def test_the_value_behind_an_end_is_learnt_with_openai_eos(bench) -> None:
    trainer = trainer_of(bench, "ppo", {"openai_eos": True, "value_clip": 0.0})
    writes(trainer, *ANSWERED)
    batch = prepared_batch(trainer)
    with torch.no_grad():
        found = naive(trainer.models["policy"], batch, head=trainer.models.head("critic"))
    ended, scores = batch["ended"].flatten().tolist(), batch["score"].flatten().tolist()
    errors = [(float(v) - float(r)) ** 2 for v, r in zip(batch["values"].values, batch["returns"].values, strict=True)]
    more = [row for row in range(16) if ended[row] and len(found[row][0]) < ANSWER_TOKENS]
    errors += [(float(found[row][1][-1]) - scores[row]) ** 2 for row in more]
    with torch.no_grad():
        sums, _ = trainer.objective.loss(trainer.objective.forward(trainer.models, batch), batch)
    assert 0 < len(more) < sum(ended) and trainer.objective.count(batch)["value"] == len(errors)
    assert float(sums["value"]) == pytest.approx(sum(errors) / 2, abs=1e-6)


@pytest.mark.parametrize("options", [{}, {"openai_eos": True, "entropy_coef": 0.01}, {"ptx_coef": 0.5}])
def test_a_critic_with_a_pass_of_its_own_learns_when_the_policy_has(bench, options) -> None:
    """The same gradients to the bit as of one loss, and no activation of the policy's is kept for the critic's pass."""
    trainer = trainer_of(bench, "ppo", {"critic": {"kind": "copy"}, **options})
    main, *others = trainer.prepare(trainer.batches)
    move(trainer, 0.02, seed=1)
    batches = [main.with_columns(update=torch.ones(len(main), dtype=torch.int64)), *others]
    learnt: list[bool] = []
    policy, critic = (list(trainer.models[role].module.parameters()) for role in ("policy", "critic"))
    watch = (
        trainer.models["critic"]
        .module.get_input_embeddings()
        .register_forward_pre_hook(
            lambda *_: learnt.append(all(p.grad is not None for p in policy) and critic[0].grad is None)
        )
    )
    assert [type(phase) for phase in trainer.engine.of(main)] == [PolicyPhase, ValuePhase]
    apart, found = trainer.gradients_of(batches, len(main))
    assert learnt == [True]
    watch.remove()
    whole = {**trainer.engine.phases, "main": (trainer.objective,)}
    trainer.engine = dataclasses.replace(trainer.engine, phases=whole, forward=StepModule(whole, trainer.models))
    together, expected = trainer.gradients_of(batches, len(main))
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items() if gradient is not None)
    assert all(found[name] is None for name, gradient in expected.items() if gradient is None)
    assert apart.terms == together.terms and apart.metrics == together.metrics
    assert float(apart.loss) == pytest.approx(float(together.loss), abs=1e-7)


def test_explained_variance_is_of_the_global_batch_however_it_is_split(bench) -> None:
    trainer = trainer_of(bench, "ppo")
    batch = prepared_batch(trainer)
    returns, errors = batch["returns"].values, batch["returns"].values - batch["values"].values
    expected = 1 - float(errors.square().mean() / returns.var(correction=0))
    for size in (4, 1):
        result, _ = trainer.gradients_of([batch], size)
        above, below = result.metrics["explained_variance"]
        assert float(above) / float(below) == pytest.approx(expected, rel=1e-5)


def test_scores_that_never_differed_have_no_scale(bench) -> None:
    trainer = trainer_of(bench, "ppo", {"scale_scores": True, "kl_coef": 0.0, "lam": 1.0, "whiten": False})
    writes(trainer, [8, 6, -1])
    batch = prepared_batch(trainer)
    assert torch.allclose(batch["returns"].values, batch["score"][0, 0].double(), atol=1e-6)
    result, gradients = trainer.gradients_of([batch])
    assert all(bool(grad.isfinite().all()) for grad in (result.loss, *gradients.values()) if grad is not None)


def test_pretraining_gradients_are_those_of_pretrain_times_the_coefficient(bench) -> None:
    mixed = trainer_of(bench, "ppo", {"ptx_coef": 2.5})
    main, ptx = mixed.prepare(mixed.batches)
    assert ptx.stream == "ptx"
    both, found = mixed.gradients_of([main, ptx])
    alone, without = mixed.gradients_of([main])
    text = trainer_of(bench, "pretrain")
    text.models["policy"].module.load_state_dict(mixed.models["policy"].module.state_dict())
    other, expected = text.gradients([ptx.of_stream("main")])
    assert float(both.terms["ptx"]) == pytest.approx(float(other.loss), rel=1e-9)
    assert float(both.loss) == pytest.approx(float(alone.loss) + 2.5 * float(other.loss), rel=1e-9)
    for name, gradient in expected.items():
        whole = (0 if without[name] is None else without[name]) + 2.5 * gradient
        assert torch.allclose(found[name], whole, atol=1e-9), name
    assert torch.equal(found["critic_head.weight"], without["critic_head.weight"])


def test_observations_have_no_advantage_and_no_gradient(bench) -> None:
    """Rewards of turns sit on the last tokens of their actions, and the recursion steps over what was observed."""
    trainer = trainer_of(bench, "ppo", {"lam": 0.5, "kl_coef": 0.0, "whiten": False})
    sampler = trainer.feed.sampler
    assert sampler is not None
    sampler.config = sampler.config.model_copy(update={"max_tokens": 14, "max_turns": 3})
    trainer.objective.sampling = sampler.config.sampling
    vars(sampler)["_environment"] = Talk(turns=2)
    writes(trainer, [8, -1], [5, 7, -1])
    batch = prepared_batch(trainer)
    sequences = batch["sequences"]
    learns = sequences.learn.split(sequences.answers.lengths.tolist())
    rewards = batch["token_rewards"].values.split(sequences.num_labels().tolist())
    values = batch["values"].values.split(sequences.num_labels().tolist())
    shares = batch["reward even-tokens"].flatten().tolist()
    firsts = batch["advantages"].values.split(sequences.num_labels().tolist())
    for row, (learn, given, value, advantage) in enumerate(zip(learns, rewards, values, firsts, strict=True)):
        action = 2 if row % 2 == 0 else 3  # written once in each turn
        said = len(learn) - 2 * action
        assert said > 0 and learn.tolist() == [True] * action + [False] * said + [True] * action
        expected = [0.0] * (2 * action)
        expected[action - 1], expected[-1] = 1.0, 2.0 + shares[row]
        assert given.tolist() == pytest.approx(expected)
        # Over the observation the recursion goes from action to action.
        t = action - 1
        delta = expected[t] + float(value[t + 1]) - float(value[t])
        assert float(advantage[t]) == pytest.approx(delta + 0.5 * float(advantage[t + 1]), abs=1e-6)
    logps = trainer.objective.forward(trainer.models, batch)["logps"]
    assert len(logps) == int(sequences.is_label.sum()) == len(batch["advantages"].values)


def test_a_column_of_numbers_is_no_tokens() -> None:
    assert Ragged.from_list([torch.ones(3)]).num_tokens() == 0
    assert Ragged.from_list([torch.ones(3, dtype=torch.int64)]).num_tokens() == 3
