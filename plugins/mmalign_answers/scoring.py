"""Scores answers with a reward model, and ranks them.

    answers = [Answer("1", "Question?", "Yes."), Answer("2", "Question?", "No.")]
    for scored in rank(score(backbone, answers, Runtime())): scored.score, scored.answer.text

An answer that cannot be scored keeps the reason, and is ranked last.
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
    """key: names the answer's origin."""

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
    """In the order of `answers`; an answer that cannot be scored raises nothing but has the reason."""
    encoded: dict[int, TokenizedAnswers] = {}
    results: dict[int, Scored] = {}
    for index, answer in enumerate(answers):
        try:
            encoded[index] = backbone.processor.answers(answer.prompt, [answer.text])
        except BadSample as error:
            results[index] = Scored(answer, error=error.message)
    order = sorted(encoded, key=lambda index: -len(encoded[index].answers[0]))  # rows of similar length together
    with runtime.evaluating(backbone):
        for start in range(0, len(order), runtime.batch_size):
            indices = order[start : start + runtime.batch_size]
            batch = [encoded[index] for index in indices]
            sequences = Sequences.from_lists([row.prompt for row in batch], [row.answers for row in batch])
            scores = backbone.score_sequences(sequences.to(runtime.device)).tolist()
            rows = zip(indices, scores, (row.num_lost for row in batch), strict=True)
            results |= {index: Scored(answers[index], value, num_lost) for index, value, num_lost in rows}
    return [results[index] for index in range(len(answers))]


def rank(scored: Iterable[Scored]) -> list[Scored]:
    """The best first, equal scores in their order, errors last."""
    return sorted(scored, key=lambda item: (bool(item.error), 0.0 if item.error else -item.score))


def answers_of(dataset: Iterable) -> list[Answer]:
    """Every answer in a data set of prompts with answers."""
    return [Answer(example.key, example.prompt, text) for example in dataset for text in example.answers()]
