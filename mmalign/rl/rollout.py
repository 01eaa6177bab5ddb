"""The policy answers prompts, and rewards score the answers: what `ctx.rollout` of an online objective does.

    sampler = Sampler(config, processor, rewards)
    batch = sampler.sample(policy, prompts, seed=ctx.seed, answers=4)
    batch["sequences"], batch["score"]           # N prompts with K answers each; [N, K]

Answer k to prompt n is drawn with numbers that depend on (seed, step, n, k) and the token's place alone: neither on
what else is in the batch, nor on processes, nor on when other answers end.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from mmalign.data.batch import Batch
from mmalign.data.sequences import Sequences
from mmalign.rl.answers import Answers
from mmalign.rl.columns import REWARD, answer_offsets, per_prompt

if TYPE_CHECKING:
    from mmalign.protocols import AnswersProcessor, Generates
    from mmalign.rl.rewards import RewardList
    from mmalign.train.config import RolloutConfig


class Sampler:
    """`seconds`: since the last `take_seconds`, by what they went into."""

    def __init__(self, config: "RolloutConfig", processor: "AnswersProcessor", rewards: "RewardList") -> None:
        self.config, self._processor, self._rewards = config, processor, rewards
        self._seconds: dict[str, float] = {}

    def sample(self, policy: "Generates", batch: Batch, seed: Callable[[int], int], answers: int) -> Batch:
        """batch: of kind `prompt`. Adds, for K = `answers`:

        sequences: the prompts with K answers each; score: [N, K], the weighted sum of rewards; token_rewards: ragged,
        the same at the action tokens that they are for; ended: [N, K] bool, the end token came; sampler_logps: ragged,
        of each token as it was drawn; written: N tuples of K texts; and "reward NAME": [N, K] for each reward.
        """
        prompts = batch["sequences"].prompts.rows()
        with self._clock("rollout"):
            repeated = [prompt for prompt in prompts for _ in range(answers)]
            generated = policy.generate(repeated, self.config.sampling, [seed(row) for row in range(len(repeated))])
        device = batch.device
        groups = [generated.ids[row : row + answers] for row in range(0, len(repeated), answers)]
        sequences = Sequences.from_lists(
            [prompt.cpu() for prompt in prompts], [[ids.cpu() for ids in group] for group in groups]
        )
        texts = [
            self._processor.decode(ids[: len(ids) - ended])
            for ids, ended in zip(generated.ids, generated.ended, strict=True)
        ]
        with self._clock("scoring"):
            scores = self._rewards.score(self._answers(batch, sequences, texts, generated.ended, answers))
        shape = (len(batch), answers)
        last = answer_offsets(sequences)[1:] - 1
        placed = torch.zeros(int(sequences.num_labels().sum())).index_add(0, last, scores.total)
        logps = torch.cat([row.cpu() for row in generated.logps]) if generated.logps else torch.zeros(0)
        return batch.with_columns(
            sequences=sequences.to(device),
            score=scores.total.view(shape).to(device),
            ended=torch.tensor(generated.ended, dtype=torch.bool).view(shape).to(device),
            token_rewards=per_prompt(placed, sequences).to(device),
            sampler_logps=per_prompt(logps, sequences).to(device),
            written=tuple(tuple(texts[row : row + answers]) for row in range(0, len(texts), answers)),
            **{f"{REWARD}{name}": part.view(shape).to(device) for name, part in scores.parts.items()},
        )

    def take_seconds(self) -> dict[str, float]:
        """Seconds in rollout and scoring since the last call."""
        found, self._seconds = self._seconds, {}
        return found

    def _answers(self, batch: Batch, sequences: Sequences, texts: list[str], ended: list[bool], each: int) -> Answers:
        def repeat(name: str) -> tuple[Any, ...]:
            return tuple(value for value in batch[name] for _ in range(each))

        return Answers(
            keys=repeat("key"),
            prompts=repeat("prompt"),
            texts=tuple(texts),
            solutions=repeat("solution"),
            ended=tuple(ended),
            sequences=sequences,
            processor=self._processor,
        )

    @contextmanager
    def _clock(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - began
