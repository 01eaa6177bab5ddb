"""Rewards that read the answer's text: sentiment, length, right answers, forms."""

import time
from typing import Any

import pytest
import torch

from mmalign.errors import RewardError
from mmalign.rl.answers import Answers
from mmalign.rl.rewards import RewardList


def scores(bench, answers: Answers, name: str, **options: Any) -> list[float]:
    rewards = RewardList.build(bench.catalog, [{"name": name, **options}], torch.device("cpu"), print)
    return [round(value, 4) for value in rewards.score(answers).total.tolist()]


def test_vader_gives_the_published_figures(bench, answered) -> None:
    """The examples of VADER's own documentation."""
    known = {
        "VADER is smart, handsome, and funny.": 0.8316,
        "VADER is smart, handsome, and funny!": 0.8439,
        "VADER is not smart, handsome, nor funny.": -0.7424,
        "The book was good.": 0.4404,
        "At least it isn't a horrible book.": 0.431,
        "The plot was good, but the characters are uncompelling and the dialog is not great.": -0.7042,
        "Not bad at all": 0.431,
        "": 0.0,
    }
    assert scores(bench, answered(list(known)), "vader") == list(known.values())


def test_length_counts_words_or_the_tokens_that_were_written(bench, answered) -> None:
    answers = answered([" a cat", "", " a bird  and\na fish"])
    assert scores(bench, answers, "length") == [2, 0, 5]
    assert scores(bench, answers, "length", target=3) == [-1, -3, -2]
    ids = [row.tolist() for row in answers.sequences.answers.rows()]
    expected = [len(row) - row.count(answers.processor.end_id) for row in ids]
    assert scores(bench, answers, "length", unit="tokens") == expected
    assert expected[0] == len(ids[0]) - 1 and expected[1] == 0 and expected[2] == len(ids[2])  # the last did not end


def test_exact_match(bench, answered) -> None:
    texts = [" 42\n", "42.", "so\n#### 41\nno,\n#### 42 ", "#### no", "Yes"]
    answers = answered(texts, ["42", "42", "because #### 42", "42", "yes"])
    assert scores(bench, answers, "exact-match") == [1, 0, 0, 0, 0]
    assert scores(bench, answers, "exact-match", ignore_case=True) == [1, 0, 0, 0, 1]
    assert scores(bench, answers, "exact-match", after="####") == [0, 0, 1, 0, 0]
    assert scores(bench, answers, "exact-match", after="^|#+", ignore_case=True) == [1, 0, 1, 0, 1]


def test_exact_match_needs_solutions(bench, answered) -> None:
    answers = answered([" a", " b", " c", " d"], ["a", "b", "", ""])
    with pytest.raises(RewardError, match=r"(?s)example example:1 has no solution.*column solution") as caught:
        scores(bench, answers, "exact-match")
    assert "answer ' c'" in caught.value.message


def test_regex(bench, answered) -> None:
    answers = answered(["Answer: 12", "the answer: 12.", "Answer:", ""])
    assert scores(bench, answers, "regex", pattern=r"Answer: \d+") == [1, 0, 0, 0]
    assert scores(bench, answers, "regex", pattern=r"(?i)answer: \d+") == [1, 1, 0, 0]
    assert scores(bench, answers, "regex", pattern=r"(?i)answer: \d+", match="full") == [1, 0, 0, 0]


@pytest.mark.parametrize(
    ("name", "options"), [("regex", {"pattern": "^(.|x)*(.|x)*(x|.)*$(?<!x!)"}), ("exact-match", {"after": "(x+x+)+y"})]
)
def test_an_expression_that_takes_for_ever_is_stopped_and_named(bench, answered, name, options) -> None:
    began = time.perf_counter()
    with pytest.raises(RewardError, match=r"(?s)takes more than 0.1 s.*First at example example:0.*repetition"):
        scores(bench, answered(["fine", "x" * 5000 + "!"]), name, seconds=0.1, **options)
    assert time.perf_counter() - began < 5
