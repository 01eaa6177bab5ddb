"""A policy and its environments, turn by turn: prompts in, whole episodes out.

    with EnvironmentHost.open(catalog, {"name": "calculator"}) as host:
        started = host.begin(examples, seeds)
        prompts = [processor.prompt(environment.prompt) for environment in started]
        episodes = play(policy, prompts, started, Sampling(max_tokens=64), seeds, max_turns=4)

An episode is one sequence behind its prompt: what the policy wrote, token by token as it was drawn, its end tokens
included, and between that what the environment said. Nothing drawn is ever decoded and encoded again; observations are
tokenised alone and are not learnt: as text behind a prompt that is text, as a turn of the user in a conversation. Token
t of turn k of an episode is drawn with a number that depends on (its seed, k, t) alone, so company in the batch and
those who leave it early change nothing; the first turn draws as `generate` does with the same seed.

Without environments an episode is one answer. Rewards of the reward list score `last_text`, what the policy wrote in
its last turn; what an environment pays stands in `turn_rewards`.
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
    """What writes, and the processor that its tokens are of."""

    processor: AnswersProcessor


class Responder(Protocol):
    """An environment that has been reset."""

    def step(self, action: str) -> Turn: ...


@dataclass(frozen=True)
class Episode:
    """ids: [T] int64, what follows the prompt, actions and observations in their order. learn: [T] bool, true for the
    A tokens of actions, end tokens included. logps: [A], of these as they were drawn. turn_rewards: of each turn (which
    of the A is its last, what the environment paid for it); empty without an environment.

    ended: the environment said so, or the last answer has its end token. stopped: "turns", the environment would go on;
    "length", no token more was allowed, be it in an answer or behind an observation; else "". num_turns: answers, 0
    where the prompt leaves no room. text: all that was said; last_text: in the last answer. counts: of the environment.
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
        """By its environment, over all turns."""
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
    """An episode for each of M prompts [T] of ids, in order. environments: M that were reset, or none. chats: M,
    whether a prompt is a conversation that the chat template rendered; empty: none is.

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
    """Counts over episodes: how many, their turns, those stopped by each limit, and what their environments counted."""
    total = Counter({"episodes": 0, "turns": 0, "stopped_turns": 0, "stopped_length": 0})
    for episode in episodes:
        total.update({"episodes": 1, "turns": episode.num_turns, **episode.counts})
        if episode.stopped:
            total[f"stopped_{episode.stopped}"] += 1
    return dict(total)


@dataclass
class _Answer:
    """ids: [T]; logps: [T]."""

    ids: Tensor
    logps: Tensor
    ended: bool


@dataclass
class _Game:
    """An episode under way. room: tokens that it may still have."""

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
        self.last_text = processor.decode(answer.ids[:-1] if answer.ended else answer.ids)
        self.said.append(self.last_text)

    def listen(self, processor: AnswersProcessor, *, is_last: bool) -> None:
        """Tell the environment, and read what it says where another turn follows."""
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

    def read(self) -> Tensor:
        """[T]: all that stands before the next token."""
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


def _answers(policy: Policy, games: Sequence[_Game], sampling: Sampling, turn: int) -> list[_Answer]:
    """The next answer of each, drawn together.

    `generate` has one limit for all rows. It is that of the row with the most room, and what others write beyond their
    own is cut off: their tokens do not depend on it. Rows that would leave the context by it are drawn apart, those of
    equal room together.
    """
    limit = max((game.room for game in games), default=0)
    context = policy.processor.context_length
    found: dict[int, _Answer] = {}
    groups: dict[int, list[int]] = {}
    reads = [game.read() for game in games]
    for row, game in enumerate(games):
        groups.setdefault(limit if len(reads[row]) + limit <= context else game.room, []).append(row)
    for most, rows in groups.items():
        seeds = [_turn_seed(games[row].seed, turn) for row in rows]
        drawn = policy.generate([reads[row] for row in rows], replace(sampling, max_tokens=most), seeds)
        for row, ids, logps, ended in zip(rows, *drawn, strict=True):
            room = games[row].room
            found[row] = _Answer(ids[:room].cpu(), logps[:room].cpu(), ended and len(ids) <= room)
    return [found[row] for row in range(len(games))]


def _turn_seed(seed: int, turn: int) -> int:
    return seed if turn == 0 else stable_hash("turn", seed, turn)
