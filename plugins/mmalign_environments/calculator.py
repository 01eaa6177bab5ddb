"""`calculator`: arithmetic questions, and a tool that the policy may call before it answers.

    mmalign train --objective grpo --dataset arithmetic --environment calculator

In a turn the policy may write calls such as `<<12*34>>`. The calculator computes each, and the policy then reads the
results, one a line; a call that cannot be computed gives "error: " and the reason. A turn without a call is the
policy's answer and ends the episode: reward 1 if the last number in it equals the solution, else 0. More than
`max_calls` calls end it with 0.

Counted: tool_calls, tool_errors, too_many_calls. After Cobbe et al. 2021, arXiv:2110.14168, who train with a
calculator.
"""

import re
from fractions import Fraction
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from mmalign.contract.examples import Message, Prompt, Turns
from mmalign.errors import DataError
from mmalign.language.messages import require_text
from mmalign.rl.environment import Turn
from mmalign_environments.expressions import BadExpression, evaluate, written

_CALL = re.compile(r"<<((?:(?!<<|>>).)*)>>", re.DOTALL)
# A minus between two numbers is not a sign: the last number of "7-3" is 3.
_NUMBER = re.compile(r"(?:(?<![0-9)])-)?(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)")
_LONGEST = 40  # most characters of a number in an answer


class CalculatorConfig(BaseModel):
    """Options of the calculator."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    instruction: str = Field(
        "Write <<2*3>> to have a calculator work it out. End with the answer alone.\n",
        description="text in front of every prompt; in a conversation, a system message; empty: none",
    )
    max_calls: int = Field(3, ge=1, description="most calls in an episode; one more ends it without a reward")
    tool_reward: float = Field(
        0.0, ge=0, description="paid once, for the first turn with a call whose result is the solution"
    )


class Calculator:
    """One episode: one question."""

    Config: ClassVar[type[BaseModel]] = CalculatorConfig

    def __init__(self, config: CalculatorConfig) -> None:
        self._config = config
        self._solution = Fraction(0)
        self._num_calls, self._paid = 0, False

    def reset(self, example: Prompt, seed: int) -> Turns:
        """The question behind the instruction; raises DataError where its solution is not a number."""
        solution = last_number(example.solution)
        if solution is None:
            raise DataError(
                f"{example.key}: the solution {example.solution!r} is not a number",
                hint="Use questions whose answer is a number: --dataset arithmetic, or a table with a column solution.",
            )
        self._solution, self._num_calls, self._paid = solution, 0, False
        prompt = require_text(example.prompt)
        if not self._config.instruction:
            return prompt
        if isinstance(prompt, str):
            return self._config.instruction + prompt
        return _instructed(prompt, self._config.instruction)

    def step(self, action: str) -> Turn:
        """The results of the action's calls, or the end of the episode."""
        calls = _CALL.findall(action)
        if not calls:
            return Turn("", float(last_number(action) == self._solution), True)
        self._num_calls += len(calls)
        if self._num_calls > self._config.max_calls:
            return Turn("", 0.0, True, {"tool_calls": len(calls), "too_many_calls": 1})
        results = [_computed(call) for call in calls]
        counts = {"tool_calls": len(calls), "tool_errors": sum(isinstance(result, str) for result in results)}
        is_right = self._solution in results and not self._paid
        self._paid = self._paid or is_right
        lines = [result if isinstance(result, str) else written(result) for result in results]
        return Turn("\n" + "\n".join(lines) + "\n", self._config.tool_reward * is_right, False, counts)


def last_number(text: str) -> Fraction | None:
    """The last decimal number in the text; None where there is none or it has too many digits."""
    numbers = _NUMBER.findall(text)
    number = numbers[-1].replace(",", "") if numbers else ""
    return Fraction(number) if 0 < len(number) <= _LONGEST else None


def _computed(call: str) -> Fraction | str:
    """The call's value, or the message for the policy."""
    try:
        return evaluate(call)
    except BadExpression as error:
        return f"error: {error}"
    except Exception as error:  # a broken call is reported to the policy and does not stop the run
        return f"error: {type(error).__name__}"


def _instructed(messages: tuple[Message, ...], instruction: str) -> tuple[Message, ...]:
    first: Any = messages[0]
    if first.role == "system":
        return first._replace(content=f"{first.content}\n{instruction.strip()}"), *messages[1:]
    return Message("system", instruction.strip()), *messages
