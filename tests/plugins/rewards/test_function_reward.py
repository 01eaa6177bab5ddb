"""Functions of a user's as rewards, from files and modules, in mmalign's form and in TRL's."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mmalign.contract.examples import Message
from mmalign.errors import UsageError
from mmalign.rl.rewards import RewardList

SOURCE = '''
import helper_beside

def all_three(prompts, answers, solutions):
    assert prompts[0] == "the photo of a dog with a fish"
    return [float(s in a) for a, s in zip(answers, solutions, strict=True)]

def by_place(answers, /, *, ended):
    return [len(a) + e for a, e in zip(answers, ended, strict=True)]

def trl(completions, solution, prompts=None, **kwargs):
    """As TRL's documentation has them."""
    assert sorted(kwargs) == ["answers", "completion_ids", "ended", "keys", "solutions"]
    assert kwargs["completion_ids"][0][:-1] and kwargs["keys"][0] == "example:0"
    return [1.0 if content == truth else 0.0 for content, truth in zip(completions, solution, strict=True)]

def trl_messages(prompts, completions, **kwargs):
    assert prompts[0] == [{"role": "user", "content": "Say dog."}]
    return [float("dog" in completion[0]["content"]) for completion in completions]

def greedy(answers, how):
    return [0.0 for _ in answers]

def nothing():
    return []

async def later(answers):
    return [0.0 for _ in answers]

constant = 1

class Counter:
    def __call__(self, answers):
        return [helper_beside.VALUE for _ in answers]

counter = Counter()
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    (tmp_path / "my_functions.py").write_text(SOURCE)
    (tmp_path / "helper_beside.py").write_text("VALUE = 3.0\n")
    (tmp_path / "broken.py").write_text("import no_such_module_anywhere\n")
    yield tmp_path
    for name in ("my_functions", "helper_beside"):
        sys.modules.pop(name, None)


def run(bench, place: str, answers) -> list[float]:
    options = [{"name": "function", "function": place}]
    return RewardList.build(bench.catalog, options, torch.device("cpu"), print).score(answers).total.tolist()


@pytest.mark.parametrize(
    ("name", "expected"),
    [("all_three", [1.0, 0.0, 1.0]), ("by_place", [7.0, 5.0, 4.0]), ("trl", [0.0, 0.0, 1.0]), ("counter", [3.0] * 3)],
)
def test_each_form_is_called_with_what_it_takes(bench, answered, folder, name, expected) -> None:
    answers = answered([" a dog", " cat", "fish"], ["dog", "dog", "fish"])
    assert answers.ended == (True, True, False)
    if name == "by_place":
        expected = [float(len(t) + e) for t, e in zip(answers.texts, answers.ended, strict=True)]
    before = list(sys.path)
    assert run(bench, f"{folder / 'my_functions.py'}:{name}", answers) == expected
    assert sys.path == before


def test_from_a_module_of_the_current_folder(bench, answered, folder, monkeypatch) -> None:
    monkeypatch.chdir(folder)
    assert run(bench, "my_functions:counter", answered([" a"])) == [3.0]


def test_messages_reach_functions_of_trl_as_messages(bench, answered, folder) -> None:
    answers = answered([" a dog", " cat"])
    answers = replace(answers, prompts=((Message("user", "Say dog."),),) * 2)
    assert run(bench, f"{folder / 'my_functions.py'}:trl_messages", answers) == [1.0, 0.0]


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("my_functions.py:al_three", "has no 'al_three'\nDid you mean all_three"),
        ("my_functions.py:greedy", "has a parameter 'how', and the data have no such column; they have none besides"),
        ("my_functions.py:nothing", "has no parameter for answers"),
        ("my_functions.py:later", "is an async function"),
        ("my_functions.py:constant", "is not a function but int"),
        ("broken.py:score", "cannot be imported: ModuleNotFoundError: No module named 'no_such_module_anywhere'"),
    ],
)
def test_what_cannot_be_called_is_refused(bench, answered, folder, place, expected) -> None:
    with pytest.raises(UsageError, match=f"(?s){expected}"):
        RewardList.build(
            bench.catalog, [{"name": "function", "function": f"{folder}/{place}"}], torch.device("cpu"), print
        ).check_columns(())


def test_a_missing_module_is_refused(bench, answered) -> None:
    with pytest.raises(UsageError, match="no_such_module_anywhere cannot be imported"):
        run(bench, "no_such_module_anywhere:score", answered([" a"]))
