"""What language models and their processors provide: one stateless Protocol for each capability.

T is the number of tokens, H the width of hidden states, L the positions of a layout, P labels, M answers, C classes.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from mmalign.contract.backbone import Backbone, Processor

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mmalign.contract.examples import Content
    from mmalign.language.layout import Layout
    from mmalign.language.sampling import Generated, Sampling
    from mmalign.language.sequences import Sequences
    from mmalign.ops import TokenLogps


class TokenizedAnswers(NamedTuple):
    """prompt: ids [T]. answers: ids [T_k] of each of K answers, with their end token. learn: bool [T_k] for each
    answer, the tokens to learn. num_lost: tokens cut off to fit. num_left_out: turns whose thinking the chat template
    leaves out. picture, answer_pictures: the prompt and the answers as the processor encodes pictures, if they are
    pictures; their ids are then one placeholder."""

    prompt: "Tensor"
    answers: "list[Tensor]"
    learn: "list[Tensor]"
    num_lost: int
    num_left_out: int = 0
    picture: "Tensor | None" = None
    answer_pictures: "tuple[Tensor, ...]" = ()


class ReadsAnswers(Processor, Protocol):
    """The processor of a model of prompts with answers."""

    def answers(self, prompt: "Content", answers: "Sequence[Content]") -> TokenizedAnswers:
        """Cut to the context, and the cut counted; without answers, the prompt alone. Raises BadSample, with the
        reason."""
        ...


class AnswersProcessor(ReadsAnswers, Protocol):
    """The processor of a language model."""

    end_id: int

    @property
    def end_ids(self) -> "frozenset[int]":
        """All tokens that end an answer during generation: `end_id`, and the token that closes a turn."""

    @property
    def num_tokens(self) -> int:
        """Size of the vocabulary: every id is below it."""

    def prompt(self, prompt: "Content") -> "Tensor":
        """[T] ids of a prompt alone, uncut. Raises BadSample."""

    def observation(self, text: str, *, in_chat: bool = False) -> "Tensor":
        """[T] ids of an environment's text, to be put behind an ended answer of the policy. The text yields no special
        tokens, even where it spells one. in_chat: as a user's turn of the conversation, with the chat template's
        markers up to where the next answer begins. Raises BadSample for a template that has no such turn."""

    def decode(self, ids: "Tensor") -> str:
        """ids: [T] -> their text, special tokens included."""


class Hidden(NamedTuple):
    """A trunk's output. states: [L, H], flat over the grids of `layout`, which says where each answer's tokens are."""

    states: "Tensor"
    layout: "Layout"


class HasHiddenStates(Protocol):
    hidden_width: int

    def hidden_states(self, sequences: "Sequences") -> Hidden:
        """The only pass through the trunk: log-probabilities and heads are computed from its result."""
        ...


class HasTokenLogps(Protocol):
    def token_logps(
        self, hidden: Hidden, *, temperature: float = 1.0, entropy: bool = False, uniform: bool = False
    ) -> "TokenLogps":
        """Log-probabilities of the labels in `hidden.layout`, in its order; options as in `mmalign.ops.token_logps`."""
        ...


class Generates(Protocol):
    def generate(
        self,
        prompts: "Sequence[Tensor]",
        sampling: "Sampling",
        seeds: "Sequence[int]",
        on_token: "Callable[[int, int], None] | None" = None,
    ) -> "Generated":
        """An answer to each prompt [T] of ids, in order; a row depends only on its prompt and its seed."""
        ...


@runtime_checkable
class ScoresPairs(Protocol):
    """A model whose own score of a prompt and an answer is what a reward model learns: it needs no linear head."""

    def pair_scores(self, hidden: Hidden) -> "Tensor":
        """[M]: the score of each answer."""
        ...


class ScoresSequences(Protocol):
    def score_sequences(self, sequences: "Sequences") -> "Tensor":
        """[M]: the reward of each answer to its prompt, minus the mean reward of good answers where it is known."""
        ...


class SavesScorers(Protocol):
    def save_scorer(self, folder: Path, head: "nn.Linear", mean: float) -> bool:
        """Write a reward model: this trunk, a head [H] -> 1, and the mean to subtract from its scores.

        Returns whether the family's own library loads it as a scorer.
        """
        ...

    def save_classifier(self, folder: Path, head: "nn.Linear", classes: "tuple[str, ...]") -> bool:
        """Write a classifier: this trunk, a head [H] -> C, and the names of the C classes. Returns as `save_scorer`."""
        ...


@runtime_checkable
class TokenizesTexts(Protocol):
    """A processor that gives the ids of a text as its tokenizer does for other users of the model."""

    def ids(self, text: str) -> "Tensor":
        """[T]: uncut, with the special tokens that the tokenizer itself puts around a text."""
        ...


class CausalLM(Backbone, HasHiddenStates, HasTokenLogps, Generates, Protocol):
    """The language model that pretraining, supervised fine-tuning and preference optimisation need."""


class RewardModel(ScoresSequences, Protocol):
    """A model that scores answers as people ranked them."""

    module: "nn.Module"
    processor: ReadsAnswers
