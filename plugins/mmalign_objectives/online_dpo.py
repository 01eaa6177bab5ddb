r"""Online direct preference optimisation: `mmalign train --objective online-dpo`.

K answers to each prompt x are sampled from the policy as it is and scored; of every two that score differently, w is
the better (Guo 2024, "Direct language model alignment from online AI feedback", equation 2, on one pair):

    L = -1/N sum_x 1/|P_x| sum_{(w, l) in P_x} log sigmoid(beta m)
    m = [log pi(w|x) - log ref(w|x)] - [log pi(l|x) - log ref(l|x)]

The mean over a prompt's pairs, then over prompts that have any. Answers that score the same teach nothing, and a prompt
whose answers all do is counted (`no_difference`). The losses of a margin are those of `dpo`, IPO's of means over tokens
too. Use it where answers can be compared, and a reward's scale should not matter.
"""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from mmalign import Objective
from mmalign.objective import Context, Metrics, ObjectiveConfig, Outputs

if TYPE_CHECKING:
    from torch import Tensor

    from mmalign import Batch
    from mmalign.train.models import Models


class OnlineDirectPreferenceOptimization(Objective):
    """Fresh answers, the better ones preferred, against a frozen reference."""

    best_by = ("score", "high")
    fewest_answers = 2

    class Config(ObjectiveConfig):
        loss: Literal["sigmoid", "ipo", "hinge"] = Field("sigmoid", description="loss of a pair's margin")
        beta: float = Field(0.1, gt=0, description="weight of the distance to the reference, in 1/nats")
        tie: float = Field(0.0, ge=0, description="scores that are no more than this apart are tied, and teach nothing")
        epochs: int = Field(1, ge=1, description="times that a batch of answers is learnt from")
        minibatches: int = Field(1, ge=1, description="updates in each of these times")
        max_kl: float = Field(100.0, gt=0, description="nats an answer from the reference at which the run stops")

    config: Config

    @property
    def passes(self) -> tuple[int, int]:
        return (self.config.epochs, self.config.minibatches)

    @property
    def limits(self) -> dict[str, float]:
        return {"kl": self.config.max_kl}

    def prepare(self, models: "Models", batch: "Batch", ctx: Context) -> "Batch":
        """Adds answers and scores (`ctx.rollout`), and reference: [N, K]."""
        from mmalign.ops import sum_rows
        from mmalign.rl.columns import action_logps, answer_offsets

        batch = ctx.rollout(models.policy, batch)
        found = action_logps(models.reference, batch, ctx, self.sampling.temperature)
        reference = sum_rows(found.values, answer_offsets(batch["sequences"])).view_as(batch["score"])
        return batch.with_columns(reference=reference)

    def forward(self, models: "Models", batch: "Batch") -> Outputs:
        """logps: [P] of the action tokens."""
        hidden = models.policy.hidden_states(batch["sequences"])
        return {"logps": models.policy.token_logps(hidden, temperature=self.sampling.temperature).logps}

    def loss(self, outputs: Outputs, batch: "Batch") -> "tuple[dict[str, Tensor], Metrics]":
        import torch

        from mmalign.ops import sum_rows
        from mmalign.ops.preference import PAIR_LOSSES
        from mmalign.ops.ranking import ranked_pairs
        from mmalign.rl.columns import answer_offsets, rollout_metrics

        config, score, logps = self.config, batch["score"], outputs["logps"]
        ratio = sum_rows(logps, answer_offsets(batch["sequences"])).view_as(score) - batch["reference"]
        function = PAIR_LOSSES[config.loss]
        compared = ratio
        if config.loss == "ipo":
            compared = ratio / batch["sequences"].num_labels().clamp(min=1).to(ratio).view_as(ratio)
        found = ranked_pairs(
            compared,
            -score,
            torch.ones_like(score, dtype=torch.bool),
            lambda margin, gap: function(margin, config.beta, 0.0),
            tie=config.tie,
        )
        metrics = {
            **rollout_metrics(batch),
            "kl": (ratio.detach().sum(), score.numel()),
            "entropy": (-logps.detach().sum(), len(logps)),
            "accuracy": (found.right.sum(), found.pairs.sum()),
            "no_difference": ((1 - found.counted).sum(), len(score)),
        }
        return {"preference": (found.losses * found.counted).sum()}, metrics

    def count(self, batch: "Batch") -> dict[str, float]:
        """Prompts with answers that score differently."""
        score = batch["score"]
        spans = score.max(1).values - score.min(1).values
        return {"preference": float((spans > self.config.tie).sum())}
