r"""Direct preference optimisation: `mmalign train --objective dpo`.

L = -1/N sum_i log sigmoid(beta m_i),   m = [log pi(w|x) - log ref(w|x)] - [log pi(l|x) - log ref(l|x)]

(Rafailov 2023, equation 7). x: prompt; w, l: the chosen and the rejected answer; ref: the frozen starting model; beta:
how dear it is to move away from it, in 1/nats. Other losses of the margin m are in `mmalign/ops/preference.py`; IPO is
a mean over tokens, as its authors' code is. The implicit reward of an answer is beta [log pi(y|x) - log ref(y|x)].

Use it where answers were compared in pairs. At the start m = 0, so the loss is ln 2 and the accuracy one half.
"""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from mmalign import Objective
from mmalign.objective import Context, Metrics, ObjectiveConfig, Outputs

if TYPE_CHECKING:
    from torch import Tensor

    from mmalign import Batch
    from mmalign.protocols import CausalLM
    from mmalign.train.models import Models


class DirectPreferenceOptimization(Objective):
    """Pairs of answers behind one shared prompt, against a frozen reference."""

    class Config(ObjectiveConfig):
        loss: Literal["sigmoid", "robust", "ipo", "hinge"] = Field("sigmoid", description="loss of a pair's margin")
        beta: float = Field(0.1, gt=0, description="weight of the distance to the reference, in 1/nats")
        label_smoothing: float = Field(
            0.0, ge=0, lt=0.5, description="probability that a label is wrong (sigmoid, robust)"
        )
        length_normalised: bool = Field(False, description="means over tokens instead of sums; IPO always takes means")

    config: Config

    def prepare(self, models: "Models", batch: "Batch", ctx: Context) -> "Batch":
        """Adds reference: [N, 2], log-probabilities of both answers."""
        return batch.with_columns(reference=ctx.map(lambda part: self._logps(models.reference, part), batch))

    def forward(self, models: "Models", batch: "Batch") -> Outputs:
        """policy: [N, 2]."""
        return {"policy": self._logps(models.policy, batch)}

    def loss(self, outputs: Outputs, batch: "Batch") -> "tuple[dict[str, Tensor], Metrics]":
        from mmalign.ops.preference import PAIR_LOSSES

        ratio = outputs["policy"] - batch["reference"]
        margin = ratio[:, 0] - ratio[:, 1]
        losses = PAIR_LOSSES[self.config.loss](margin, self.config.beta, self.config.label_smoothing)
        won = (margin.detach() > 0).to(margin.dtype) + 0.5 * (margin.detach() == 0).to(margin.dtype)
        rewards = self.config.beta * ratio.detach()
        size = len(batch)
        metrics = {
            "accuracy": (won.sum(), size),
            "margin": ((rewards[:, 0] - rewards[:, 1]).sum(), size),
            "chosen_reward": (rewards[:, 0].sum(), size),
            "rejected_reward": (rewards[:, 1].sum(), size),
        }
        return {"preference": losses.sum()}, metrics

    def count(self, batch: "Batch") -> dict[str, float]:
        return {"preference": len(batch)}

    def _logps(self, backbone: "CausalLM", batch: "Batch") -> "Tensor":
        """[N, 2] log-probabilities of chosen and rejected: sums, or means over their tokens."""
        from mmalign.derive import sequence_logps

        sequences = batch["sequences"]
        logps = sequence_logps(backbone, sequences)
        if self.config.length_normalised or self.config.loss == "ipo":
            logps = logps / sequences.num_labels().clamp(min=1).to(logps)
        return logps.view(-1, 2)
