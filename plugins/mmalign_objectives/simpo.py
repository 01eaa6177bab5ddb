r"""Simple preference optimisation, without a reference: `mmalign train --objective simpo`.

L = -1/N sum_i log sigmoid(beta/|w| log pi(w|x) - beta/|l| log pi(l|x) - gamma)         (Meng 2024, equation 6)

x: prompt; w, l: the chosen and the rejected answer; |y|: tokens of an answer. The reward of an answer is beta times the
mean log-probability of its tokens, by which generation ranks answers too; the chosen answer's should be gamma higher.
No frozen model is held, so a step costs about half of DPO's passes, but only the learning rate keeps the policy near
its start. The authors use rates of 3e-7 to 1e-6.

Use it where answers were compared in pairs and length should not decide.
"""

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


class SimplePreferenceOptimization(Objective):
    """Compares the mean log-probabilities of two answers, with a target margin."""

    class Config(ObjectiveConfig):
        beta: float = Field(2.0, gt=0, description="scale of the reward, in rewards per nat of a token's mean")
        gamma: float = Field(1.0, ge=0, description="margin by which the chosen answer's reward should be higher")

    config: Config

    @property
    def comparison(self) -> Comparison:
        return Comparison(per_token=True)

    def forward(self, models: "Models", batch: "Batch") -> Outputs:
        """logps: [N, 2], sums over the tokens of the chosen and the rejected answer."""
        return {"logps": pair_logps(models.role("policy", CausalLM), batch)}

    def loss(self, outputs: Outputs, batch: "Batch") -> "tuple[dict[str, Tensor], Metrics]":
        from mmalign.ops.preference import simpo

        means = outputs["logps"] / pair_tokens(batch).to(outputs["logps"])
        losses = simpo(means[:, 0] - means[:, 1], self.config.beta, self.config.gamma)
        return {"preference": (losses * pair_weights(batch).to(losses)).sum()}, pair_metrics(self.config.beta * means)

    def count(self, batch: "Batch") -> dict[str, float]:
        return {"preference": float(pair_weights(batch).sum())}
