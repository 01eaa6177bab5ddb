r"""A dual encoder as a language model of one token, whose vocabulary is a list of candidate texts.

    policy = CandidateModel(clip, ("a photo of a cat", "a photo of a dog"))
    hidden = policy.hidden_states(sequences)             # prompts are pictures, an answer is the number of a candidate
    policy.token_logps(hidden).logps                     # [M]

log p(y | x) = log softmax_j(exp(t) <f(x), g(c_j)>)[y]

x: a picture; c_j: candidate j of C; f, g: the towers, unit length [D]; t: the learned temperature. The hidden state of
a prompt is its picture's embedding, scaled by exp(t); the output layer's weight [C, D] is the candidates' embeddings
(Radford 2021, section 3.1.2: so CLIP classifies by a list of texts). A learned bias (SigLIP) is the same for all
candidates and cancels.

Prompts may be texts and answers pictures, too, for objectives that use only differences between answers to one prompt:
there the partition function cancels, and exp(t) <g(x), f(y)> stands for the log-probability of the picture y.

An objective over a language model's hidden states and log-probabilities runs on this view without change.
"""

import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mmalign.contract.batch import Ragged
from mmalign.errors import BadSample, UsageError
from mmalign.files import write_text
from mmalign.language.layout import Layout, states_at
from mmalign.language.protocols import TokenizedAnswers
from mmalign.language.sampling import Generated, Sampling, draw, uniforms
from mmalign.ops.logps import Head, TokenLogps, token_logps
from mmalign.pairs.options import candidates_of
from mmalign.pairs.reading import check_pair, placeholder, prompt_tokens
from mmalign.pairs.wrapped import Wrapped

if TYPE_CHECKING:
    import random

    from PIL.Image import Image
    from torch import nn

    from mmalign.contract.backbone import DualEncoder, Processor, TokenizedText
    from mmalign.contract.examples import Content
    from mmalign.language.sequences import Sequences

_NO_LIMIT = 1 << 20  # tokens: a prompt and an answer are never cut
_CHUNK = 64  # candidates embedded at once


@dataclass(frozen=True)
class CandidateProcessor:
    """Encodes a prompt and its answers for a `CandidateModel`. Picklable."""

    base: "Processor"
    candidates: tuple[str, ...]
    end_id: int = -1
    end_ids: frozenset[int] = frozenset()  # an answer ends by itself, without a token for it
    context_length: int = _NO_LIMIT

    @property
    def num_tokens(self) -> int:
        return len(self.candidates)

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        return {text: number for number, text in enumerate(self.candidates)}

    def image(self, image: "Image", rng: "random.Random | None" = None) -> Tensor:
        return self.base.image(image, rng)

    def text(self, text: str) -> "TokenizedText":
        return self.base.text(text)

    def prompt(self, prompt: "Content") -> Tensor:
        """[T]: the ids of a text, or one placeholder for a picture. Raises BadSample for a conversation."""
        return prompt_tokens(self.base, prompt).ids

    def observation(self, text: str, *, in_chat: bool = False) -> Tensor:
        raise BadSample("a dual encoder answers with one candidate: no environment can reply to it")

    def decode(self, ids: Tensor) -> str:
        """The candidates with these numbers."""
        return ", ".join(self.candidates[number] for number in ids.tolist())

    def answers(self, prompt: "Content", answers: "Sequence[Content]") -> TokenizedAnswers:
        """Raises BadSample for a text that is no candidate, and where prompt and answers are both texts or pictures."""
        check_pair(prompt, answers)
        ids = [self._number(answer) if isinstance(answer, str) else placeholder() for answer in answers]
        tokens, lost = prompt_tokens(self.base, prompt)
        return TokenizedAnswers(tokens, ids, [torch.ones(1, dtype=torch.bool) for _ in ids], lost)

    def _number(self, answer: str) -> Tensor:
        if answer not in self._numbers:
            raise BadSample(f"the answer {answer!r} is none of the {len(self.candidates):,} candidates")
        return torch.tensor([self._numbers[answer]])


class Embedded(NamedTuple):
    """A `mmalign.language.protocols.Hidden`. states: [N, D], the embeddings of the prompts. answers: [M, D], those of
    answers that are pictures."""

    states: Tensor
    layout: Layout
    answers: Tensor | None


