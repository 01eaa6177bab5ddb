"""What backbones, processors and data sets look like to the rest: one Protocol a capability, no state.

A backbone class has what `Backbone` says and the methods of every capability that its families declare; the conformance
kit checks both ways. N is the number of examples, D the embedding width, T tokens, H and W pixels.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, Self, runtime_checkable

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from pydantic import BaseModel
    from torch import Tensor, nn

    from mmalign.catalog import Catalog
    from mmalign.data.batch import Ragged
    from mmalign.data.examples import Turns
    from mmalign.data.layout import Layout
    from mmalign.data.sequences import Sequences
    from mmalign.evaluate.runtime import Runtime
    from mmalign.ops import TokenLogps
    from mmalign.rl.answers import Answers
    from mmalign.sampling import Generated, Sampling
    from mmalign.sources import Source


class TokenizedText(NamedTuple):
    """Token ids [T] as the model takes them (start and end tokens included), and how many were cut off to fit."""

    ids: "Tensor"
    num_lost: int


class TokenizedAnswers(NamedTuple):
    """A prompt's ids [T]; the ids [T_k] of each of K answers, ended; for each the tokens to learn, bool [T_k]; how many
    tokens were cut off to fit; and of how many turns the chat template leaves out the thinking."""

    prompt: "Tensor"
    answers: "list[Tensor]"
    learn: "list[Tensor]"
    num_lost: int
    num_left_out: int = 0


class Processor(Protocol):
    """Turns pictures and texts into what one backbone's methods take. Picklable: data workers hold a copy."""

    context_length: int

    def image(self, image: "Image", rng: random.Random | None = None) -> "Tensor":
        """[3, H, W] float; with `rng` the training augmentation drawn from it, without it the evaluation transform."""
        ...

    def text(self, text: str) -> TokenizedText: ...


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


class Backbone(Protocol):
    """A model of some family with its processor. It draws random numbers through torch's generators only."""

    Config: "ClassVar[type[BaseModel]]"
    module: "nn.Module"  # owns every parameter; `named_parameters` are the names in checkpoints
    processor: Processor
    vocabulary: tuple[str, ...]  # names that fill a label's placeholder by default; may be empty

    @classmethod
    def load(cls, source: "Source", config: Any) -> Self:
        """Build the model and load its weights on the CPU; raises CheckpointError for a folder it cannot trust."""
        ...

    def save(self, folder: Path) -> None:
        """Write a folder that the family's own library loads, and that `load` takes back, everything included."""
        ...

    def describe(self) -> Mapping[str, Any]:
        """Facts for plans and reports, such as {"architecture": "ViT-B-32", "context_length": 77}. "note": a sentence
        that commands print. "min_cosine": where a dual encoder was calibrated, below it no label fits."""
        ...


class EncodesImages(Protocol):
    def encode_image(self, images: "Tensor") -> "Tensor":
        """images: [N, 3, H, W] from the processor -> [N, D], unit length."""
        ...


class EncodesText(Protocol):
    def encode_text(self, tokens: "Ragged") -> "Tensor":
        """tokens: N rows of ids from the processor -> [N, D], unit length. Padding happens here and changes nothing."""
        ...


class ContrastiveHead(NamedTuple):
    """The learned temperature: scores are exp(log_scale) * cosine + bias. Both are 0-D; bias may be absent."""

    log_scale: "Tensor"
    bias: "Tensor | None"


class HasContrastiveHead(Protocol):
    def contrastive_head(self) -> ContrastiveHead: ...


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


@runtime_checkable
class SwitchesAdapter(Protocol):
    """A backbone that can have an adapter; its Config has the option `lora`, a `mmalign.lora.LoraOptions`."""

    @property
    def adapter_is_fresh(self) -> bool:
        """Whether it has an adapter, and without it computes what the starting policy does: a free reference."""
        ...

    def adapter_off(self) -> AbstractContextManager[None]:
        """Within, it computes with its own weights, exactly; raises UsageError where it has no adapter."""
        ...


@runtime_checkable
class NamesPlaces(Protocol):
    """Options that name files or folders which models are made of, besides the backbone's source."""

    def places(self) -> "tuple[Path, ...]":
        """Those that are set."""
        ...


@runtime_checkable
class ChecksTraining(Protocol):
    """A backbone's options that do not all leave something to train."""

    def check_training(self) -> None:
        """Raise UsageError where a model with these options cannot train: before anything is loaded."""
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


class DualEncoder(Backbone, EncodesImages, EncodesText, HasContrastiveHead, Protocol):
    """What zero-shot classification and contrastive training work with."""


class Dataset(Protocol):
    """Examples of one kind, by index, the same at every call. Picklable; images are referred to, not read."""

    Config: "ClassVar[type[BaseModel]]"

    @classmethod
    def build(cls, config: Any, split: str) -> "Self | None":
        """The part named `split`, one of its spec's `splits`; None where nothing is set aside. Raises DataError."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...

    def report(self) -> Mapping[str, Any]:
        """At least {"kept": int, "skipped": {reason: int}, "source": str}. "ignored": counts of what was never meant to
        be read; "entries": of every row, member or file, once; "notes": sentences that commands print."""
        ...

    def fingerprint(self) -> str:
        """A hash that changes when the data does; a resumed run compares it."""
        ...


class LabelledDataset(Dataset, Protocol):
    """A data set of image-label or text-label examples; `label` indexes `classes`, the same in all its parts."""

    classes: tuple[str, ...]


class Reward(Protocol):
    """A scorer of answers, higher for better."""

    Config: "ClassVar[type[BaseModel]]"

    def __init__(self, config: Any) -> None: ...

    def score(self, answers: "Answers") -> "Tensor | Sequence[float | None]":
        """[M], finite; None in a list: no score for that answer. What it raises stops the run, with its name."""
        ...


@runtime_checkable
class OpensModels(Protocol):
    """A reward that works with models of its own."""

    def open(self, catalog: "Catalog", device: "torch.device", say: Callable[[str], None]) -> None:
        """Load them, once, before the first call of `score`."""
        ...


class Evaluation(Protocol):
    """A held-out measurement. Its spec says what it needs and on which kind of example it runs."""

    Config: "ClassVar[type[BaseModel]]"  # with the field `max_examples`, 0 for all

    def __init__(self, config: Any) -> None: ...

    def run(self, backbone: Any, dataset: Any, runtime: "Runtime") -> Mapping[str, float]:
        """Metrics by name, the spec's `primary` among them; `x_low` and `x_high` are the 95% interval of `x`.

        Random state and module modes are left as they were. `runtime.split` has the other parts of the data.
        """
        ...
