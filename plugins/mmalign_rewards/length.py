"""The length of the answer: `--set rollout.rewards='[{"name": "length", "target": 40, "weight": 0.01}]'`.

score = -|length - target|, or with target 0 the length itself (a negative weight then favours short answers).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from mmalign.rl.answers import Answers


class LengthConfig(BaseModel):
    """The unit of the length, and its target."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    unit: Literal["words", "tokens"] = Field(
        "words", description="words: separated by white space; tokens: those that the policy wrote, without end tokens"
    )
    target: int = Field(0, ge=0, description="target length, in units; 0: the score is the length itself")


class Length:
    """Scores the answer alone, without its prompt."""

    Config: ClassVar[type[BaseModel]] = LengthConfig

    def __init__(self, config: LengthConfig) -> None:
        self.config = config

    def score(self, answers: "Answers") -> Sequence[float]:
        """[M], in units."""
        counts = _tokens(answers) if self.config.unit == "tokens" else [len(text.split()) for text in answers.texts]
        target = self.config.target
        return [float(-abs(count - target) if target else count) for count in counts]


def _tokens(answers: "Answers") -> list[int]:
    """Number of tokens; of an episode with several turns, the policy's own tokens."""
    import torch

    written = answers.sequences
    ends = torch.tensor(sorted(answers.processor.end_ids), device=written.answers.values.device)
    counted = (written.learn & ~torch.isin(written.answers.values, ends)).cpu()
    return [int(row.sum()) for row in counted.split(written.answers.lengths.tolist())]
