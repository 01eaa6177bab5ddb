"""Fixtures of the tests of rewards and of reinforcement learning: a bench of tiny models, and answers as a tiny policy
would have written them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from mmalign.rl.answers import Answers
from mmalign.testing.bench import Workbench
from mmalign.testing.reward_checks import make_answers


@pytest.fixture(scope="session")
def bench() -> Workbench:
    return Workbench({}, {})


@pytest.fixture(scope="session")
def answered(bench: Workbench) -> Callable[..., Answers]:
    """(texts, solutions) -> answers, two to a prompt."""

    def make(texts: Sequence[str], solutions: Sequence[str] | None = None, **changes: Any) -> Answers:
        answers = make_answers(texts, bench)
        return replace(answers, **changes, **({} if solutions is None else {"solutions": tuple(solutions)}))

    return make
