r"""REINFORCE leave-one-out: `mmalign train --objective rloo`.

K answers y_i to each prompt x are sampled and scored, less what they cost in distance from the reference; the baseline
of an answer is the mean of the others (Ahmadian 2024, equation 8):

    R_i = r(x, y_i) - beta [log pi_old(y_i|x) - log ref(y_i|x)]
    A_i = R_i - 1/(K-1) sum_{j != i} R_j
    L   = 1/M sum_i max(-A_i rho_i, -A_i clip(rho_i, 1 - e, 1 + e)),   rho_i = pi(y_i|x) / pi_old(y_i|x)

A whole answer is one action, so no critic and no credit to single tokens. In the first update of a batch rho = 1, and
the gradient is REINFORCE's, -A_i grad log pi(y_i|x); the clip only matters where a batch is learnt from again. M:
answers. `whiten` divides A by its standard deviation over the global batch.
"""

from typing import TYPE_CHECKING

from pydantic import Field

from mmalign import Objective
from mmalign.objective import Context, Metrics, ObjectiveConfig, Outputs

if TYPE_CHECKING:
    from torch import Tensor

    from mmalign import Batch
    from mmalign.train.models import Models


class ReinforceLeaveOneOut(Objective):
    """Whole answers against the mean of their siblings."""

    best_by = ("score", "high")
    fewest_answers = 2
    of_updates = frozenset({"clipped"})

    class Config(ObjectiveConfig):
        epochs: int = Field(1, ge=1, description="times that a batch of answers is learnt from")
        minibatches: int = Field(1, ge=1, description="updates in each of these times")
        clip: float = Field(0.2, gt=0, description="e: how far the ratio of an answer's probabilities may move from 1")
        beta: float = Field(0.05, ge=0, description="what a nat of distance from the reference costs, in score")
        whiten: bool = Field(False, description="divide advantages by their standard deviation over the global batch")
        max_kl: float = Field(100.0, gt=0, description="nats an answer from the reference at which the run stops")

    config: Config

    @property
    def passes(self) -> tuple[int, int]:
        return (self.config.epochs, self.config.minibatches)

    @property
    def limits(self) -> dict[str, float]:
        return {"kl": self.config.max_kl}

    def prepare(self, models: "Models", batch: "Batch", ctx: Context) -> "Batch":
        """Adds answers and scores (`ctx.rollout`); advantage, kl: [N, K]; old: ragged."""
        from mmalign.ops import sum_rows
        from mmalign.ops.rl import leave_one_out, whiten
        from mmalign.rl.columns import action_logps, answer_offsets

        # 1. Sample and score.
        batch = ctx.rollout(models.policy, batch)
        score, offsets = batch["score"], answer_offsets(batch["sequences"])
        # 2. Take off what the distance costs.
        old, reference = (
            action_logps(role, batch, ctx, self.sampling.temperature) for role in (models.policy, models.reference)
        )
        kl = sum_rows(old.values - reference.values, offsets).view_as(score)
        # 3. Compare with the siblings.
        advantage = leave_one_out(score - self.config.beta * kl)
        if self.config.whiten:
            advantage = whiten(advantage.flatten(), ctx.sum_over_processes).view_as(score)
        return batch.with_columns(advantage=advantage, kl=kl, old=old)

    def forward(self, models: "Models", batch: "Batch") -> Outputs:
        """logps: [P] of the action tokens."""
        hidden = models.policy.hidden_states(batch["sequences"])
        return {"logps": models.policy.token_logps(hidden, temperature=self.sampling.temperature).logps}

    def loss(self, outputs: Outputs, batch: "Batch") -> "tuple[dict[str, Tensor], Metrics]":
        from mmalign.ops import sum_rows
        from mmalign.ops.rl import clipped_policy_loss
        from mmalign.rl.columns import answer_offsets, old_logps, rollout_metrics

        logps, offsets, answers = outputs["logps"], answer_offsets(batch["sequences"]), batch["score"].numel()
        whole, old = (sum_rows(values, offsets) for values in (logps, old_logps(batch, logps)))
        clip = self.config.clip
        losses, clipped = clipped_policy_loss(whole, old, batch["advantage"].flatten(), clip, clip)
        metrics = {
            **rollout_metrics(batch),
            "kl": (batch["kl"].sum(), answers),
            "entropy": (-logps.detach().sum(), len(logps)),
            "clipped": (clipped.sum(), answers),
        }
        return {"policy": losses.sum()}, metrics

    def count(self, batch: "Batch") -> dict[str, float]:
        return {"policy": float(batch["score"].numel())}
