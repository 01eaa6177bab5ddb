"""Scores answers with a reward model, and ranks them; prompts or answers may be pictures.

    answers = [Answer("1", "Question?", "Yes."), Answer("2", "Question?", "No.")]
    for scored in rank(score(backbone, answers, Runtime())): scored.score, scored.answer.text

An answer that cannot be scored keeps the reason, and is ranked last.
"""

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from mmalign.contract.evaluation import Runtime
from mmalign.contract.examples import Content, ImageRef
from mmalign.data.collate import join_answers, with_pixels
from mmalign.data.images import open_image
from mmalign.errors import BadSample
from mmalign.language.protocols import RewardModel, TokenizedAnswers

if TYPE_CHECKING:
    from torch import Tensor


class Answer(NamedTuple):
    """key: names the answer's origin."""

    key: str
    prompt: Content
    text: Content


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
            results |= _scored(backbone, {index: (answers[index], encoded[index]) for index in indices}, runtime)
    return [results[index] for index in range(len(answers))]


def _scored(
    backbone: RewardModel, batch: "dict[int, tuple[Answer, TokenizedAnswers]]", runtime: Runtime
) -> dict[int, Scored]:
    """Of one batch. Pictures are opened here, a few at once, because a data set of them does not fit the memory."""

    @functools.lru_cache(maxsize=1)  # one picture often has all the answers
    def pixels(picture: ImageRef) -> "Tensor":
        return backbone.processor.image(open_image(picture))

    results: dict[int, Scored] = {}
    rows: dict[int, TokenizedAnswers] = {}
    for index, (answer, tokens) in batch.items():
        try:
            rows[index] = with_pixels(tokens, answer.prompt, [answer.text], pixels)
        except BadSample as error:
            results[index] = Scored(answer, error=error.message)
    if rows:
        sequences = join_answers(list(rows.values()))
        scores = backbone.score_sequences(sequences.to(runtime.device)).tolist()
        scored = zip(rows.items(), scores, strict=True)
        results |= {index: Scored(batch[index][0], value, row.num_lost) for (index, row), value in scored}
    return results


def rank(scored: Iterable[Scored]) -> list[Scored]:
    """The best first, equal scores in their order, errors last."""
    return sorted(scored, key=lambda item: (bool(item.error), 0.0 if item.error else -item.score))


def answers_of(dataset: Iterable) -> list[Answer]:
    """Every answer in a data set of prompts with answers."""
    return [Answer(example.key, example.prompt, text) for example in dataset for text in example.answers()]
