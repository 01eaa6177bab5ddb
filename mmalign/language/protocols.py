"""What language models and their processors provide: one Protocol a capability, no state.

T is the number of tokens, H the width of hidden states, L the places of a layout, P labels, M answers, C classes.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from mmalign.contract.backbone import Backbone, Processor

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mmalign.contract.examples import Turns
    from mmalign.language.layout import Layout
    from mmalign.language.sampling import Generated, Sampling
    from mmalign.language.sequences import Sequences
    from mmalign.ops import TokenLogps


class TokenizedAnswers(NamedTuple):
    """A prompt's ids [T]; the ids [T_k] of each of K answers, ended; for each the tokens to learn, bool [T_k]; how many
    tokens were cut off to fit; and of how many turns the chat template leaves out the thinking."""

    prompt: "Tensor"
    answers: "list[Tensor]"
    learn: "list[Tensor]"
    num_lost: int
    num_left_out: int = 0


class AnswersProcessor(Processor, Protocol):
    """A language model's: it also knows prompts and answers."""

    end_id: int

    @property
    def end_ids(self) -> "frozenset[int]":
        """All that end an answer when one is drawn, `end_id` among them: what closes a turn, too."""

    @property
    def num_tokens(self) -> int:
        """Size of the vocabulary: every id is below it."""

    def prompt(self, prompt: "Turns") -> "Tensor":
        """[T] ids of a prompt alone, uncut. Raises BadSample."""

    def observation(self, text: str, *, in_chat: bool = False) -> "Tensor":
        """[T] ids of what an environment says, to go behind what the policy wrote and ended. The text gives no special
        tokens, not even where it spells one. in_chat: as a turn of the user in a conversation, whose marks are the chat
        template's, up to where the next answer begins. Raises BadSample for a template that has no such turn."""

    def decode(self, ids: "Tensor") -> str:
        """ids: [T] -> their text, special tokens included."""

    def answers(self, prompt: "Turns", answers: "Sequence[Turns]") -> TokenizedAnswers:
        """Cut to the context, and counted; without answers, the prompt alone. Raises BadSample, with the reason."""


class Hidden(NamedTuple):
    """A trunk's output. states: [L, H], flat over the grids of `layout`, which says where each answer's tokens are."""

    states: "Tensor"
    layout: "Layout"


class HasHiddenStates(Protocol):
    hidden_width: int

    def hidden_states(self, sequences: "Sequences") -> Hidden:
        """The only pass through the trunk: log-probabilities and heads are functions of what it returns."""
        ...


class HasTokenLogps(Protocol):
    def token_logps(
        self, hidden: Hidden, *, temperature: float = 1.0, entropy: bool = False, uniform: bool = False
    ) -> "TokenLogps":
        """Of the labels in `hidden.layout`, in its order; options as `mmalign.ops.token_logps`."""
        ...


class Generates(Protocol):
    def generate(
        self,
        prompts: "Sequence[Tensor]",
        sampling: "Sampling",
        seeds: "Sequence[int]",
        on_token: "Callable[[int, int], None] | None" = None,
    ) -> "Generated":
        """An answer to each prompt [T] of ids, in order; a row depends on its prompt and its seed alone."""
        ...


class ScoresSequences(Protocol):
    def score_sequences(self, sequences: "Sequences") -> "Tensor":
        """[M]: the reward of each answer to its prompt, less the mean of good answers where it is known."""
        ...


class SavesScorers(Protocol):
    def save_scorer(self, folder: Path, head: "nn.Linear", mean: float) -> bool:
        """Write a reward model: this trunk with a head [H] -> 1, and the mean to take off its scores.

        Returns whether the family's own library loads it as a scorer.
        """
        ...

    def save_classifier(self, folder: Path, head: "nn.Linear", classes: "tuple[str, ...]") -> bool:
        """Write a classifier: this trunk with a head [H] -> C, and the names of the C classes. Returns as above."""
        ...


class CausalLM(Backbone, HasHiddenStates, HasTokenLogps, Generates, Protocol):
    """What pretraining, supervised fine-tuning and preference optimisation work with."""


class RewardModel(ScoresSequences, Protocol):
    """What ranks texts as people did."""

    module: "nn.Module"
    processor: AnswersProcessor
