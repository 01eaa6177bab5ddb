"""Rewards that read columns of the data: TRL's functions by any column's name, exact-match by a chosen one."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mmalign.errors import RewardError, UsageError
from mmalign.rl.rewards import RewardList

# An accuracy reward as open-r1's (#503, #255): `solution` and `answer` are different columns.
SOURCE = """
def accuracy(completions, solution, answer, level, tags, missing=None, **kwargs):
    assert missing is None and "prompts" in kwargs
    assert [type(v) for v in level] == [int, int] and tags == [["a"], ["b", "c"]]
    assert solution == ["worked 4", "worked 5"]
    return [float(c.strip() == a) for c, a in zip(completions, answer)]

def questions(completions, answers):
    return [float(c in a) for c, a in zip(completions, answers)]

def ours(answers, solutions):
    return [float(a == s) for a, s in zip(answers, solutions)]

def changes(completions, tags):
    tags[0].append("x")
    return [float(len(row)) for row in tags]

def wants(completions, difficulty):
    return [0.0 for _ in completions]
"""
COLUMNS = (
    {"solution": "worked 4", "answer": "4", "level": 1, "tags": ["a"], "answers": [" 4", "four"], "size": 2.0},
    {"solution": "worked 5", "answer": "5", "level": 2, "tags": ["b", "c"], "answers": [], "size": 3},
)


@pytest.fixture
def score(bench, answered, tmp_path: Path):
    """score(options) -> the totals of the answers " 4" and " 4" to two prompts."""
    (tmp_path / "mine.py").write_text(SOURCE)
    answers = replace(answered([" 4", " 4"], ["4", "5"]), columns=COLUMNS)

    def call(checked: bool = True, **options) -> list[float]:
        if "function" in options:
            options["function"] = f"{tmp_path / 'mine.py'}:{options['function']}"
        rewards = RewardList.build(bench.catalog, [options], torch.device("cpu"), print)
        if checked:
            rewards.check_columns(tuple(COLUMNS[0]))
        return rewards.score(answers).total.tolist()

    return call


@pytest.mark.parametrize(
    ("name", "expected"),
    [("accuracy", [1, 0]), ("questions", [1, 0]), ("ours", [0, 0]), ("changes", [2, 2])],
)
def test_functions_get_columns_under_their_own_names(score, name, expected) -> None:
    assert score(name="function", function=name) == expected
    assert score(name="function", function=name) == expected, "a function may change its lists, and theirs alone"


def test_a_parameter_that_is_no_column_is_refused_before_training(score) -> None:
    says = "parameter 'difficulty', and the data have no such column; they have solution, answer, level"
    with pytest.raises(UsageError, match=says):
        score(name="function", function="wants")
    with pytest.raises(RewardError, match=says):
        score(name="function", function="wants", checked=False)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [1, 0]),
        ({"column": "answer"}, [1, 0]),
        ({"column": "solution"}, [0, 0]),
        ({"column": "solution", "after": "worked"}, [0, 0]),
    ],
)
def test_exact_match_compares_with_the_column_that_it_is_told(score, options, expected) -> None:
    assert score(name="exact-match", **options) == expected


def test_exact_match_takes_numbers_however_they_are_written(bench, answered) -> None:
    texts, values = [" 2", "2.0 ", "two", "3", "True"], [2.0, 2, 2, 3.5, True]
    answers = replace(answered(texts), columns=tuple({"size": value} for value in values))
    rewards = RewardList.build(bench.catalog, [{"name": "exact-match", "column": "size"}], torch.device("cpu"), print)
    assert rewards.score(answers).total.tolist() == [1, 1, 0, 0, 1]


def test_exact_match_refuses_a_column_that_is_not_there(score) -> None:
    with pytest.raises(UsageError, match="no column 'answr'; they have solution, answer"):
        score(name="exact-match", column="answr")
