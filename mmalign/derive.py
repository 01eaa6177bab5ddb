"""What the core computes from capabilities, for every backbone that has them."""

from typing import TYPE_CHECKING

from mmalign.ops import sum_rows

if TYPE_CHECKING:
    from torch import Tensor

    from mmalign.data.sequences import Sequences
    from mmalign.protocols import CausalLM


def sequence_logps(backbone: "CausalLM", sequences: "Sequences") -> "Tensor":
    """[M] log-probability of each answer given its prompt, in nats: the sum over its labels."""
    hidden = backbone.hidden_states(sequences)
    return sum_rows(backbone.token_logps(hidden).logps, hidden.layout.offsets)


def label_sums(backbone: "CausalLM", sequences: "Sequences") -> "dict[str, Tensor]":
    """logps, hits: [M], sums over the labels of each answer, for a loss that weighs all labels alike.

    hits: labels that are the most probable token.
    """
    hidden = backbone.hidden_states(sequences)
    found = backbone.token_logps(hidden, uniform=True)
    offsets = hidden.layout.offsets
    return {"logps": sum_rows(found.logps, offsets), "hits": sum_rows(found.hits.to(found.logps.dtype), offsets)}
