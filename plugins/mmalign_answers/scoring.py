"""Answers scored by a reward model, and put in order.

    answers = [Answer("1", "Question?", "Yes."), Answer("2", "Question?", "No.")]
    for found in rank(score(backbone, answers, Runtime())): found.score, found.answer.text

An answer that cannot be scored keeps its reason, and comes last.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mmalign.contract.evaluation import Runtime
from mmalign.contract.examples import Turns
from mmalign.errors import BadSample
from mmalign.language.protocols import RewardModel, TokenizedAnswers
from mmalign.language.sequences import Sequences


class Answer(NamedTuple):
    """key: where it is from."""

    key: str
    prompt: Turns
    text: Turns


@dataclass(frozen=True)
class Scored:
    """score: the reward, NaN where there is an error; num_lost: tokens that were cut to fit the context."""

    answer: Answer
    score: float = math.nan
    num_lost: int = 0
    error: str = ""


def score(backbone: RewardModel, answers: Sequence[Answer], runtime: Runtime) -> list[Scored]:
    """In the order of `answers`; raises nothing for one that cannot be scored, but says why."""
    encoded: dict[int, TokenizedAnswers] = {}
    found: dict[int, Scored] = {}
    for place, answer in enumerate(answers):
        try:
            encoded[place] = backbone.processor.answers(answer.prompt, [answer.text])
        except BadSample as error:
            found[place] = Scored(answer, error=error.message)
    order = sorted(encoded, key=lambda place: -len(encoded[place].answers[0]))  # rows of like length together
    with runtime.evaluating(backbone):
        for start in range(0, len(order), runtime.batch_size):
            places = order[start : start + runtime.batch_size]
            batch = [encoded[place] for place in places]
            sequences = Sequences.from_lists([row.prompt for row in batch], [row.answers for row in batch])
            scores = backbone.score_sequences(sequences.to(runtime.device)).tolist()
            rows = zip(places, scores, (row.num_lost for row in batch), strict=True)
            found |= {place: Scored(answers[place], value, num_lost) for place, value, num_lost in rows}
    return [found[place] for place in range(len(answers))]


def rank(scored: Iterable[Scored]) -> list[Scored]:
    """The best first, equal scores in their order, errors last."""
    return sorted(scored, key=lambda item: (bool(item.error), 0.0 if item.error else -item.score))


def answers_of(dataset: Iterable) -> list[Answer]:
    """Every answer of a data set of prompts with answers."""
    return [Answer(example.key, example.prompt, text) for example in dataset for text in example.answers()]
