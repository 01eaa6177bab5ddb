"""The policy answers prompts, and rewards score the answers: what an online objective's `prepare` then learns from.

    sampler = Sampler(config, processor, rewards)
    batch = sampler.answered(policy, prompts, ctx, answers=4)
    batch["sequences"], batch["score"]           # N prompts with K answers each; [N, K]

Answer k to prompt n is drawn with numbers that depend on (seed, step, n, k) and the token's place alone: neither on
what else is in the batch, nor on processes, nor on when other answers end.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

from mmalign.contract.batch import Batch
from mmalign.contract.examples import Prompt
from mmalign.language.sequences import Sequences
from mmalign.rl.answers import Answers
from mmalign.rl.engines import find as find_engine
from mmalign.rl.environment_host import find as find_environment
from mmalign.rl.episodes import Episode, Policy, play, tally
from mmalign.rl.rewards import RewardList, check_rewards
from mmalign.rl.rollout_batch import OTHER_SAMPLER, REWARD, UNSCORED, answer_offsets, per_prompt

if TYPE_CHECKING:
    from torch import Tensor

    from mmalign.contract.objective import Context
    from mmalign.language.protocols import AnswersProcessor
    from mmalign.registry.catalog import Catalog
    from mmalign.rl.config import RolloutConfig
    from mmalign.rl.engines import Engine
    from mmalign.rl.environment_host import EnvironmentHost, Started


class Sampler:
    """rewards score what the policy writes, in the last turn where an environment replies to it; what the environment
    pays is added. engine: what draws in the policy's place. counts: of the last batch's episodes, such as those that an
    environment never ended."""

    def __init__(
        self,
        config: "RolloutConfig",
        processor: "AnswersProcessor",
        rewards: RewardList,
        environment: "EnvironmentHost | None" = None,
        engine: "Engine | None" = None,
    ) -> None:
        self.config, self._processor, self._rewards = config, processor, rewards
        self._environment, self._engine = environment, engine
        self._seconds: dict[str, float] = {}
        self.counts: dict[str, int] = {}

    def answered(self, policy: Policy, batch: Batch, ctx: "Context", answers: int) -> Batch:
        """What an online objective's `prepare` gets: `batch` with so many answers to each prompt, sampled with seeds of
        the context, and their scores (`sample`). Batches of other streams stay as they are."""
        if batch.stream != "main":
            return batch
        return ctx.guard(lambda: self.sample(policy, batch, lambda n: ctx.seed(*divmod(n, answers)), answers))

    def sample(self, policy: Policy, batch: Batch, seed: Callable[[int], int], answers: int) -> Batch:
        """batch: of kind `prompt`. Adds, for K = `answers`:

        sequences: the prompts with K answers each; score: [N, K], what an answer earns in all; token_rewards: ragged,
        the same at the action tokens that it is for; ended: [N, K] bool, the end token came; sampler_logps: ragged, of
        each token as it was drawn; written: N tuples of K texts; and "reward NAME": [N, K] for each reward, NaN where
        it gave None. Where an engine drew that is not exact, "other sampler": [N] bool too; where every reward
        that weighs gave None for an answer and no environment paid, "unscored": [N, K] bool.
        """
        device, seeds, self.counts = batch.device, [seed(row) for row in range(len(batch) * answers)], {}
        engine = self._engine
        with self._clock("rollout"), nullcontext(policy) if engine is None else engine.on(policy) as writer:
            prompts, environments = self._prompts(batch, seeds, answers)
            repeated = [prompt for prompt in prompts for _ in range(answers)]
            turns = self.config.max_turns if environments else 1
            chats = [not isinstance(environment.prompt, str) for environment in environments]
            episodes = play(writer, repeated, environments, self.config.sampling, seeds, turns, chats)
        self.counts |= tally(episodes)
        groups = [episodes[row : row + answers] for row in range(0, len(episodes), answers)]
        sequences = Sequences.from_lists(
            [prompt.cpu() for prompt in prompts],
            [[episode.ids for episode in group] for group in groups],
            [[episode.learn for episode in group] for group in groups],
        )
        # In the rewards' own precision, whatever the policy's passes are in.
        with self._clock("scoring"), torch.autocast(device.type, enabled=False):
            scores = self._rewards.score(self._answers(batch, sequences, episodes, answers))
        placed = _place(scores.total, episodes, sequences)
        shape = (len(batch), answers)
        exact = engine is None or engine.exact
        flag = {} if exact else {OTHER_SAMPLER: torch.ones(len(batch), dtype=torch.bool, device=device)}
        if not environments and bool(scores.unscored.any()):
            flag[UNSCORED] = scores.unscored.view(shape).to(device)
        return batch.with_columns(
            sequences=sequences.to(device),
            score=(scores.total + torch.tensor([episode.paid for episode in episodes])).view(shape).to(device),
            ended=torch.tensor([_ended(episode) for episode in episodes], dtype=torch.bool).view(shape).to(device),
            token_rewards=per_prompt(placed, sequences).to(device),
            sampler_logps=per_prompt(torch.cat([torch.zeros(0), *(e.logps for e in episodes)]), sequences).to(device),
            written=tuple(tuple(episode.text for episode in group) for group in groups),
            **flag,
            **{f"{REWARD}{name}": part.view(shape).to(device) for name, part in scores.parts.items()},
        )

    def take_seconds(self) -> dict[str, float]:
        """Seconds in rollout and scoring since the last call."""
        found, self._seconds = self._seconds, {}
        return found

    def _prompts(self, batch: Batch, seeds: list[int], answers: int) -> "tuple[list[Tensor], list[Started]]":
        """The ids that the policy reads first, of each prompt, and the environments of each answer, reset."""
        if self._environment is None:
            return batch["sequences"].prompts.rows(), []
        rows = zip(batch["key"], batch["prompt"], batch["solution"], batch["columns"], strict=True)
        examples = [Prompt(*row) for row in rows]
        # All answers to a prompt are episodes of the same task.
        started = self._environment.begin(
            [example for example in examples for _ in range(answers)],
            [seeds[row - row % answers] for row in range(len(seeds))],
        )
        room = self._processor.context_length - self.config.max_tokens
        prompts = [self._processor.prompt(first.prompt) for first in started[::answers]]
        self.counts["prompt_tokens_cut"] = sum(max(0, len(prompt) - room) for prompt in prompts)
        return [prompt[-room:].to(batch.device) for prompt in prompts], started

    def _answers(self, batch: Batch, sequences: Sequences, episodes: list[Episode], each: int) -> Answers:
        def repeat(name: str) -> tuple[Any, ...]:
            return tuple(value for value in batch[name] for _ in range(each))

        return Answers(
            keys=repeat("key"),
            prompts=repeat("prompt"),
            texts=tuple(episode.last_text for episode in episodes),
            solutions=repeat("solution"),
            ended=tuple(map(_ended, episodes)),
            sequences=sequences,
            processor=self._processor,
            columns=repeat("columns"),
        )

    @contextmanager
    def _clock(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - began


def _ended(episode: Episode) -> bool:
    """By itself, and not because no more was allowed."""
    return episode.ended and not episode.stopped


def _place(scores: "Tensor", episodes: list[Episode], sequences: Sequences) -> "Tensor":
    """[P]: the reward list's score at an answer's last action token, and what its environment paid at each turn's."""
    offsets = answer_offsets(sequences)
    some = offsets.diff() > 0  # an answer without a token has no place for it
    placed = torch.zeros(int(offsets[-1])).index_add(0, offsets[1:][some] - 1, scores[some])
    for first, episode in zip(offsets.tolist(), episodes, strict=False):
        for place, reward in episode.turn_rewards:
            placed[first + place] += reward
    return placed


def checked_rollout(catalog: "Catalog", config: "RolloutConfig") -> "RolloutConfig":
    """The options with those of every reward in full, paths absolute: a run is resumed from anywhere. Loads nothing
    heavy; raises UsageError for a reward, an environment or an engine that cannot be had."""
    if config.environment:
        find_environment(catalog, config.environment)
    if config.engine:
        find_engine(catalog, config.engine)
    chosen = check_rewards(catalog, config.rewards, required=not config.environment)
    return config.model_copy(update={"rewards": tuple(reward.options() for reward in chosen)})
