r"""Odds ratio preference optimisation, without a reference: `mmalign train --objective orpo`.

L = -1/T sum_i log pi(w|x)  -  lambda/N sum_i log sigmoid(log odds(w|x) - log odds(l|x))  (Hong 2024, equations 6 and 7)

odds(y|x) = p / (1 - p), log p = 1/|y| log pi(y|x)                                       (equations 3 and 4)

x: prompt; w, l: the chosen and the rejected answer; |y|: tokens of an answer; T: tokens of all chosen answers.
It combines fine-tuning and preferences in one stage: start from a pretrained model, not from a fine-tuned one as DPO.

The likelihood is of the answer alone, as in the paper; the authors' code and TRL learn the prompt's tokens too.
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


class OddsRatioPreferenceOptimization(Objective):
    """The likelihood of the chosen answers, plus their odds against the rejected ones."""

    class Config(ObjectiveConfig):
        odds_weight: float = Field(0.1, ge=0, description="lambda: weight of the odds ratio relative to the likelihood")

    config: Config

    @property
    def weights(self) -> Mapping[str, float]:
        return {"odds_ratio": self.config.odds_weight}

    @property
    def comparison(self) -> Comparison:
        return Comparison(per_token=True)

    def forward(self, models: "Models", batch: "Batch") -> Outputs:
        """logps: [N, 2], sums over the tokens of the chosen and the rejected answer."""
        return {"logps": pair_logps(models.role("policy", CausalLM), batch)}

    def loss(self, outputs: Outputs, batch: "Batch") -> "tuple[dict[str, Tensor], Metrics]":
        from mmalign.ops.preference import orpo

        logps = outputs["logps"]
        means = logps / pair_tokens(batch).to(logps)
        losses = orpo(means[:, 0], means[:, 1])
        weights = pair_weights(batch).to(logps)
        terms = {"nll": -(weights * logps[:, 0]).sum(), "odds_ratio": (weights * losses).sum()}
        return terms, pair_metrics(means)

    def count(self, batch: "Batch") -> dict[str, float]:
        weights = pair_weights(batch)
        return {"nll": float((weights * pair_tokens(batch)[:, 0]).sum()), "odds_ratio": float(weights.sum())}
