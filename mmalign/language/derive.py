"""Quantities that objectives compute from a language model's hidden states: log-probabilities, values and scores."""

from typing import TYPE_CHECKING

from mmalign.contract.backbone import Backbone
from mmalign.language.layout import states_at
from mmalign.language.protocols import CausalLM, SavesScorers, ScoresPairs
from mmalign.ops import sum_rows

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from mmalign.contract.roles import Models
    from mmalign.language.protocols import Hidden
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


def answer_scores(models: "Models", role: str, sequences: "Sequences") -> "Tensor":
    """[M]: the score of each answer by the model of a role with a scalar head: the head on its last token, or the
    model's own score of prompt and answer."""
    model = models.role(role, CausalLM)
    hidden = model.hidden_states(sequences)
    if isinstance(model, ScoresPairs):
        return model.pair_scores(hidden)
    return last_token_scores(models.head(role), hidden)[:, 0]


def save_scorer(models: "Models", role: str, folder: "Path", mean: float) -> None:
    """Write the model of a role with a scalar head, so that `answer_scores` minus `mean` are the saved model's scores.
    A model that scores pairs by itself is saved as it is: users compare scores, and a mean changes no comparison."""
    model = models.role(role, SavesScorers)
    if isinstance(model, ScoresPairs):
        models.role(role, Backbone).save(folder)
    else:
        model.save_scorer(folder, models.head(role), mean)


def _on_states(head: "nn.Linear", states: "Tensor") -> "Tensor":
    import torch

    with torch.autocast(states.device.type, enabled=False):
        return head(states.to(head.weight.dtype))
