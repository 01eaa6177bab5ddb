"""`reflection`: the policy answers, says what is wrong with its answer, and answers again.

    mmalign train --objective ppo --environment reflection --set rollout.max_tokens=192

Three turns. It pays nothing itself: rewards of the run's list score what was written in the last turn, the revised
answer (`Episode.last_text` of `mmalign.rl.episodes`), and their sum stands on its last token. `rollout.max_tokens` is
for all three together, `rollout.max_turns` must be 3 or more. After Madaan et al. 2023, arXiv:2303.17651.
"""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from mmalign.contract.examples import Prompt, Turns
from mmalign.rl.environment import Turn


class ReflectionConfig(BaseModel):
    """Options of reflection."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    critique: str = Field("\nWhat is wrong with this answer?\n", description="what it is told after its first answer")
    revise: str = Field("\nA better answer:\n", description="what it is told after its critique")


class Reflection:
    """One prompt, three turns."""

    Config: ClassVar[type[BaseModel]] = ReflectionConfig

    def __init__(self, config: ReflectionConfig) -> None:
        self._instructions = (config.critique, config.revise)
        self._num_turns = 0

    def reset(self, example: Prompt, seed: int) -> Turns:
        """The prompt as it is."""
        self._num_turns = 0
        return example.prompt

    def step(self, action: str) -> Turn:
        """The next instruction; after the third turn the end."""
        self._num_turns += 1
        if self._num_turns > len(self._instructions):
            return Turn("", 0.0, True)
        return Turn(self._instructions[self._num_turns - 1], 0.0, False)
