r"""Contrastive preference optimisation, without a reference: `mmalign train --objective cpo`.

L = -1/N sum_i log sigmoid(beta [log pi(w|x) - log pi(l|x)])  -  alpha/T sum_i log pi(w|x)

(Xu 2024, section 3: DPO's loss with a uniform reference, equation 3, plus the likelihood of the chosen answers, which
replaces the distance to the reference.) x: prompt; w, l: the chosen and the rejected answer; T: tokens of all chosen
answers, as in the authors' code.

Use it where w is good enough to imitate, such as a translation picked as the best of several. The two terms are
logged separately.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import Field

from mmalign import Objective
from mmalign.contract.objective import Metrics, ObjectiveConfig, Outputs
from mmalign.contract.trained import Comparison
from mmalign.language.protocols import CausalLM
from mmalign_objectives.pairs import pair_logps, pair_metrics, pair_tokens, pair_weights

if TYPE_CHECKING:
    from torch import Tensor

    from mmalign import Batch
    from mmalign.contract.roles import Models


class ContrastivePreferenceOptimization(Objective):
    """Pairs of answers against a uniform reference, plus the likelihood of the chosen ones."""

    class Config(ObjectiveConfig):
        beta: float = Field(0.1, gt=0, description="scale of the reward, in rewards per nat")
        alpha: float = Field(1.0, ge=0, description="weight of the chosen answers' likelihood, a mean over tokens")

    config: Config

    @property
    def weights(self) -> Mapping[str, float]:
        return {"nll": self.config.alpha}

    @property
    def comparison(self) -> Comparison:
        return Comparison()

    def forward(self, models: "Models", batch: "Batch") -> Outputs:
        """logps: [N, 2], sums over the tokens of the chosen and the rejected answer."""
        return {"logps": pair_logps(models.role("policy", CausalLM), batch)}

    def loss(self, outputs: Outputs, batch: "Batch") -> "tuple[dict[str, Tensor], Metrics]":
        from mmalign.ops.preference import sigmoid

        logps = outputs["logps"]
        losses = sigmoid(logps[:, 0] - logps[:, 1], self.config.beta)
        weights = pair_weights(batch).to(logps)
        terms = {"preference": (weights * losses).sum(), "nll": -(weights * logps[:, 0]).sum()}
        return terms, pair_metrics(self.config.beta * logps)

    def count(self, batch: "Batch") -> dict[str, float]:
        weights = pair_weights(batch)
        return {"preference": float(weights.sum()), "nll": float((weights * pair_tokens(batch)[:, 0]).sum())}
