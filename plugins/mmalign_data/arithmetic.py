"""The generated `arithmetic` data: questions whose answer is a whole number; equal options give equal questions.

    mmalign train --objective grpo --dataset arithmetic --environment calculator

Each question occurs once, in one part. Its text alone decides the part (eight tenths train, one each validation and
test), so another size or seed moves no question to another part. Divisions have no remainder.
"""

import hashlib
import random
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from mmalign.contract.examples import Prompt
from mmalign.hashing import stable_hash

_TRIES = 20  # draws for each question wanted: with few digits many repeat
_SHARES = {"train": range(8), "validation": range(8, 9), "test": range(9, 10)}  # tenths
Operator = Literal["+", "-", "*", "/"]


class ArithmeticConfig(BaseModel):
    """Options of the arithmetic questions."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    size: int = Field(2000, ge=10, description="questions for training; validation and test have a tenth each")
    digits: int = Field(2, ge=1, le=9, description="most digits of a number in a question")
    operators: tuple[Operator, ...] = Field(("+", "-", "*"), min_length=1, description="operations in the questions")
    template: str = Field(
        "Question: What is {question}?\nAnswer:", description="the prompt; {question} stands for 12 * 34"
    )
    seed: int = Field(0, ge=0, description="seed of the questions")


class Arithmetic:
    """Prompts with solutions."""

    Config: ClassVar[type[BaseModel]] = ArithmeticConfig

    def __init__(self, examples: Sequence[Prompt], num_wanted: int) -> None:
        self._examples, self._num_wanted = examples, num_wanted

    @classmethod
    def build(cls, config: ArithmeticConfig, split: str) -> Self:
        """The part named `split`: train, validation or test. Smaller where the options allow too few different
        questions."""
        wanted = config.size if split == "train" else config.size // 10
        draws = random.Random(stable_hash("arithmetic", config.seed, split, config.digits, *config.operators))
        answers: dict[str, int] = {}
        for _ in range(_TRIES * config.size):
            if len(answers) == wanted:
                break
            question, answer = _question(draws, 10**config.digits - 1, draws.choice(config.operators))
            if stable_hash("part", question) % 10 in _SHARES[split]:
                answers.setdefault(question, answer)
        return cls([_prompt(config, question, answer) for question, answer in answers.items()], wanted)

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Prompt:
        return self._examples[index]

    def report(self) -> Mapping[str, Any]:
        """Counts: questions made, and the number that the options ask for."""
        return {"kept": len(self), "skipped": {}, "source": "arithmetic (generated)", "asked_for": self._num_wanted}

    def fingerprint(self) -> str:
        """A hash of the questions."""
        return hashlib.sha256(repr(self._examples).encode()).hexdigest()[:16]


def _prompt(config: ArithmeticConfig, question: str, answer: int) -> Prompt:
    text = config.template.replace("{question}", question)
    columns = {"question": question, "solution": str(answer)}
    return Prompt(f"arithmetic:{question.replace(' ', '')}", text, str(answer), columns)


def _question(draws: random.Random, largest: int, operator: Operator) -> tuple[str, int]:
    a, b = draws.randint(0, largest), draws.randint(0, largest)
    if operator == "/":
        b = max(b, 1)
        a = b * draws.randint(0, largest // b)
    answer = {"+": a + b, "-": a - b, "*": a * b, "/": a // max(b, 1)}[operator]
    return f"{a} {operator} {b}", answer
