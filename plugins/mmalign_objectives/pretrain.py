r"""Maximum likelihood over raw text: `mmalign train --objective pretrain`.

L = -1/T sum_i sum_t log p(x_i,t | x_i,<t)                                        (Radford 2018, equation 1)

x_i: document i with its end token; T: predicted tokens of the global batch, all but the first of each document. Several
documents share a row but never attend to each other.
"""

from typing import TYPE_CHECKING

from mmalign import Objective
from mmalign.contract.objective import Metrics, ObjectiveConfig, Outputs
from mmalign.language.protocols import CausalLM

if TYPE_CHECKING:
    from torch import Tensor

    from mmalign import Batch
    from mmalign.contract.roles import Models
    from mmalign.language.sequences import Sequences


class Pretrain(Objective):
    """Next-token prediction."""

    class Config(ObjectiveConfig):
        pass

    def forward(self, models: "Models", batch: "Batch") -> Outputs:
        """logps, hits: [N], sums over the tokens of each document."""
        from mmalign.language.derive import label_sums

        return label_sums(models.role("policy", CausalLM), self._documents(batch))

    def loss(self, outputs: Outputs, batch: "Batch") -> "tuple[dict[str, Tensor], Metrics]":
        metrics = {"accuracy": (outputs["hits"].sum(), self.count(batch)["nll"])}
        return {"nll": -outputs["logps"].sum()}, metrics

    def count(self, batch: "Batch") -> dict[str, float]:
        return {"nll": float(self._documents(batch).num_labels().sum())}

    @staticmethod
    def _documents(batch: "Batch") -> "Sequences":
        from mmalign.language.sequences import Sequences

        return Sequences.documents(batch["text"])
