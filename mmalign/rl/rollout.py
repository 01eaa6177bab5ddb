"""Sample answers to prompts from the policy and score them, for an online objective's `prepare`.

    sampler = Sampler(config, processor, rewards)
    batch = sampler.answered(policy, prompts, ctx, answers=4)
    batch["sequences"], batch["score"]           # N prompts with K answers each; [N, K]

The random numbers for answer k to prompt n depend only on (seed, step, n, k) and the token's position: not on the rest
of the batch, the number of processes, or when other answers end.
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
    """Rewards score the policy's last turn; the environment's rewards are added. engine: samples instead of the policy.
    counts: of the last batch's episodes, such as those stopped by a limit."""

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
        """`batch` with this many answers per prompt and their scores (`sample`), seeded by the context. Batches of
        other streams are returned unchanged."""
        if batch.stream != "main":
            return batch
        return ctx.guard(lambda: self.sample(policy, batch, lambda n: ctx.seed(*divmod(n, answers)), answers))

    def sample(self, policy: Policy, batch: Batch, seed: Callable[[int], int], answers: int) -> Batch:
        """Sample and score K = `answers` answers to each example of a batch of kind `prompt`. Adds the columns

        sequences: the prompts with K answers each; score: [N, K], an answer's total reward; token_rewards: ragged, that
        reward by action token; ended: [N, K] bool, the end token came; sampler_logps: ragged, of each token as it was
        sampled; written: N tuples of K texts; "reward NAME": [N, K] for each reward, NaN for None. With an engine that
        is not exact also "other sampler": [N] bool. Without an environment, if every reward with a weight gave None to
        some answer, also "unscored": [N, K] bool.
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
        ids = [[episode.ids for episode in group] for group in groups]
        learn = [[episode.learn for episode in group] for group in groups]
        if environments:
            sequences = Sequences.from_lists([prompt.cpu() for prompt in prompts], ids, learn)
        else:
            sequences = batch["sequences"].to("cpu").with_answers(ids, learn)
        # In the rewards' own precision, not that of the policy's passes.
        with self._clock("scoring"), torch.autocast(device.type, enabled=False):
            scores = self._rewards.score(self._answers(batch, sequences, episodes, answers))
        token_rewards = _token_rewards(scores.total, episodes, sequences)
        shape = (len(batch), answers)
        exact = engine is None or engine.exact
        flag = {} if exact else {OTHER_SAMPLER: torch.ones(len(batch), dtype=torch.bool, device=device)}
        if not environments and bool(scores.unscored.any()):
            flag[UNSCORED] = scores.unscored.view(shape).to(device)
        return batch.with_columns(
            sequences=sequences.to(device),
            score=(scores.total + torch.tensor([episode.paid for episode in episodes])).view(shape).to(device),
            ended=torch.tensor([_ended(episode) for episode in episodes], dtype=torch.bool).view(shape).to(device),
            token_rewards=per_prompt(token_rewards, sequences).to(device),
            sampler_logps=per_prompt(torch.cat([torch.zeros(0), *(e.logps for e in episodes)]), sequences).to(device),
            written=tuple(tuple(episode.text for episode in group) for group in groups),
            **flag,
            **{f"{REWARD}{name}": values.view(shape).to(device) for name, values in scores.parts.items()},
        )

    def take_seconds(self) -> dict[str, float]:
        """Seconds in rollout and scoring since the last call."""
        seconds, self._seconds = self._seconds, {}
        return seconds

    def _prompts(self, batch: Batch, seeds: list[int], answers: int) -> "tuple[list[Tensor], list[Started]]":
        """(token ids of each prompt, a reset environment for each answer)."""
        if self._environment is None:
            return batch["sequences"].inputs(), []
        fields = zip(batch["key"], batch["prompt"], batch["solution"], batch["columns"], strict=True)
        examples = [Prompt(*values) for values in fields]
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
    """Whether the episode ended by itself, not by a limit."""
    return episode.ended and not episode.stopped


def _token_rewards(scores: "Tensor", episodes: list[Episode], sequences: Sequences) -> "Tensor":
    """[P]: the reward list's score on an answer's last action token, and the environment's reward on each turn's."""
    offsets = answer_offsets(sequences)
    has_tokens = offsets.diff() > 0
    rewards = torch.zeros(int(offsets[-1])).index_add(0, offsets[1:][has_tokens] - 1, scores[has_tokens])
    for first, episode in zip(offsets.tolist(), episodes, strict=False):
        for index, reward in episode.turn_rewards:
            rewards[first + index] += reward
    return rewards


def checked_rollout(catalog: "Catalog", config: "RolloutConfig") -> "RolloutConfig":
    """The options with every reward's in full and paths absolute, so that a run can be resumed from anywhere. Loads
    nothing heavy; raises UsageError for an unknown reward, environment or engine, or wrong options."""
    if config.environment:
        find_environment(catalog, config.environment)
    if config.engine:
        find_engine(catalog, config.engine)
    chosen = check_rewards(catalog, config.rewards, required=not config.environment)
    return config.model_copy(update={"rewards": tuple(reward.options() for reward in chosen)})
