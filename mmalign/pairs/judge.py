r"""A dual encoder as a reward model: it scores a picture and a text by their similarity.

    judge = Judge(clip)
    judge.score_sequences(sequences)             # [M]; prompts are pictures and answers texts, or the other way round

r(x, y) = exp(t) <f(x), g(y)>

f, g: the towers, unit length [D]; t: the learned temperature. It is the score that `--objective reward` trains on a
dual encoder, and PickScore's (Kirstain 2023, section 3). A learned bias (SigLIP) is the same for all pairs and is left
out. Any text may be scored, in contrast to `mmalign.pairs.candidates`, whose texts are a list.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from mmalign.language.protocols import TokenizedAnswers
from mmalign.pairs.reading import check_pair, placeholder, prompt_tokens
from mmalign.pairs.wrapped import Wrapped

if TYPE_CHECKING:
    import random

    from PIL.Image import Image

    from mmalign.contract.backbone import DualEncoder, Processor, TokenizedText
    from mmalign.contract.batch import Ragged
    from mmalign.contract.examples import Content
    from mmalign.language.sequences import Sequences


@dataclass(frozen=True)
class JudgeProcessor:
    """Encodes a prompt and its answers for a `Judge`, each by itself. Picklable."""

    base: "Processor"

    @property
    def context_length(self) -> int:
        return self.base.context_length

    def image(self, image: "Image", rng: "random.Random | None" = None) -> Tensor:
        return self.base.image(image, rng)

    def text(self, text: str) -> "TokenizedText":
        return self.base.text(text)

    def answers(self, prompt: "Content", answers: "Sequence[Content]") -> TokenizedAnswers:
        """Raises BadSample for a conversation, and where prompt and answers are both texts or both pictures."""
        check_pair(prompt, answers)
        ids, lost = prompt_tokens(self.base, prompt)
        texts = [self.base.text(answer) if isinstance(answer, str) else None for answer in answers]
        rows = [placeholder() if text is None else text.ids for text in texts]
        lost += sum(text.num_lost for text in texts if text is not None)
        return TokenizedAnswers(ids, rows, [torch.ones(len(row), dtype=torch.bool) for row in rows], lost)


class Judge(Wrapped):
    """backbone: the dual encoder; its own members are members of this, too."""

    def __init__(self, backbone: "DualEncoder") -> None:
        self.backbone = backbone
        self.processor = JudgeProcessor(backbone.processor)

    @classmethod
    def wrap(
        cls, model: "DualEncoder", options: Any, data: Sequence[Any], samples: bool, say: Callable[[str], None]
    ) -> Self:
        return cls(model)

    def score_sequences(self, sequences: "Sequences") -> Tensor:
        """[M]: exp(t) times the cosine of each answer and its prompt. Equal texts, and equal pictures side by side, are
        embedded once."""
        prompts = self._embed(sequences.prompts, sequences.pictures)
        answers = self._embed(sequences.answers, sequences.answer_pictures)
        scale = self.backbone.contrastive_head().log_scale.exp()
        return scale * (prompts.index_select(0, sequences.owner.to(prompts.device)) * answers).sum(1)

    def _embed(self, texts: "Ragged", pictures: Tensor | None) -> Tensor:
        """[rows, D]."""
        if pictures is not None:
            size, shape = len(pictures), pictures.shape[1:]
            distinct, places = torch.unique_consecutive(pictures.reshape(size, -1), dim=0, return_inverse=True)
            return self.backbone.encode_image(distinct.view(-1, *shape)).index_select(0, places)
        rows = [tuple(row.tolist()) for row in texts.to("cpu").rows()]  # syncs with the GPU
        first = {ids: row for row, ids in reversed(list(enumerate(rows)))}
        number = {ids: place for place, ids in enumerate(first)}
        embedded = self.backbone.encode_text(texts.select(list(first.values())))
        return embedded.index_select(0, torch.tensor([number[ids] for ids in rows], device=embedded.device))
