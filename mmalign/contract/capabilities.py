"""The capabilities of backbones, and what mmalign derives from them.

A backbone's families declare capabilities. An objective's roles need capabilities or derived ones. `satisfy` says
whether a need is met, directly or by derivation, without importing a model.
"""

from collections.abc import Set as AbstractSet
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

    PAIR_SCORE = "pair_score"
    SEQUENCE_LOGP = "sequence_logp"
    SCALAR_REWARD = "scalar_reward"
    VALUE = "value"


Need = Capability | Derived

_DUAL_ENCODER = frozenset({Capability.ENCODE_IMAGE, Capability.ENCODE_TEXT, Capability.CONTRASTIVE_HEAD})

# Derivation -> sets of capabilities, each of which suffices; the preferred one first.
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
