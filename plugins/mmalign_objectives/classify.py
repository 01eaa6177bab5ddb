r"""Classification of texts by a language model: `mmalign train --objective classify`.

L = L_class + lambda L_lm                                                        (Radford 2018, equation 5)
L_class = -1/N sum_i log softmax(W h_i)[y_i]                                     (equations 3 and 4)
L_lm = -1/T sum_i sum_t log p(x_i,t | x_i,<t)                                    (equation 1, on the same texts)

x_i: text i with its end token; h_i: the hidden state of its last token, [H]; W: a linear head [C, H] over the C classes
of the data set, which starts from random weights; T: predicted tokens of the global batch. One pass through the trunk
serves both terms. The paper sums L_lm over a text's tokens; here it is a mean over tokens, as in the authors' code.

Use it where each text has one class. Transformers' text-classification pipeline loads the saved model. On a dual
encoder x is a picture, h its embedding, and L_lm has no term; `mmalign.evaluate.classifier` loads the saved model.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from pydantic import Field

from mmalign import Objective
from mmalign.contract.objective import Metrics, ObjectiveConfig, Outputs, Phase
from mmalign.errors import DataError
from mmalign.language.protocols import CausalLM, SavesScorers

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from mmalign import Batch
    from mmalign.contract.roles import Models


class Classification(Objective):
    """Predicts the class of each text and, as a second term, its tokens."""

    class Config(ObjectiveConfig):
        language_weight: float = Field(
            0.5, ge=0, description="lambda: weight of the language model's loss; 0 leaves it out"
        )

    config: Config

    @property
    def weights(self) -> Mapping[str, float]:
        return {"nll": self.config.language_weight}

    def phases(self, models: "Models") -> Mapping[str, tuple[Phase, ...]]:
        if len(models.classes) < 2:
            raise DataError(
                f"classify needs two classes or more; the data set has {len(models.classes)}: "
                f"{', '.join(models.classes) or 'none'}",
                hint="Add examples of another class, or look at the column label.",
            )
        return super().phases(models)

    def forward(self, models: "Models", batch: "Batch") -> Outputs:
        """logits: [N, C]. logps: [N], sums over the tokens of each text."""
        from mmalign.language.derive import hidden_label_sums, last_token_scores
        from mmalign.language.sequences import sequences_of

        policy = models.role("policy", CausalLM)
        hidden = policy.hidden_states(sequences_of(batch))
        outputs = {"logits": last_token_scores(models.head("policy"), hidden)}
        if self.config.language_weight:
            outputs["logps"] = hidden_label_sums(policy, hidden)["logps"]
        return outputs

    def loss(self, outputs: Outputs, batch: "Batch") -> "tuple[dict[str, Tensor], Metrics]":
        from torch.nn.functional import cross_entropy

        logits, labels = outputs["logits"], batch["label"]
        terms = {"class": cross_entropy(logits, labels, reduction="sum")}
        if self.config.language_weight:
            terms["nll"] = -outputs["logps"].sum()
        metrics = {
            "accuracy": ((logits.argmax(1) == labels).sum(), len(batch)),
            "class_loss": (terms["class"].detach(), len(batch)),
        }
        return terms, metrics

    def count(self, batch: "Batch") -> dict[str, float]:
        counts = {"class": float(len(batch))}
        if self.config.language_weight:
            from mmalign.language.sequences import sequences_of

            counts["nll"] = float(sequences_of(batch).num_labels().sum())
        return counts

    def save(self, models: "Models", folder: "Path", batches: "Iterable[Batch]") -> None:
        models.role("policy", SavesScorers).save_classifier(folder, models.head("policy"), models.classes)
