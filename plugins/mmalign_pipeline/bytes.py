"""Texts as their bytes: the tokens of answers that come from a file, for rewards that read tokens.

ByteProcessor().ids("Fine.", end=True)      # [70, 105, 110, 101, 46, 256]
"""

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmalign.contract.backbone import TokenizedText
from mmalign.contract.examples import Content
from mmalign.language.messages import require_text
from mmalign.language.protocols import TokenizedAnswers

_END = 256


class ByteProcessor:
    """An AnswersProcessor without a model."""

    context_length = 1 << 31
    end_id = _END
    end_ids = frozenset({_END})
    num_tokens = _END + 1

    def image(self, image: Any, rng: random.Random | None = None) -> Tensor:
        raise ValueError("bytes of texts only")

    def text(self, text: str) -> TokenizedText:
        return TokenizedText(self.ids(text), 0)

    def prompt(self, prompt: Content) -> Tensor:
        """[T] ids; of messages, those of their contents."""
        return self.ids(_plain(prompt))

    def observation(self, text: str, *, in_chat: bool = False) -> Tensor:
        return self.ids(text)

    def ids(self, text: str, *, end: bool = False) -> Tensor:
        """[T] int64; with `end`, the end token behind them."""
        values = [*text.encode("utf-8", "surrogatepass"), *([_END] if end else [])]
        return torch.tensor(values, dtype=torch.int64)

    def decode(self, ids: Tensor) -> str:
        return bytes(i for i in ids.tolist() if i != _END).decode("utf-8", "replace")

    def answers(self, prompt: Content, answers: Sequence[Content]) -> TokenizedAnswers:
        """Nothing is ever cut."""
        ids = [self.ids(_plain(answer), end=True) for answer in answers]
        return TokenizedAnswers(self.prompt(prompt), ids, [torch.ones_like(row, dtype=torch.bool) for row in ids], 0)


def _plain(content: Content) -> str:
    turns = require_text(content)
    return turns if isinstance(turns, str) else "\n".join(message.content for message in turns)
