"""Quantities that objectives compute from a language model's hidden states: log-probabilities, values and scores."""

from typing import TYPE_CHECKING

from mmalign.language.layout import states_at
from mmalign.ops import sum_rows

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mmalign.language.protocols import CausalLM, Hidden
    from mmalign.language.sequences import Sequences


def sequence_logps(backbone: "CausalLM", sequences: "Sequences") -> "Tensor":
    """[M] log-probability of each answer given its prompt, in nats: the sum over its labels."""
    hidden = backbone.hidden_states(sequences)
    return sum_rows(backbone.token_logps(hidden).logps, hidden.layout.offsets)


def label_sums(backbone: "CausalLM", sequences: "Sequences") -> "dict[str, Tensor]":
    """logps, hits: [M], sums over the labels of each answer, for a loss that weighs all labels alike.

    hits: how many labels are the most probable token.
    """
    return hidden_label_sums(backbone, backbone.hidden_states(sequences))


def hidden_label_sums(backbone: "CausalLM", hidden: "Hidden") -> "dict[str, Tensor]":
    """`label_sums`, from hidden states that were computed already."""
    tokens = backbone.token_logps(hidden, uniform=True)
    offsets = hidden.layout.offsets
    return {"logps": sum_rows(tokens.logps, offsets), "hits": sum_rows(tokens.hits.to(tokens.logps.dtype), offsets)}


def token_values(head: "nn.Linear", hidden: "Hidden") -> "Tensor":
    """[P]: a head [H] -> 1 on the state that predicts each label, in the order of `token_logps`, from any trunk.

    Computed in the head's own precision, under autocast too.
    """
    return _on_states(head, states_at(hidden.states, hidden.layout.predict))[:, 0]


def last_token_scores(head: "nn.Linear", hidden: "Hidden") -> "Tensor":
    """[M, rows]: a linear head on the last token of each answer, in the head's own precision, under autocast too."""
    return _on_states(head, states_at(hidden.states, hidden.layout.last))


def _on_states(head: "nn.Linear", states: "Tensor") -> "Tensor":
    import torch

    with torch.autocast(states.device.type, enabled=False):
        return head(states.to(head.weight.dtype))
