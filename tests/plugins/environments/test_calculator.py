"""The calculator: what it works out and refuses, how an episode goes, and a model that learnt to call it."""

import random
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from mmalign_environments import calculator as module
from mmalign_environments.calculator import Calculator, CalculatorConfig, last_number
from mmalign_environments.expressions import BadExpression, evaluate, written

from mmalign.contract.examples import Message, Prompt
from mmalign.errors import DataError
from mmalign.language.sampling import Sampling
from mmalign.language.sequences import Sequences
from mmalign.models.references import find_source
from mmalign.registry.catalog import Catalog
from mmalign.registry.plugins import load_plugins
from mmalign.rl.environment import Turn
from mmalign.rl.environment_host import EnvironmentHost
from mmalign.rl.episodes import play
from mmalign.testing.models import tiny_llama


def begun(solution: str = "408", **options: Any) -> Calculator:
    environment = Calculator(CalculatorConfig(**options))
    environment.reset(Prompt("q", "12 * 34?", solution), 0)
    return environment


def test_values_are_exact_and_pythons() -> None:
    assert written(evaluate("0.1 + 0.2")) == "0.3" and evaluate("1/3*3") == 1
    draws = random.Random(0)
    for _ in range(300):
        a, b, c = (draws.randint(-99, 99) for _ in range(3))
        text = f"({a} {draws.choice('+-*')} {b}) {draws.choice('+-*')} -{c + 100}"
        assert evaluate(text) == eval(text)


SHOWN = {
    "12*34": "408", "-7/2": "-3.5", "2/3": "0.666667", "1/10000000": "0", "-1/10000000": "0", "6/3": "2",
    "*".join(["10"] * 18): "1" + "0" * 18, "1.50*2": "3", "7/4": "1.75",
}  # fmt: skip


@pytest.mark.parametrize("expression", SHOWN)
def test_numbers_are_written_without_an_exponent(expression: str) -> None:
    assert written(evaluate(expression)) == SHOWN[expression]


BAD = {
    "1/0": "division by zero",
    "1/(2-2)": "division by zero",
    "9**9**9": "only numbers",
    "9//2": "only numbers",
    "2(3)": "only numbers",
    "()": "only numbers",
    "__import__('os')": "only numbers",
    "1e9": "only numbers",
    "1,5": "only numbers",
    "": "not an expression",
    "2+": "not an expression",
    "1 2": "not an expression",
    "1.2.3": "not an expression",
    "007": "not an expression",
    "(" * 99: "not an expression",
    "1" * 101: "longer than 100",
    "9" * 31: "too large",
    "*".join(["99999"] * 16): "too large",
    "9" * 98 + ".0": "too large",
    "1+1\n": "only numbers",
    "٣+1": "only numbers",
}


@pytest.mark.parametrize("expression", BAD)
def test_what_cannot_be_worked_out_is_said_at_once(expression: str) -> None:
    began = time.perf_counter()
    with pytest.raises(BadExpression, match=BAD[expression]):
        evaluate(expression)
    assert time.perf_counter() - began < 0.5


@pytest.mark.parametrize("expression", ["(" * 49 + "1" + ")" * 49, "-" * 98 + "1", "1" + "+1" * 49, "1/7" + "/7" * 15])
def test_the_largest_that_are_allowed_take_no_time(expression: str) -> None:
    began = time.perf_counter()
    assert evaluate(expression) != 0
    assert time.perf_counter() - began < 0.1


NUMBERS = {
    "so 408.": "408", "7-3": "3", "= -5": "-5", "1,234 apples": "1234", "1,23": "23", "3.50": "3.5",
    "-1,000.5": "-1000.5", "x-7": "-7", "(2)-4": "4", "it is .5": "0.5", "12*34=408": "408",
}  # fmt: skip


@pytest.mark.parametrize("text", NUMBERS)
def test_the_last_number_of_an_answer(text: str) -> None:
    assert last_number(text) == Fraction(NUMBERS[text])


@pytest.mark.parametrize("text", ["", "none", "9" * 41, "-"])
def test_answers_without_a_number(text: str) -> None:
    assert last_number(text) is None
    assert begun().step(text) == Turn("", 0.0, True)