class _Candidates(NamedTuple):
    """leaf: [C, D]. state: of what it depends on. learns: whether it was computed with gradient. trains: whether it may
    depend on parameters that train. chunks: the embeddings with their graphs, if it does."""

    leaf: Tensor
    state: tuple[int, ...]
    learns: bool
    trains: bool
    chunks: list[Tensor]


class CandidateModel(Wrapped):
    """backbone: the dual encoder; its own members are members of this, too. candidates: different texts, at least two;
    none if all answers are pictures. Raises UsageError."""

    def __init__(self, backbone: "DualEncoder", candidates: Iterable[str]) -> None:
        texts = tuple(candidates)
        if len(texts) == 1:
            raise UsageError(
                f"there is one candidate, {texts[0]!r}: every answer then has probability 1",
                hint='Give several: --set \'backbone.candidates=["a cat", "a dog"]\', or a file, @names.txt',
            )
        self.backbone = backbone
        self.processor = CandidateProcessor(backbone.processor, texts)
        with torch.no_grad():
            probe = Ragged.from_list([backbone.processor.text("a").ids]).to(self._device)
            self.hidden_width = backbone.encode_text(probe).shape[1]
        self._tokens = Ragged.from_list([backbone.processor.text(text).ids for text in texts])
        self._embedded: _Candidates | None = None
        layers = backbone.module.modules()
        self._drops_out = any(isinstance(layer, torch.nn.Dropout) and layer.p > 0 for layer in layers)

    @classmethod
    def wrap(
        cls, model: "DualEncoder", options: Any, data: Sequence[Any], samples: bool, say: Callable[[str], None]
    ) -> Self:
        """With the candidates of the options or of the data, which `say` is told. Raises UsageError."""
        candidates = candidates_of(options.candidates, data, required=samples)
        if candidates:
            say(f"{len(candidates):,} candidates: {', '.join(candidates[:3])}{', ...' if len(candidates) > 3 else ''}")
        return cls(model, candidates)

    def describe(self) -> Mapping[str, Any]:
        return {**self.backbone.describe(), "candidates": len(self.processor.candidates)}

    def save(self, folder: Path) -> None:
        """The dual encoder alone, in its own format."""
        self.backbone.save(folder)

    def save_classifier(self, folder: Path, head: "nn.Linear", classes: tuple[str, ...]) -> bool:
        """The dual encoder, the head in head.safetensors ("weight", [classes, D]) and the names in classes.json: the
        logits of a picture are `weight @ embedding`. `mmalign.evaluate.classifier` loads them. Returns False: no other
        library does."""
        self.backbone.save(folder)
        save_file({"weight": head.weight.detach().cpu().contiguous()}, folder / "head.safetensors")
        write_text(folder / "classes.json", json.dumps(classes, ensure_ascii=False) + "\n")
        return False

    def hidden_states(self, sequences: "Sequences") -> Embedded:
        """One pass through the tower of the prompts and, where answers are pictures, one through theirs."""
        if sequences.pictures is not None:
            states = self.backbone.encode_image(sequences.pictures)
        else:
            states = self.backbone.encode_text(sequences.prompts)
        pictures = sequences.answer_pictures
        answers = None if pictures is None else self.backbone.encode_image(pictures)
        owner, labels = sequences.owner, sequences.num_labels()
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), labels.cumsum(0)])
        device = states.device
        predict = owner.repeat_interleave(labels).to(device)
        ids = sequences.answers.values[sequences.is_label]
        return Embedded(states, Layout((), predict, ids, offsets, owner.to(device)), answers)

    def token_logps(
        self, hidden: Embedded, *, temperature: float = 1.0, entropy: bool = False, uniform: bool = False
    ) -> TokenLogps:
        """Of each label; of pictures, up to a constant that answers to one prompt share."""
        if hidden.answers is not None:
            scores = self.pair_scores(hidden) / temperature
            return TokenLogps(scores, None, torch.zeros_like(scores, dtype=torch.bool))
        states, labels = self._scale() * states_at(hidden.states, hidden.layout.predict), hidden.layout.labels
        if not len(labels):  # pictures without answers, as those of a classifier
            nothing = states.sum(1)
            return TokenLogps(nothing, nothing if entropy else None, torch.zeros_like(labels, dtype=torch.bool))
        head = Head(self.embeddings())
        return token_logps(states, head, labels, temperature=temperature, entropy=entropy, uniform=uniform)

    def pair_scores(self, hidden: Embedded) -> Tensor:
        """[M]: exp(t) times the cosine of each answer and its prompt. The bias, if any, is left out: it is the same for
        all pairs."""
        states, answers = states_at(hidden.states, hidden.layout.last), hidden.answers
        if answers is None:
            answers = self.embeddings().index_select(0, hidden.layout.labels)
        return self._scale() * (states * answers).sum(1)

    def embeddings(self) -> Tensor:
        """[C, D], of the candidates: computed once for all passes until a parameter that they depend on changes.

        With gradient it is a leaf, which collects the gradient of all micro-batches; `finish_gradients` passes it on.
        """
        learns = torch.is_grad_enabled()
        known = self._embedded
        if known is None or known.state != self._state(known.trains) or (learns and not known.learns):
            self._embedded = known = self._embed(learns)
        return known.leaf if learns else known.leaf.detach()

    def require_room(self, room: float) -> None:
        """Each candidate takes its ids, and its embedding, its gradient and a chunk's copy of it."""
        number = len(self._tokens)
        if not number:
            return
        element = next(self.backbone.module.parameters()).element_size()
        each = 8 * len(self._tokens.values) / number + 3 * element * self.hidden_width
        if number * each > room:
            raise UsageError(
                f"{number:,} candidates take {number * each / 1e9:,.1f} GB of memory, and {max(0, room) / 1e9:,.1f} GB "
                f"are left beside the model: about {max(0, int(room / each)):,} fit",
                hint="Give fewer: --set backbone.candidates=@names.txt",
            )

    def begin_shared(self) -> None:
        if len(self._tokens):
            self.embeddings()

    def finish_gradients(self) -> None:
        embedded = self._embedded
        if embedded is None or not embedded.chunks:
            return
        self._embedded = None
        if embedded.leaf.grad is None:
            return
        gradients = embedded.leaf.grad.split(_CHUNK)
        for chunk, gradient in zip(embedded.chunks, gradients, strict=True):
            chunk.backward(gradient)

    def _embed(self, learns: bool) -> "_Candidates":
        """With gradient, activations are not kept: each chunk is computed again in the backward pass, with the random
        state that it had."""
        chunks = []
        for start in range(0, len(self._tokens), _CHUNK):
            rows = self._tokens.select(range(start, min(start + _CHUNK, len(self._tokens)))).to(self._device)
            encode = self.backbone.encode_text
            chunks.append(checkpoint(encode, rows, use_reentrant=False) if learns else encode(rows))
        trains = any(chunk.requires_grad for chunk in chunks)
        leaf = torch.cat([chunk.detach() for chunk in chunks]).requires_grad_(trains)
        trains = trains or not learns  # without gradient, nothing says on which parameters they depend
        return _Candidates(leaf, self._state(trains), learns, trains, chunks if leaf.requires_grad else [])

    def _state(self, trains: bool) -> tuple[int, ...]:
        """The precision, the mode if anything is dropped out, and the versions of the parameters: of all, or, if the
        embeddings depend on these alone, of those that do not train."""
        module = self.backbone.module
        versions = (each._version for each in module.parameters() if trains or not each.requires_grad)
        return (torch.is_autocast_enabled(self._device.type), self._drops_out and module.training, *versions)

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Tensor],
        sampling: Sampling,
        seeds: Sequence[int],
        on_token: Callable[[int, int], None] | None = None,
    ) -> Generated:
        """prompts: N pictures. Each answer is one candidate, and thereby ended. Equal neighbours, as for several
        answers to one prompt, are encoded once."""
        is_new = [not row or not torch.equal(prompts[row], prompts[row - 1]) for row in range(len(prompts))]
        different = torch.stack([prompt for prompt, new in zip(prompts, is_new, strict=True) if new])
        of_row = torch.tensor(is_new).cumsum(0) - 1
        states = self.backbone.encode_image(different)[of_row.to(different.device)]
        logits = self._scale() * states @ self.embeddings().T
        tokens, logps = draw(logits, sampling, uniforms(seeds, 0))
        if on_token is not None:
            for row, token in enumerate(tokens.tolist()):
                on_token(row, token)
        return Generated(list(tokens[:, None]), list(logps[:, None]), [True] * len(tokens))

    def _scale(self) -> Tensor:
        return self.backbone.contrastive_head().log_scale.exp()
