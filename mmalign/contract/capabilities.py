"""What a backbone can do, and what follows from it.

A backbone's families declare capabilities; an objective's roles ask for capabilities or for derived ones. `satisfy`
answers whether a need is met, directly or by derivation, without importing a model.
"""

from collections.abc import Set as AbstractSet
from enum import StrEnum


class Capability(StrEnum):
    """One method of a backbone class each; the typed Protocols are in `mmalign.contract.backbone` and
    `mmalign.language.protocols`.

    A declared `adapter_switch` says that the family can have an adapter (`backbone.lora.rank`), not that it has one:
    that is the backbone's `adapter_is_fresh`.
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
    """What the core computes from capabilities, for every backbone that has them."""

    PAIR_SCORE = "pair_score"
    SEQUENCE_LOGP = "sequence_logp"
    SCALAR_REWARD = "scalar_reward"
    VALUE = "value"


Need = Capability | Derived

_DUAL_ENCODER = frozenset({Capability.ENCODE_IMAGE, Capability.ENCODE_TEXT, Capability.CONTRASTIVE_HEAD})

# Each derivation lists the sets of capabilities that suffice, the preferred one first.
DERIVATIONS: dict[Derived, tuple[frozenset[Capability], ...]] = {
    Derived.PAIR_SCORE: (_DUAL_ENCODER,),
    Derived.SEQUENCE_LOGP: (frozenset({Capability.TOKEN_LOGPS}), _DUAL_ENCODER),
    Derived.SCALAR_REWARD: (frozenset({Capability.HIDDEN_STATES}), _DUAL_ENCODER),
    Derived.VALUE: (frozenset({Capability.HIDDEN_STATES}), _DUAL_ENCODER),
}


def parse_need(name: str) -> Need:
    """Return the capability or derivation of that name; raises ValueError for an unknown one."""
    return Capability(name) if name in set(Capability) else Derived(name)


def satisfy(need: Need, provides: AbstractSet[Capability]) -> tuple[bool, frozenset[Capability]]:
    """Return (met, capabilities): those it is derived from, or those missing by the nearest way.

    A need met directly returns (True, empty set).
    """
    if isinstance(need, Capability):
        return need in provides, frozenset() if need in provides else frozenset({need})
    for way in DERIVATIONS[need]:
        if way <= provides:
            return True, way
    return False, min((way - provides for way in DERIVATIONS[need]), key=len)
