r"""REINFORCE leave-one-out: `mmalign train --objective rloo`.

K answers y_i to each prompt x are sampled and scored; the score is reduced by the distance from the reference. The
baseline of an answer is the mean of the others (Ahmadian 2024, equation 8):

    R_i = r(x, y_i) - beta [log pi_old(y_i|x) - log ref(y_i|x)]
    A_i = R_i - 1/(K-1) sum_{j != i} R_j
    L   = 1/M sum_i max(-A_i rho_i, -A_i clip(rho_i, 1 - e, 1 + e)),   rho_i = pi(y_i|x) / pi_old(y_i|x)

M: answers. A whole answer is one action: there is no critic, and single tokens get no credit. In the first update of a
batch rho = 1, and the gradient is REINFORCE's, -A_i grad log pi(y_i|x); the clip matters only in later updates.
`whiten` divides A by its standard deviation over the global batch. If an inexact engine (`rollout.engine`) drew the
answers, an answer's loss is weighted by min(pi_old(y_i|x) / pi_sampler(y_i|x), C), C = `sampler_clip`. An answer for
which every reward gave None has A = 0 and is in no baseline.
"""

from typing import TYPE_CHECKING

from pydantic import Field

from mmalign.contract.objective import Context, Metrics, Outputs
from mmalign.language.protocols import CausalLM
from mmalign.rl.online_objective import OnlineObjective, PolicyGradientConfig

if TYPE_CHECKING:
    from torch import Tensor

    from mmalign import Batch
    from mmalign.contract.roles import Models


class ReinforceLeaveOneOut(OnlineObjective):
    """Compares whole answers with the mean of their siblings. `forward` is the base's: logps of the action tokens,
    [P]."""

    class Config(PolicyGradientConfig):
        clip: float = Field(0.2, gt=0, description="e: how far the ratio of an answer's probabilities may move from 1")
        beta: float = Field(0.05, ge=0, description="cost of a nat of distance from the reference, in score")
        whiten: bool = Field(False, description="divide advantages by their standard deviation over the global batch")

    config: Config

    def prepare(self, models: "Models", batch: "Batch", ctx: Context) -> "Batch":
        """Adds advantage, kl: [N, K]; old: ragged."""
        from mmalign.ops import sum_rows
        from mmalign.ops.policy_gradient import leave_one_out, whiten
        from mmalign.rl.rollout_batch import action_logps, answer_offsets, scored

        score, offsets = batch["score"], answer_offsets(batch["sequences"])
        # 1. Subtract the cost of the distance.
        old, reference = (
            action_logps(models.role(name, CausalLM), batch, ctx, self.sampling.temperature)
            for name in ("policy", "reference")
        )
        kl = sum_rows(old.values - reference.values, offsets).view_as(score)
        # 2. Compare with the siblings.
        advantage = leave_one_out(score - self.config.beta * kl, scored(batch))
        if self.config.whiten:
            advantage = whiten(advantage.flatten(), ctx.sum_over_processes).view_as(score)
        return batch.with_columns(advantage=advantage, kl=kl, old=old)

    def loss(self, outputs: Outputs, batch: "Batch") -> "tuple[dict[str, Tensor], Metrics]":
        from mmalign.ops import sum_rows
        from mmalign.ops.policy_gradient import clipped_policy_loss
        from mmalign.rl.rollout_batch import answer_offsets, old_logps, rollout_metrics, sampler_weights

        logps, offsets, answers = outputs["logps"], answer_offsets(batch["sequences"]), batch["score"].numel()
        old, clip = old_logps(batch, logps), self.config.clip
        whole, before = sum_rows(logps, offsets), sum_rows(old, offsets)
        losses, clipped = clipped_policy_loss(whole, before, batch["advantage"].flatten(), clip, clip)
        weights, drawn = sampler_weights(batch, old, self.config.sampler_clip, whole=True)
        metrics = {
            **rollout_metrics(batch),
            **drawn,
            "kl": (batch["kl"].sum(), answers),
            "entropy": (-logps.detach().sum(), len(logps)),
            "clipped": (clipped.sum(), answers),
        }
        return {"policy": (losses * weights).sum()}, metrics

    def count(self, batch: "Batch") -> dict[str, float]:
        return {"policy": float(batch["score"].numel())}
