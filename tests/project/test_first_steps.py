"""Each recipe's weights and first loss, and that a few steps on one batch lower it: its own options, tiny batches.

The first loss is known before anything is learnt: ln V of a model with random weights, ln 2 of two answers that nothing
tells apart, one half in KTO. Where the starting model already has an opinion, its log-probabilities come from
transformers' own forward, one answer at a time, and the paper's formula follows in plain torch.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy, logsigmoid, normalize

from mmalign.contract.batch import Batch
from mmalign.language.sequences import Sequences
from mmalign.registry.catalog import Catalog
from mmalign.train.build import Job, assemble
from mmalign.train.distributed import Processes
from mmalign.train.layers import load_layers, recipe_path
from mmalign.train.plan import make_plan
from mmalign.train.step import StepResult, accumulate
from tests.recipes.floors import OBJECTIVES

SMALL = {
    "train.batch_size": 8, "train.learning_rate": 1e-3, "train.frozen_roles": "copy", "data.num_workers": 0,
}  # fmt: skip
RANKINGS = {"train.batch_size": 2, "dataset.answers": 6, "dataset.rounds": 1}
SAMPLED = {"train.batch_size": 2, "rollout.samples": 4, "rollout.max_tokens": 12}
SMALLER = {
    "dpo": RANKINGS,
    "reward": RANKINGS,
    "ppo": {**SAMPLED, "objective.epochs": 1, "objective.minibatches": 1},
    "grpo": SAMPLED,
    "rloo": SAMPLED,
    "online-dpo": SAMPLED,
}
STEPS = 3


def assembled(catalog: Catalog, objective: str, **more: Any) -> Job:
    options = {**SMALL, **SMALLER.get(objective, {}), **more}
    sets = [f"{name}={value}" for name, value in options.items()]
    layers = load_layers(recipe=recipe_path(objective), sets=sets, names={"objective": objective})
    return assemble(make_plan(catalog, layers), Processes("cpu"))


def first_batch(job: Job) -> Batch:
    stream = job.stream(start_step=0)
    try:
        return next(iter(stream))[1]
    finally:
        stream.close()


def steps(job: Job, batch: Batch) -> Iterator[StepResult]:
    """Learn from one prepared batch again and again."""
    prepared = job.prepare(0, batch)
    (parts,) = job.updates(0, prepared, {})
    while True:
        job.optimizer.zero_grad()
        yield accumulate(job.engine, parts)
        job.optimizer.step()


# What the first loss must be -----------------------------------------------------------------------------------------


@torch.no_grad()
def naive_logps(job: Job, sequences: Sequences) -> list[torch.Tensor]:
    """[T] of each answer in nats; the first token of a text without a prompt is given."""
    module, prompts, logps = job.models["policy"].module, sequences.prompts.rows(), []
    for owner, answer in zip(sequences.owner.tolist(), sequences.answers.rows(), strict=True):
        row = torch.cat([prompts[owner], answer])
        every = module(input_ids=row[None]).logits[0].log_softmax(-1)[:-1].gather(1, row[1:, None])[:, 0]
        logps.append(every[-len(answer) :])
    return logps


def likelihood(job: Job, batch: Batch) -> float:
    sequences = batch["sequences"] if "sequences" in batch else Sequences.documents(batch["text"])
    return -float(torch.cat(naive_logps(job, sequences)).mean())


def pairs(job: Job, batch: Batch) -> tuple[Any, torch.Tensor, torch.Tensor, float]:
    """The objective's options; [N, 2] sums and means over tokens, chosen and rejected; the chosen ones' likelihood."""
    logps = naive_logps(job, batch["sequences"])
    sums, means = (torch.stack([function(one) for one in logps]).view(-1, 2) for function in (torch.sum, torch.mean))
    return job.plan.configs["objective"], sums, means, -float(torch.cat(logps[::2]).mean())


def simpo(job: Job, batch: Batch) -> float:
    config, _, means, _ = pairs(job, batch)
    return -float(logsigmoid(config.beta * (means[:, 0] - means[:, 1]) - config.gamma).mean())


def cpo(job: Job, batch: Batch) -> float:
    config, sums, _, nll = pairs(job, batch)
    return -float(logsigmoid(config.beta * (sums[:, 0] - sums[:, 1])).mean()) + config.alpha * nll


def orpo(job: Job, batch: Batch) -> float:
    config, _, means, nll = pairs(job, batch)
    odds = means - torch.log1p(-means.exp())
    return nll - config.odds_weight * float(logsigmoid(odds[:, 0] - odds[:, 1]).mean())


def zero_head(job: Job) -> None:
    """A head that prefers no class and no answer."""
    job.models.head("policy").weight.data.zero_()


def reward(job: Job, batch: Batch) -> float:
    zero_head(job)
    return math.log(2)


def classify(job: Job, batch: Batch) -> float:
    zero_head(job)
    return math.log(2) + job.plan.configs["objective"].language_weight * likelihood(job, batch)


@torch.no_grad()
def contrastive(job: Job, batch: Batch) -> float:
    """Symmetric cross-entropy over the cosines; no caption stands twice in this batch."""
    assert len(set(batch["caption"])) == len(batch)
    policy = job.models["policy"]
    image, text = (normalize(one) for one in (policy.encode_image(batch["image"]), policy.encode_text(batch["text"])))
    scores, labels = policy.contrastive_head().log_scale.exp() * image @ text.T, torch.arange(len(batch))
    return float(cross_entropy(scores, labels) + cross_entropy(scores.T, labels)) / 2


EXPECTED: dict[str, Callable[[Job, Batch], float]] = {
    "contrastive": contrastive,
    "pretrain": likelihood,
    "sft": likelihood,
    "classify": classify,
    "reward": reward,
    "dpo": lambda job, batch: math.log(2),
    "online-dpo": lambda job, batch: math.log(2),
    "kto": lambda job, batch: 0.5,
    "simpo": simpo,
    "orpo": orpo,
    "cpo": cpo,
}
DIRECTIONS = {"ppo", "grpo", "rloo"}  # their loss is a direction to go, of no meaning as a number


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_first_loss_is_right_and_steps_lower_it(objective: str, catalog: Catalog) -> None:
    job = assembled(catalog, objective)
    assert {parameter.dtype for parameter in job.models["policy"].module.parameters()} == {torch.float32}
    batch = first_batch(job)
    job.models.eval()
    expected = math.nan if objective in DIRECTIONS else EXPECTED[objective](job, batch)
    first, *later = itertools.islice(steps(job, batch), 1 + STEPS)
    if "kl" in first.metrics:
        distance, answers = first.metrics["kl"]
        assert abs(float(distance / answers)) < 1e-3  # the policy is the reference still
    if objective in DIRECTIONS:
        assert float(first.metrics["clipped"][0]) == 0
        return
    assert float(first.loss) == pytest.approx(expected, rel=1e-4)
    assert float(later[-1].loss) < expected - 0.01


HALVES = {"backbone.name": "gpt-mini", "backbone.random_weights": "true"}  # its config says float16


@pytest.mark.parametrize("backbone", [{}, HALVES], ids=["the recipe's", "of a config in float16"])
def test_random_weights_guess_at_first_and_learn(catalog: Catalog, backbone: dict[str, str]) -> None:
    """ln V nats a token: guesses that are no better than that, and no surer."""
    job = assembled(catalog, "pretrain", **backbone)
    assert {parameter.dtype for parameter in job.models["policy"].module.parameters()} == {torch.float32}
    vocabulary = job.models["policy"].describe()["vocabulary_size"]
    first, *later = itertools.islice(steps(job, first_batch(job)), 1 + STEPS)
    assert float(first.loss) == pytest.approx(math.log(vocabulary), rel=0.02)
    assert float(later[-1].loss) < float(first.loss) - 0.3
