r"""A language model as an encoder of texts: a pooled mean of its hidden states.

    encoder = Embedder(model, Embedding(pooling="weighted-mean"))
    encoder.encode_text(Ragged.from_list([encoder.processor.query("A question").ids]))       # [1, D], unit length

e = p / |p|,  p = sum_t w_t h_t / sum_t w_t

h_t: [D], the hidden state of token t of T. w: 1 for each token (mean); t for token t (weighted-mean: SGPT, Muennighoff
2022, equation 2); 1 for the last token alone (last), which may be an end token put behind the text (eos: E5-Mistral,
Wang 2024). Tokens of an instruction before the text have no weight (GritLM, Muennighoff 2024, section 2), unless
`pool_instruction`. The temperature of the contrastive loss is fixed, or learned as CLIP's.

The objective `contrastive` and evaluations of encoders run on this view without change.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from mmalign.contract.backbone import ContrastiveHead, TokenizedText
from mmalign.contract.batch import Ragged
from mmalign.errors import BadSample, UsageError
from mmalign.language.layout import Layout, states_at
from mmalign.language.protocols import HasHiddenStates, TokenizesTexts
from mmalign.language.sequences import Sequences
from mmalign.pairs.embedder_options import Embedding, SavesEmbedders
from mmalign.pairs.wrapped import Wrapped

if TYPE_CHECKING:
    import random

    from PIL.Image import Image

    from mmalign.language.protocols import AnswersProcessor

_BORDER = -1  # in a row of ids: before it lies an instruction that is not pooled
_SCALE = "mmalign_log_scale"  # the module's parameter, where the temperature is learned


@dataclass(frozen=True)
class EmbedderProcessor:
    """Encodes texts for an `Embedder`. Picklable."""

    base: "AnswersProcessor"
    settings: Embedding
    context_length: int

    def image(self, image: "Image", rng: "random.Random | None" = None) -> Tensor:
        return self.base.image(image, rng)

    def text(self, text: str) -> TokenizedText:
        """A text that is found, behind the instruction of documents. Raises BadSample for one without a token."""
        return self._behind(self.settings.document_instruction, text)

    def query(self, text: str) -> TokenizedText:
        """A text that is searched with, behind the instruction of queries. Raises BadSample."""
        return self._behind(self.settings.query_instruction, text)

    def check(self) -> None:
        """Raise UsageError for an instruction whose tokens cannot be told from the text's."""
        _ = self._unpooled

    def _behind(self, instruction: str, text: str) -> TokenizedText:
        """The ids of instruction and text as one text; what lies beyond the context is cut, but for an end token."""
        ids = self._ids(instruction + text)
        ended = bool(ids) and ids[-1] == self.base.end_id
        if self.settings.pooling == "eos" and not ended:
            ids, ended = [*ids, self.base.end_id], True
        lost = max(0, len(ids) - self.context_length)
        if lost:
            ids = [*ids[: self.context_length - ended], *([self.base.end_id] if ended else [])]
        before = self._unpooled.get(instruction, 0)
        if len(ids) <= before:
            raise BadSample("a text without a token" if not before else "the instruction leaves no room for the text")
        return TokenizedText(torch.tensor([*ids[:before], *([_BORDER] if before else []), *ids[before:]]), lost)

    @functools.cached_property
    def _unpooled(self) -> dict[str, int]:
        """Instruction -> its number of tokens, where they have no weight. Raises UsageError where its last token takes
        in the beginning of a text: no tokens are then the instruction's alone."""
        lengths = {}
        for instruction in (self.settings.query_instruction, self.settings.document_instruction):
            if not instruction or self.settings.pool_instruction or self.settings.pooling in ("last", "eos"):
                continue
            ids = self._ids(instruction)
            own = ids[:-1] if ids[-1] == self.base.end_id else ids
            if any(self._ids(instruction + text)[: len(own)] != own for text in ("a", "The", "1")):
                raise UsageError(
                    f"the end of the instruction {instruction!r} joins the text behind it in one token, so that its "
                    "tokens cannot be left out",
                    hint="End it with a line break instead of a space, or pool it: "
                    "--set backbone.embedder.pool_instruction=true",
                )
            lengths[instruction] = len(own)
        return lengths

    def _ids(self, text: str) -> list[int]:
        base = self.base
        return (base.ids(text) if isinstance(base, TokenizesTexts) else base.prompt(text)).tolist()


