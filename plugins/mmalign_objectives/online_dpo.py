r"""Online direct preference optimisation: `mmalign train --objective online-dpo`.

K answers to each prompt x are sampled from the current policy and scored. P_x are the pairs of answers that score
differently, w the better one (Guo 2024, "Direct language model alignment from online AI feedback", equation 2, which
has one pair a prompt):

    L = -1/N sum_x 1/|P_x| sum_{(w, l) in P_x} log sigmoid(beta m)
    m = [log pi(w|x) - log ref(w|x)] - [log pi(l|x) - log ref(l|x)]

N: prompts that have a pair. A prompt whose answers all score the same teaches nothing and is counted (`no_difference`).
The losses of a margin are those of `dpo`; IPO takes means over tokens here too. They hold for any two answers,
whichever model drew them: the gap between an engine's probabilities (`rollout.engine`) and the policy's is reported,
not corrected. Use it where answers can be compared and the scale of the reward should not matter.
"""

import math
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from mmalign.contract.objective import Context, Metrics, Outputs
from mmalign.language.protocols import CausalLM
from mmalign.rl.online_objective import OnlineConfig, OnlineObjective

if TYPE_CHECKING:
    from torch import Tensor

    from mmalign import Batch
    from mmalign.contract.roles import Models


class OnlineDirectPreferenceOptimization(OnlineObjective):
    """Prefers the better of freshly sampled answers, against a frozen reference. `forward` is the base's: logps,
    [P]."""

    class Config(OnlineConfig):
        loss: Literal["sigmoid", "ipo", "hinge"] = Field("sigmoid", description="loss of a pair's margin")
        beta: float = Field(0.1, gt=0, description="weight of the distance to the reference, in 1/nats")
        tie: float = Field(0.0, ge=0, description="scores no more than this apart are tied and teach nothing")

    config: Config

    def prepare(self, models: "Models", batch: "Batch", ctx: Context) -> "Batch":
        """Adds reference: [N, K], the reference's log-probability of each answer."""
        from mmalign.ops import sum_rows
        from mmalign.rl.rollout_batch import action_logps, answer_offsets

        token_logps = action_logps(models.role("reference", CausalLM), batch, ctx, self.sampling.temperature)
        reference = sum_rows(token_logps.values, answer_offsets(batch["sequences"])).view_as(batch["score"])
        return batch.with_columns(reference=reference)

    def loss(self, outputs: Outputs, batch: "Batch") -> "tuple[dict[str, Tensor], Metrics]":
        from mmalign.ops import sum_rows
        from mmalign.ops.preference import PAIR_LOSSES, ranked_pairs
        from mmalign.rl.rollout_batch import answer_offsets, rollout_metrics, sampler_weights, scored

        config, score, logps = self.config, batch["score"], outputs["logps"]
        ratio = sum_rows(logps, answer_offsets(batch["sequences"])).view_as(score) - batch["reference"]
        function = PAIR_LOSSES[config.loss]
        compared = ratio
        if config.loss == "ipo":
            compared = ratio / batch["sequences"].num_labels().clamp(min=1).to(ratio).view_as(ratio)
        ranked = ranked_pairs(
            compared,
            -score,
            scored(batch),
            lambda margin, gap: function(margin, config.beta, 0.0),
            tie=config.tie,
        )
        # Measured against the policy that sampled; its log-probabilities are not kept past the first update.
        first = "update" not in batch or not int(batch["update"].max())
        sampler_gap = sampler_weights(batch, logps.detach(), 0)[1] if first else {}
        metrics = {
            **rollout_metrics(batch),
            **sampler_gap,
            "kl": (ratio.detach().sum(), score.numel()),
            "entropy": (-logps.detach().sum(), len(logps)),
            "accuracy": (ranked.right.sum(), ranked.pairs.sum()),
            "no_difference": ((1 - ranked.counted).sum(), len(score)),
        }
        return {"preference": (ranked.losses * ranked.counted).sum()}, metrics

    def count(self, batch: "Batch") -> dict[str, float]:
        """Prompts with answers that score differently."""
        from mmalign.rl.rollout_batch import scored

        score, has_score = batch["score"], scored(batch)
        spans = score.masked_fill(~has_score, -math.inf).max(1).values
        spans = spans - score.masked_fill(~has_score, math.inf).min(1).values
        return {"preference": float((spans > self.config.tie).sum())}
