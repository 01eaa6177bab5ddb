r"""Supervised fine-tuning on answers to prompts: `mmalign train --objective sft`.

L = -1/T sum_i sum_{t in labels} log p(y_i,t | x_i, y_i,<t)                       (Ouyang 2022, section 3.5)

x_i: prompt; y_i: its answer with the end token; T: labels of the global batch. `loss_on` chooses the labels: the
assistant's turns of the answer (for plain text, all of it), the whole answer, or the prompt too.

Noise on the embeddings (NEFTune, Jain 2023) is an option of the backbone, as is dropout:
`--set backbone.neftune_alpha=5`.
"""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from mmalign import Objective
from mmalign.contract.objective import Context, Metrics, ObjectiveConfig, Outputs
from mmalign.language.protocols import CausalLM

if TYPE_CHECKING:
    from torch import Tensor

    from mmalign import Batch
    from mmalign.contract.roles import Models


class SupervisedFineTuning(Objective):
    """Next-token prediction on the labels."""

    class Config(ObjectiveConfig):
        loss_on: Literal["assistant", "completion", "all"] = Field(
            "assistant",
            description="assistant: the assistant's turns; completion: the whole answer; all: the prompt too",
        )

    config: Config

    def prepare(self, models: "Models", batch: "Batch", ctx: Context) -> "Batch":
        """Sequences with the labels that `loss_on` chooses."""
        sequences = batch["sequences"]
        if self.config.loss_on == "all":
            return batch.with_columns(sequences=sequences.whole())
        if self.config.loss_on == "completion":
            return batch.with_columns(sequences=sequences.learning_all())
        return batch

    def forward(self, models: "Models", batch: "Batch") -> Outputs:
        """logps, hits: [N], sums over the labels of each example."""
        from mmalign.language.derive import label_sums

        return label_sums(models.role("policy", CausalLM), batch["sequences"])

    def loss(self, outputs: Outputs, batch: "Batch") -> "tuple[dict[str, Tensor], Metrics]":
        metrics = {"accuracy": (outputs["hits"].sum(), self.count(batch)["nll"])}
        return {"nll": -outputs["logps"].sum()}, metrics

    def count(self, batch: "Batch") -> dict[str, float]:
        return {"nll": float(batch["sequences"].num_labels().sum())}
