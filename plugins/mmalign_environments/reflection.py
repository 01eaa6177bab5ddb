"""`reflection`: the policy answers, criticises its answer, and answers again.

    mmalign train --objective ppo --environment reflection --set rollout.max_tokens=192

Three turns. The environment itself pays nothing. The run's rewards score the text of the last turn, the revised answer
(`Episode.last_text` of `mmalign.rl.episodes`), and their sum is put on its last token. `rollout.max_tokens` is for all
three turns together; `rollout.max_turns` must be 3 or more. After Madaan et al. 2023, arXiv:2303.17651.
"""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from mmalign.contract.examples import Prompt, Turns
from mmalign.language.messages import require_text
from mmalign.rl.environment import Turn


class ReflectionConfig(BaseModel):
    """Options of reflection."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    critique: str = Field(
        "\nWhat is wrong with this answer?\n", description="text that the policy gets after its first answer"
    )
    revise: str = Field("\nA better answer:\n", description="text that the policy gets after its critique")


class Reflection:
    """One episode: one prompt, three turns."""

    Config: ClassVar[type[BaseModel]] = ReflectionConfig

    def __init__(self, config: ReflectionConfig) -> None:
        self._instructions = (config.critique, config.revise)
        self._num_turns = 0

    def reset(self, example: Prompt, seed: int) -> Turns:
        """The prompt, unchanged."""
        self._num_turns = 0
        return require_text(example.prompt)

    def step(self, action: str) -> Turn:
        """The next instruction, or after the third turn the end."""
        self._num_turns += 1
        if self._num_turns > len(self._instructions):
            return Turn("", 0.0, True)
        return Turn(self._instructions[self._num_turns - 1], 0.0, False)