def test_an_episode_with_a_call_and_an_answer() -> None:
    environment = begun(tool_reward=0.25)
    assert environment.step("<<12*3>>") == Turn("\n36\n", 0.0, False, {"tool_calls": 1, "tool_errors": 0})
    both = environment.step("I see: <<12*34>> or <<1/0>>")
    counts = {"tool_calls": 2, "tool_errors": 1}
    assert both == Turn("\n408\nerror: division by zero\n", 0.25, False, counts)
    assert environment.step("It is 408.") == Turn("", 1.0, True)
    assert begun().step("407") == Turn("", 0.0, True) and begun("0.5").step("1/2 = .5") == Turn("", 1.0, True)


def test_calls_are_bounded_and_paid_once() -> None:
    environment = begun(tool_reward=0.25, max_calls=2)
    assert [environment.step("<<408>>").reward for _ in range(2)] == [0.25, 0.0]
    assert environment.step("<<408>>") == Turn("", 0.0, True, {"tool_calls": 1, "too_many_calls": 1})
    assert begun().step("<<1>>" * 10_000).done
    assert begun().step("<<" * 20_000).done and begun().step("<<1 <<2>>").observation == "\n2\n"


def test_a_tool_that_crashes_is_told_to_the_policy_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(expression: str) -> Fraction:
        raise RuntimeError("out of paper")

    monkeypatch.setattr(module, "evaluate", crash)
    turn = begun().step("<<1+1>>")
    assert turn == Turn("\nerror: RuntimeError\n", 0.0, False, {"tool_calls": 1, "tool_errors": 1})


def test_the_instruction_stands_before_text_and_in_the_systems_message() -> None:
    def prompt(prompt: Any, instruction: str = "Use <<>>.\n") -> Any:
        return Calculator(CalculatorConfig(instruction=instruction)).reset(Prompt("q", prompt, "4"), 0)

    user = Message("user", "2+2?")
    assert prompt("2+2?") == "Use <<>>.\n2+2?" and prompt("2+2?", "") == "2+2?"
    assert prompt((user,)) == (Message("system", "Use <<>>."), user)
    assert prompt((Message("system", "Be kind."), user)) == (Message("system", "Be kind.\nUse <<>>."), user)


def test_a_question_without_a_number_for_an_answer_is_refused() -> None:
    with pytest.raises(DataError, match="--dataset arithmetic"):
        begun("four")


def test_a_model_that_learnt_to_call_it_is_paid(tmp_path: Path) -> None:
    """A tiny model learns one episode by heart, its own tokens only, and plays it against the real environment."""
    catalog = Catalog(load_plugins())
    source = find_source(str(tiny_llama(tmp_path / "model")), catalog)
    backbone_class = catalog.load(source.entry)
    policy = backbone_class.load(source, backbone_class.Config())
    processor, end = policy.processor, torch.tensor([policy.processor.end_id])
    prompt = processor.prompt("2*3=")
    pieces = [processor.observation("<<2*3>>"), end, processor.observation("\n6\n"), processor.observation("6"), end]
    learn = torch.cat([torch.full((len(piece),), place != 2) for place, piece in enumerate(pieces)])
    sequences = Sequences.from_lists([prompt], [[torch.cat(pieces)]], [[learn]])
    optimizer = torch.optim.Adam(policy.module.parameters(), lr=1e-2)
    for _ in range(60):
        loss = -policy.token_logps(policy.hidden_states(sequences)).logps.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    options = {"name": "calculator", "instruction": "", "tool_reward": 0.5}
    with EnvironmentHost.open(catalog, options) as host:
        started = host.begin([Prompt("q", "2*3=", "6")], [0])
        prompts = [processor.prompt(environment.prompt) for environment in started]
        (episode,) = play(policy, prompts, started, Sampling(max_tokens=25, temperature=0), [0], 4)
    assert torch.equal(episode.ids, torch.cat(pieces)) and torch.equal(episode.learn, learn)
    assert episode.text.split() == ["<<2*3>>", "6", "6"] and episode.last_text.strip() == "6"
    assert episode.turn_rewards == [(len(pieces[0]), 0.5), (int(learn.sum()) - 1, 1.0)]
    assert (episode.ended, episode.stopped, episode.num_turns) == (True, "", 2)
    assert episode.counts == {"tool_calls": 1, "tool_errors": 0}
