"""`calculator`: arithmetic questions, and a tool that the policy may call before it answers.

    mmalign train --objective grpo --dataset arithmetic --environment calculator

In a turn the policy may write calls such as `<<12*34>>`; each is worked out, and the results are what it reads next, a
line each. What cannot be worked out gives "error: " and why. A turn without a call is its answer, and ends the episode:
reward 1 if the last number in it equals the solution, else 0. More than `max_calls` calls end it with 0.

Counted: tool_calls, tool_errors, too_many_calls. As training problems with a calculator: Cobbe et al. 2021,
arXiv:2110.14168.
"""

import re
from fractions import Fraction
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from mmalign.contract.examples import Message, Prompt, Turns
from mmalign.errors import DataError
from mmalign.rl.environment import Turn
from mmalign_environments.expressions import BadExpression, evaluate, written

_CALL = re.compile(r"<<((?:(?!<<|>>).)*)>>", re.DOTALL)
# A minus between two numbers is not a sign: the last number of "7-3" is 3.
_NUMBER = re.compile(r"(?:(?<![0-9)])-)?(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)")
_LONGEST = 40  # characters of a number that is compared


class CalculatorConfig(BaseModel):
    """Options of the calculator."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    instruction: str = Field(
        "Write <<2*3>> to have a calculator work it out. End with the answer alone.\n",
        description="text in front of every prompt, in a conversation a message of the system; empty: none",
    )
    max_calls: int = Field(3, ge=1, description="calls in an episode; one more ends it without a reward")
    tool_reward: float = Field(
        0.0, ge=0, description="paid once, for the first turn with a call whose result is the solution"
    )


class Calculator:
    """One question."""

    Config: ClassVar[type[BaseModel]] = CalculatorConfig

    def __init__(self, config: CalculatorConfig) -> None:
        self._config = config
        self._solution = Fraction(0)
        self._num_calls, self._paid = 0, False

    def reset(self, example: Prompt, seed: int) -> Turns:
        """The question behind the instruction; raises DataError where its solution is no number."""
        solution = last_number(example.solution)
        if solution is None:
            raise DataError(
                f"{example.key}: the solution {example.solution!r} is no number",
                hint="Questions with a number for an answer: --dataset arithmetic, or a table with a column solution.",
            )
        self._solution, self._num_calls, self._paid = solution, 0, False
        if not self._config.instruction:
            return example.prompt
        if isinstance(example.prompt, str):
            return self._config.instruction + example.prompt
        return _instructed(example.prompt, self._config.instruction)

    def step(self, action: str) -> Turn:
        """The results of the calls in it, or the end."""
        calls = _CALL.findall(action)
        if not calls:
            return Turn("", float(last_number(action) == self._solution), True)
        self._num_calls += len(calls)
        if self._num_calls > self._config.max_calls:
            return Turn("", 0.0, True, {"tool_calls": len(calls), "too_many_calls": 1})
        results = [_worked_out(call) for call in calls]
        counts = {"tool_calls": len(calls), "tool_errors": sum(isinstance(result, str) for result in results)}
        is_right = self._solution in results and not self._paid
        self._paid = self._paid or is_right
        lines = [result if isinstance(result, str) else written(result) for result in results]
        return Turn("\n" + "\n".join(lines) + "\n", self._config.tool_reward * is_right, False, counts)


def last_number(text: str) -> Fraction | None:
    """The last decimal number in it, None where there is none or it has too many digits to be an answer."""
    found = _NUMBER.findall(text)
    number = found[-1].replace(",", "") if found else ""
    return Fraction(number) if 0 < len(number) <= _LONGEST else None


def _worked_out(call: str) -> Fraction | str:
    """Its value, or what the policy is told."""
    try:
        return evaluate(call)
    except BadExpression as error:
        return f"error: {error}"
    except Exception as error:  # a tool that breaks is for the policy to know, and no reason to stop the run
        return f"error: {type(error).__name__}"


def _instructed(messages: tuple[Message, ...], instruction: str) -> tuple[Message, ...]:
    first: Any = messages[0]
    if first.role == "system":
        return first._replace(content=f"{first.content}\n{instruction.strip()}"), *messages[1:]
    return Message("system", instruction.strip()), *messages
