"""What the tests of online objectives share: trainers whose policy has moved, written answers, and slow passes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmalign.contract.batch import Batch
from mmalign.language.sampling import Generated
from mmalign.rl.environment import Turn
from mmalign.testing.bench import Workbench
from mmalign.testing.trainer import Trainer, build_trainer
from mmalign.train.step import total_loss

MODEL = "tiny-gpt2"


def trainer_of(bench: Workbench, name: str, options: dict[str, Any] | None = None, **how: Any) -> Trainer:
    """In float64, four prompts; the policy and the critic have moved away from where they started."""
    entry = bench.catalog.find("objectives", name)
    return move(build_trainer(entry, MODEL, bench, size=how.pop("size", 4), options=options or {}, **how), 0.02)


def move(trainer: Trainer, size: float, seed: int = 0) -> Trainer:
    """Every trained parameter by noise."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in trainer.models.trainable():
            parameter += size * torch.randn(parameter.shape, generator=generator).to(parameter)
    return trainer


def writes(trainer: Trainer, *answers: Sequence[int]) -> None:
    """From now on the policy writes these ids, one answer after the other; -1 is the end token."""
    policy = trainer.models["policy"]
    end = policy.processor.end_id
    rows = [[end if token == -1 else token for token in answer] for answer in answers]

    def generate(prompts: Sequence[Tensor], sampling: Any, seeds: Sequence[int], on_token: Any = None) -> Generated:
        given = [rows[row % len(rows)] for row in range(len(prompts))]
        ids = [torch.tensor(row, dtype=torch.int64)[: sampling.max_tokens] for row in given]
        return Generated(ids, [torch.zeros(len(row)) for row in ids], [bool(len(r)) and r[-1] == end for r in ids])

    policy.generate = generate


class Talk:
    """An environment host of its own: says `said` after each action, pays 1, 2, ... and is done after `turns`."""

    def __init__(self, turns: int, said: str = " a red car") -> None:
        self.turns, self.said = turns, said

    def begin(self, examples: Sequence[Any], seeds: Sequence[int]) -> list["Talker"]:
        return [Talker(self, example.prompt) for example in examples]


class Talker:
    def __init__(self, talk: Talk, prompt: str) -> None:
        self.talk, self.prompt, self.told = talk, prompt, 0

    def step(self, action: str) -> Turn:
        self.told += 1
        return Turn(self.talk.said, float(self.told), self.told >= self.talk.turns)


def prepared_batch(trainer: Trainer) -> Batch:
    return trainer.prepare(trainer.batches)[0]


def naive(backbone: Any, batch: Batch, temperature: float = 1.0, head: Any = None) -> list[tuple[Tensor, Tensor]]:
    """(logps, values) of the action tokens of each answer: with its prompt alone through transformers' model.

    values: of the state that each action is taken in, and one more, of the state behind the last.
    """
    sequences, found = batch["sequences"], []
    prompts = sequences.prompts.rows()
    learns = sequences.learn.split(sequences.answers.lengths.tolist())
    for owner, answer, learn in zip(sequences.owner.tolist(), sequences.answers.rows(), learns, strict=True):
        row = torch.cat([prompts[owner], answer])
        out = backbone.module(input_ids=row[None], output_hidden_states=True)
        logps = (out.logits[0, :-1] / temperature).log_softmax(-1).gather(1, row[1:, None])[:, 0]
        first = len(prompts[owner]) - 1
        states = out.hidden_states[-1][0, first:]
        values = head(states)[:, 0] if head is not None else states.new_zeros(len(states))
        places = torch.cat([learn, torch.tensor([True])])
        found.append((logps[first:][learn], values[places]))
    return found


def total(trainer: Trainer, batch: Batch) -> Tensor:
    """The weighted loss of one batch."""
    objective = trainer.objective
    sums, _ = objective.loss(objective.forward(trainer.models, batch), batch)
    return total_loss(sums, objective.count(batch), objective.weights)[0].detach()


def metric(trainer: Trainer, batch: Batch, name: str) -> float:
    sums = trainer.objective.loss(trainer.objective.forward(trainer.models, batch), batch)[1][name]
    return float(sums[0]) / float(sums[1])


def assert_gradients(trainer: Trainer, batch: Batch, loss: Tensor) -> None:
    """Of one update, in uneven micro-batches, are those of `loss`."""
    named = trainer.models.trainable()
    expected = torch.autograd.grad(loss, [parameter for _, parameter in named])
    _, found = trainer.gradients_of([batch], 3)
    for (name, _), gradient in zip(named, expected, strict=True):
        ours = found[name]
        assert ours is not None and torch.allclose(ours, gradient, rtol=0, atol=1e-7), name
