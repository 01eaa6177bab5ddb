"""Letters to be put in order.

    mmalign train --objective sft --dataset starter-data

    "Letters: c a b\nIn order:" -> " a b c"

Every arrangement of `letters` of the first eight letters is one example, and an eighth of them is held out.
"""

import hashlib
import itertools
import random
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from mmalign.contract.examples import Completion, Prompt
from pydantic import BaseModel, ConfigDict, Field


class Letters:
    """Prompts with their answers, or as prompts with solutions for objectives that sample answers themselves."""

    class Config(BaseModel):
        model_config = ConfigDict(frozen=True, extra="forbid")
        kind: Literal["completion", "prompt"] = Field("completion", description="with answers, or prompts alone")
        letters: int = Field(3, ge=2, le=5, description="letters to put in order: 3 give 336 examples, 4 give 1680")
        seed: int = Field(0, ge=0, description="of their order, and of which are held out")

    def __init__(self, kind: str, questions: Sequence[tuple[str, ...]]) -> None:
        self.kind, self.questions = kind, questions

    @classmethod
    def build(cls, config: Config, split: str) -> Self | None:
        """The examples to train on, or those held out; there are no other parts."""
        questions = list(itertools.permutations("abcdefgh", config.letters))
        random.Random(config.seed).shuffle(questions)
        num_heldout = len(questions) // 8
        parts = {"train": questions[num_heldout:], "validation": questions[:num_heldout]}
        return cls(config.kind, parts[split]) if split in parts else None

    def __len__(self) -> int:
        return len(self.questions)

    def __getitem__(self, index: int) -> Completion | Prompt:
        question = self.questions[index]
        prompt, answer = f"Letters: {' '.join(question)}\nIn order:", f" {' '.join(sorted(question))}"
        key = f"letters:{''.join(question)}"
        if self.kind == "prompt":
            return Prompt(key=key, prompt=prompt, solution=answer.strip())
        return Completion(key=key, prompt=prompt, completion=answer)

    def report(self) -> Mapping[str, Any]:
        """Nothing is read, so nothing is left out."""
        return {"kept": len(self), "skipped": {}, "source": "letters (generated)"}

    def fingerprint(self) -> str:
        """Changes when the data do: a resumed run compares it."""
        return hashlib.sha256(repr((self.kind, self.questions)).encode()).hexdigest()[:16]
