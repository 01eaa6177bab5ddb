"""How much of the solution an answer has in its place.

    mmalign train --objective grpo --reward starter-reward

    score(y, s) = #{k: y_k = s_k} / max(|y|, |s|)

y: the words of the answer; s: those of the solution. An example without a solution gets no score.
"""

from mmalign.rl.answers import Answers
from pydantic import BaseModel, ConfigDict, Field


class InPlace:
    """From 0 to 1; 1 for the solution itself."""

    class Config(BaseModel):
        model_config = ConfigDict(frozen=True, extra="forbid")
        partly: bool = Field(True, description="false: 1 for the whole solution, else 0")

    def __init__(self, config: Config) -> None:
        self.config = config

    def score(self, answers: Answers) -> list[float | None]:
        """[M], one an answer."""
        return [self._share(*pair) for pair in zip(answers.texts, answers.solutions, strict=True)]

    def _share(self, text: str, solution: str) -> float | None:
        words, right = text.split(), solution.split()
        if not right:
            return None
        num_right = sum(word == other for word, other in zip(words, right, strict=False))
        share = num_right / max(len(words), len(right))
        return share if self.config.partly else float(share == 1)
