"""The capabilities of backbones, and what mmalign derives from them.

A backbone's families declare capabilities. An objective's roles need capabilities or derived ones. `satisfy` says
whether a need is met, directly or by derivation, without importing a model.
"""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum


class Capability(StrEnum):
    """Each capability is one method of a backbone class; the typed Protocols are in `mmalign.contract.backbone` and
    `mmalign.language.protocols`.

    `adapter_switch`: models of the family can have an adapter (`backbone.lora.rank`). Whether a model has a fresh one,
    its `adapter_is_fresh` says.
    """

    ENCODE_IMAGE = "encode_image"
    ENCODE_TEXT = "encode_text"
    CONTRASTIVE_HEAD = "contrastive_head"
    TOKEN_LOGPS = "token_logps"
    HIDDEN_STATES = "hidden_states"
    GENERATE = "generate"
    SCORE_SEQUENCES = "score_sequences"
    ADAPTER_SWITCH = "adapter_switch"

    @property
    def method(self) -> str:
        """The method's name in a backbone class."""
        return "adapter_off" if self is Capability.ADAPTER_SWITCH else self.value


class Derived(StrEnum):
    """Needs that the core computes from capabilities, for every backbone that has these."""

    SEQUENCE_LOGP = "sequence_logp"
    SCALAR_REWARD = "scalar_reward"
    VALUE = "value"


Need = Capability | Derived

_DUAL_ENCODER = frozenset({Capability.ENCODE_IMAGE, Capability.ENCODE_TEXT, Capability.CONTRASTIVE_HEAD})
_TRUNK = frozenset({Capability.HIDDEN_STATES})

# Derivation -> sets of capabilities, each of which suffices; the preferred one first. The functions that compute them
# are in `mmalign.language.derive`.
DERIVATIONS: dict[Derived, tuple[frozenset[Capability], ...]] = {
    Derived.SEQUENCE_LOGP: (_TRUNK | {Capability.TOKEN_LOGPS},),
    Derived.SCALAR_REWARD: (_TRUNK,),
    Derived.VALUE: (_TRUNK,),
}

Pair = tuple[str, str]
"""The contents of a prompt and of its answers: "text", "image", or "" for none, as the prompt of a document."""


def in_words(pair: Pair) -> str:
    """("image", "text") as "pictures with texts"."""
    names = {"text": "texts", "image": "pictures"}
    prompts, answers = pair
    if not prompts:
        return "documents"
    return f"{names[prompts]} with {names[answers]} as answers" if answers else f"{names[prompts]} without answers"


_OF_SEQUENCES = frozenset({Capability.HIDDEN_STATES, Capability.TOKEN_LOGPS, Capability.SCORE_SEQUENCES})


TEXT_PAIRS: frozenset[Pair] = frozenset({("text", "text"), ("text", ""), ("", "text")})
"""Of a language model: answers to prompts, prompts to answer, and documents."""


def usual_pairs(provides: AbstractSet[Capability]) -> frozenset[Pair]:
    """TEXT_PAIRS for a language model; none for others."""
    return TEXT_PAIRS if provides & _OF_SEQUENCES else frozenset()


def reads_sequences(need: Need) -> bool:
    """Whether what is needed is a function of prompts and answers, or of documents, and not of a text or a picture."""
    return need in _OF_SEQUENCES or need is Capability.GENERATE or isinstance(need, Derived)


@dataclass(frozen=True)
class View:
    """A second interface to models with the capabilities `source`: a class of the core wraps such a model, and thereby
    provides further capabilities. target: that class, "package.module:Name", a `mmalign.registry.views.ViewOfModel`.
    alone: it needs nothing but the model, so that commands and evaluations may use it. pairs: the contents of prompts
    and answers that it reads; relative_pairs: those that it reads for an objective that is `relative`."""

    name: str
    summary: str
    target: str
    source: frozenset[Capability]
    provides: frozenset[Capability]
    pairs: frozenset[Pair] = frozenset()
    relative_pairs: frozenset[Pair] = frozenset()
    alone: bool = False


VIEWS = (
    View(
        name="candidates",
        summary="a language model of one token, whose vocabulary is a list of texts",
        target="mmalign.pairs.candidates:CandidateModel",
        source=_DUAL_ENCODER,
        provides=frozenset({Capability.HIDDEN_STATES, Capability.TOKEN_LOGPS, Capability.GENERATE}),
        pairs=frozenset({("image", "text"), ("image", "")}),
        relative_pairs=frozenset({("text", "image")}),
    ),
    View(
        name="embedder",
        summary="an encoder of texts, by pooling the hidden states",
        target="mmalign.pairs.embedder:Embedder",
        source=_TRUNK,
        provides=frozenset({Capability.ENCODE_TEXT, Capability.CONTRASTIVE_HEAD}),
        alone=True,
    ),
    View(
        name="judge",
        summary="a reward model, which scores a picture and a text by their similarity",
        target="mmalign.pairs.judge:Judge",
        source=_DUAL_ENCODER,
        provides=frozenset({Capability.SCORE_SEQUENCES}),
        pairs=frozenset({("image", "text"), ("text", "image")}),
        alone=True,
    ),
)

ALONE = tuple(view for view in VIEWS if view.alone)


def parse_need(name: str) -> Need:
    """Return the capability or derivation of that name; raises ValueError for an unknown one."""
    return Capability(name) if name in set(Capability) else Derived(name)


def satisfy(need: Need, provides: AbstractSet[Capability]) -> tuple[bool, frozenset[Capability]]:
    """Return (met, capabilities).

    If the need is met by derivation, these are the capabilities that it is derived from; if it is met directly, none.
    If it is not met, they are the fewest that are missing.
    """
    if isinstance(need, Capability):
        return need in provides, frozenset() if need in provides else frozenset({need})
    for sufficient in DERIVATIONS[need]:
        if sufficient <= provides:
            return True, sufficient
    return False, min((sufficient - provides for sufficient in DERIVATIONS[need]), key=len)
