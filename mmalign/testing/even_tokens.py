"""The kit's own reward, used to check objectives that sample."""

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel

if TYPE_CHECKING:
    from torch import Tensor

    from mmalign.rl.answers import Answers


class EvenTokens:
    """The share of an answer's tokens with even ids."""

    Config: ClassVar[type[BaseModel]] = BaseModel

    def __init__(self, config: Any) -> None:
        self.config = config

    def score(self, answers: "Answers") -> "Tensor":
        import torch

        rows = answers.sequences.answers.rows()
        return torch.stack([(row % 2 == 0).float().mean() if len(row) else torch.tensor(0.0) for row in rows])
