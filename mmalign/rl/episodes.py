"""Play episodes: the policy and its environments take turns after each prompt.

    with EnvironmentHost.open(catalog, {"name": "calculator"}) as host:
        started = host.begin(examples, seeds)
        prompts = [processor.prompt(environment.prompt) for environment in started]
        episodes = play(policy, prompts, started, Sampling(max_tokens=64), seeds, max_turns=4)

An episode is one token sequence after its prompt: the policy's tokens as they were sampled, end tokens included, with
the environment's observations in between. Sampled tokens are never decoded and encoded again. Observations are
tokenised on their own and not learnt: as plain text after a text prompt, as a turn of the user in a conversation. Token
t of turn k is drawn with a random number that depends only on (the episode's seed, k, t), not on the rest of the batch;
the first turn samples as `generate` does with the same seed.

Without environments an episode is one answer. The reward list scores `last_text`, the policy's last turn; an
environment's rewards are in `turn_rewards`.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import torch
from torch import Tensor

from mmalign.hashing import stable_hash
from mmalign.language.protocols import AnswersProcessor, Generates
from mmalign.language.sampling import Sampling
from mmalign.rl.environment import Turn

Stopped = Literal["", "turns", "length"]


class Policy(Generates, Protocol):
    """A model that generates, with its processor."""

    processor: AnswersProcessor


class Responder(Protocol):
    """An environment that has been reset."""

    def step(self, action: str) -> Turn: ...


@dataclass(frozen=True)
class Episode:
    """ids: [T] int64, actions and observations after the prompt. learn: [T] bool, true for the A tokens of actions, end
    tokens included. logps: [A], as they were sampled. turn_rewards: of each turn (index among the A of its last token,
    the environment's reward); empty without an environment.

    ended: the environment is done, or the last answer has its end token. stopped: "turns", after max_turns; "length",
    if no more tokens were allowed in an answer or after an observation; else "". num_turns: answers, 0 if the prompt
    leaves no room. text: of all turns; last_text: of the last answer. counts: the environment's.
    """

    ids: Tensor
    learn: Tensor
    logps: Tensor
    turn_rewards: list[tuple[int, float]]
    ended: bool
    num_turns: int
    text: str
    last_text: str
    stopped: Stopped
    counts: dict[str, int]

    @property
    def paid(self) -> float:
        """The environment's rewards, summed over turns."""
        return sum((reward for _, reward in self.turn_rewards), 0.0)


def play(
    policy: Policy,
    prompts: Sequence[Tensor],
    environments: Sequence[Responder],
    sampling: Sampling,
    seeds: Sequence[int],
    max_turns: int = 1,
    chats: Sequence[bool] = (),
) -> list[Episode]:
    """Play an episode for each of M prompts [T] of ids, in order. environments: M, each reset, or none. chats: M,
    whether the chat template rendered the prompt; empty: it rendered none.

    All turns of an episode together, observations included, have at most `sampling.max_tokens` tokens, and fit the
    context with the prompt. Raises what `step` raises.
    """
    if len(seeds) != len(prompts) or len(environments) not in (0, len(prompts)):
        raise ValueError(f"{len(prompts)} prompts, {len(seeds)} seeds, {len(environments)} environments")
    context = policy.processor.context_length
    rooms = [min(sampling.max_tokens, context - len(prompt)) for prompt in prompts]
    responders = environments or [None] * len(prompts)
    in_chat = chats or [False] * len(prompts)
    games = [
        _Game(prompt, responder, seed, room, chat, over=room < 1, stopped="length" if room < 1 else "")
        for prompt, responder, seed, room, chat in zip(prompts, responders, seeds, rooms, in_chat, strict=True)
    ]
    for turn in range(max_turns):
        live = [game for game in games if not game.over]
        for game, answer in zip(live, _answers(policy, live, sampling, turn), strict=True):
            game.act(answer, policy.processor)
            game.listen(policy.processor, is_last=turn == max_turns - 1)
    return [game.episode() for game in games]


def tally(episodes: Iterable[Episode]) -> dict[str, int]:
    """Sums over episodes: their number, turns, those stopped by each limit, and their environments' counts."""
    total = Counter({"episodes": 0, "turns": 0, "stopped_turns": 0, "stopped_length": 0})
    for episode in episodes:
        total.update({"episodes": 1, "turns": episode.num_turns, **episode.counts})
        if episode.stopped:
            total[f"stopped_{episode.stopped}"] += 1
    return dict(total)


@dataclass
class _Answer:
    ids: Tensor  # [T]
    logps: Tensor  # [T]
    ended: bool


@dataclass
class _Game:
    """An episode in progress. room: tokens left to it."""

    prompt: Tensor
    environment: Responder | None
    seed: int
    room: int
    in_chat: bool
    over: bool = False
    ended: bool = False
    stopped: Stopped = ""
    answers: list[_Answer] = field(default_factory=list)
    ids: list[Tensor] = field(default_factory=list)
    learn: list[Tensor] = field(default_factory=list)
    turn_rewards: list[tuple[int, float]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    last_text: str = ""
    counts: Counter[str] = field(default_factory=Counter)

    def act(self, answer: _Answer, processor: AnswersProcessor) -> None:
        self.answers.append(answer)
        self._append(answer.ids, is_action=True)
        self.ended = answer.ended
        self.last_text = processor.decode(_without_end(answer.ids, processor))
        self.said.append(self.last_text)

    def listen(self, processor: AnswersProcessor, *, is_last: bool) -> None:
        """Step the environment, and append its observation if another turn follows."""
        has_end = self.ended
        self.stopped = "" if has_end else "length"
        if self.environment is None:
            self.over = True
            return
        turn = self.environment.step(self.last_text)
        self.turn_rewards.append((sum(len(answer.ids) for answer in self.answers) - 1, turn.reward))
        self.counts.update(turn.counts)
        self.ended = has_end or turn.done
        self.over = turn.done or is_last or not has_end
        if turn.done or not has_end:
            return
        if is_last:
            self.stopped = "turns"
            return
        observation = processor.observation(turn.observation, in_chat=self.in_chat)
        if len(observation) >= self.room:
            self.over, self.stopped = True, "length"
            return
        self._append(observation, is_action=False)
        self.said.append(turn.observation)

    def tokens(self) -> Tensor:
        """[T]: all tokens so far, the prompt's included."""
        return torch.cat([self.prompt.cpu(), *self.ids])

    def episode(self) -> Episode:
        return Episode(
            ids=torch.cat([torch.zeros(0, dtype=torch.int64), *self.ids]),
            learn=torch.cat([torch.zeros(0, dtype=torch.bool), *self.learn]),
            logps=torch.cat([torch.zeros(0), *(answer.logps for answer in self.answers)]),
            turn_rewards=self.turn_rewards,
            ended=self.ended,
            num_turns=len(self.answers),
            text="".join(self.said),
            last_text=self.last_text,
            stopped=self.stopped,
            counts=dict(self.counts),
        )

    def _append(self, ids: Tensor, *, is_action: bool) -> None:
        self.ids.append(ids)
        self.learn.append(torch.full((len(ids),), is_action))
        self.room -= len(ids)


def _without_end(ids: Tensor, processor: AnswersProcessor) -> Tensor:
    """The ids before the end token; all of them if there is none: an answer may be cut, or end without a token."""
    return ids[:-1] if len(ids) and int(ids[-1]) in processor.end_ids else ids


def _answers(policy: Policy, games: Sequence[_Game], sampling: Sampling, turn: int) -> list[_Answer]:
    """The next answer of each game, sampled together.

    `generate` has one limit for all rows: the largest room of any row. Tokens beyond a row's own room are cut off; the
    others do not depend on them. Rows that this limit would take beyond the context are sampled apart, by equal room.
    """
    limit = max((game.room for game in games), default=0)
    context = policy.processor.context_length
    answers: dict[int, _Answer] = {}
    groups: dict[int, list[int]] = {}
    inputs = [game.tokens() for game in games]
    for row, game in enumerate(games):
        groups.setdefault(limit if len(inputs[row]) + limit <= context else game.room, []).append(row)
    for most, rows in groups.items():
        seeds = [_turn_seed(games[row].seed, turn) for row in rows]
        drawn = policy.generate([inputs[row] for row in rows], replace(sampling, max_tokens=most), seeds)
        for row, ids, logps, ended in zip(rows, *drawn, strict=True):
            room = games[row].room
            answers[row] = _Answer(ids[:room].cpu(), logps[:room].cpu(), ended and len(ids) <= room)
    return [answers[row] for row in range(len(games))]


def _turn_seed(seed: int, turn: int) -> int:
    return seed if turn == 0 else stable_hash("turn", seed, turn)
