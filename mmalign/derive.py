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