class Embedder(Wrapped):
    """model: the language model; its own members are members of this, too."""

    def __init__(self, model: Any, settings: Embedding) -> None:
        self.backbone, self.settings = model, settings
        limit = model.processor.context_length
        self.processor = EmbedderProcessor(model.processor, settings, min(limit, settings.max_tokens or limit))
        self.processor.check()
        self.vocabulary: tuple[str, ...] = ()
        known = _SCALE in dict(model.module.named_parameters(recurse=False))
        if settings.learn_temperature and not known:
            start = torch.tensor(-math.log(settings.temperature), device=self._device)
            model.module.register_parameter(_SCALE, nn.Parameter(start))

    @classmethod
    def wrap(cls, model: Any, options: Any, data: Sequence[Any], samples: bool, say: Callable[[str], None]) -> Self:
        """With the model's own `embedding`, the settled options; the defaults for a family without these options."""
        return cls(model, getattr(model, "embedding", Embedding()))

    def describe(self) -> Mapping[str, Any]:
        settings = self.settings
        instructions = {
            side: text
            for side, text in (("query", settings.query_instruction), ("document", settings.document_instruction))
            if text
        }
        return {**self.backbone.describe(), "pooling": settings.pooling, **instructions}

    def encode_text(self, tokens: Ragged) -> Tensor:
        """tokens: N rows of ids from the processor -> [N, D], unit length."""
        texts, before = _without_borders(tokens)
        if not len(texts):
            return next(self.backbone.module.parameters()).new_zeros(0, self.backbone.hidden_width)
        model: HasHiddenStates = self.backbone
        hidden = model.hidden_states(Sequences.documents(texts))
        states, layout = hidden.states, hidden.layout
        if self.settings.pooling in ("last", "eos"):
            pooled = states_at(states, layout.last)
        else:
            pooled = self._mean(states_at(states, _places(layout, texts.lengths)), texts.lengths, before)
        pooled = pooled if pooled.dtype == torch.float64 else pooled.float()
        return nn.functional.normalize(pooled, dim=1)

    def _mean(self, states: Tensor, lengths: Tensor, before: Tensor) -> Tensor:
        """states: [L, D], of every token of every row; before: [N], tokens at the start of each row without weight ->
        [N, D], the weighted sums. Their length does not matter."""
        states = states if states.dtype == torch.float64 else states.float()
        place = torch.arange(len(states)) - (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
        weights = (place >= before.repeat_interleave(lengths)).to(states.dtype)
        if self.settings.pooling == "weighted-mean":
            weights = weights * (place + 1)
        weighted = states * weights.to(states)[:, None]
        return torch.segment_reduce(weighted, "sum", lengths=lengths.to(states.device), axis=0, unsafe=True)

    def contrastive_head(self) -> ContrastiveHead:
        learned = dict(self.backbone.module.named_parameters(recurse=False)).get(_SCALE)
        if learned is not None:
            return ContrastiveHead(learned, None)
        return ContrastiveHead(torch.tensor(-math.log(self.settings.temperature), device=self._device), None)

    def save(self, folder: Path) -> None:
        """As the family saves an encoder of texts, or as it saves a language model where it knows no encoders."""
        module = self.backbone.module
        learned = module._parameters.pop(_SCALE, None)  # no library knows it as a part of the model
        settings = self.settings
        if learned is not None:
            settings = replace(settings, temperature=math.exp(-float(learned.detach())))
        try:
            if isinstance(self.backbone, SavesEmbedders):
                self.backbone.save_embedder(folder, settings, self.processor.context_length)
            else:
                self.backbone.save(folder)
        finally:
            if learned is not None:
                module._parameters[_SCALE] = learned


def _without_borders(tokens: Ragged) -> tuple[Ragged, Tensor]:
    """The rows as the model reads them, and the length of the instruction before each, [N] on the CPU."""
    is_border = tokens.values == _BORDER
    borders = is_border.nonzero()[:, 0].cpu()
    rows = torch.searchsorted(tokens.offsets, borders, right=True) - 1
    lengths, before = tokens.lengths, torch.zeros(len(tokens), dtype=torch.int64)
    before[rows] = borders - tokens.offsets[rows]
    lengths[rows] -= 1
    return Ragged.of_lengths(tokens.values[~is_border], lengths), before


def _places(layout: Layout, lengths: Tensor) -> Tensor:
    """[L]: the flat positions of all tokens of documents, in order: those that predict a label, and the last ones."""
    is_last = torch.zeros(int(lengths.sum()), dtype=torch.bool)
    is_last[lengths.cumsum(0) - 1] = True
    is_last = is_last.to(layout.last.device)
    places = layout.last.new_empty(len(is_last))
    places[is_last], places[~is_last] = layout.last, layout.predict
    return places
