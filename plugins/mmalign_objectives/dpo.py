r"""Direct preference optimisation: `mmalign train --objective dpo`.

L = -1/N sum_x 1/|P_x| sum_{(w, l) in P_x} log sigmoid(beta m)
m = [log pi(w|x) - log ref(w|x)] - [log pi(l|x) - log ref(l|x)]

(Rafailov 2023, equation 7; over all pairs of K ranked answers, as `reward`.) x: prompt; P_x: its untied pairs of a
chosen answer w and a rejected answer l, one pair where K = 2; N: prompts that have a pair (where examples have weights,
the mean over prompts is weighted); ref: the frozen starting
model; beta: cost of moving away from ref, in 1/nats. Each answer is read once. The implicit reward of an answer y is
beta [log pi(y|x) - log ref(y|x)]. The other losses of the margin m are in `mmalign/ops/preference.py`; IPO takes means
over tokens, as its authors' code does.

Use it where answers were compared or rated. At the start m = 0: the loss is ln 2, the accuracy one half.
accuracy_apart is the accuracy of pairs whose ranks are at least 1 apart.
"""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from mmalign import Objective
from mmalign.contract.objective import Metrics, ObjectiveConfig, Outputs
from mmalign.contract.trained import Comparison
from mmalign.language.protocols import CausalLM

if TYPE_CHECKING:
    from torch import Tensor

    from mmalign import Batch
    from mmalign.contract.batch import Ragged
    from mmalign.contract.roles import Models
    from mmalign.language.sequences import Sequences


class DirectPreferenceOptimization(Objective):
    """Prefers the better of two or more answers to a prompt, against a frozen reference."""

    class Config(ObjectiveConfig):
        loss: Literal["sigmoid", "robust", "ipo", "hinge"] = Field("sigmoid", description="loss of a pair's margin")
        beta: float = Field(0.1, gt=0, description="weight of the distance to the reference, in 1/nats")
        label_smoothing: float = Field(
            0.0, ge=0, lt=0.5, description="probability that a label is wrong (sigmoid, robust)"
        )
        tie: float = Field(0.0, ge=0, description="ranks no more than this apart are tied and teach nothing")
        length_normalised: bool = Field(False, description="means over tokens instead of sums; IPO always takes means")

    config: Config

    @property
    def comparison(self) -> Comparison:
        return Comparison(reference=True, per_token=self._per_token, tie=self.config.tie)

    def frozen(self, models: "Models", batch: "Batch") -> "dict[str, Ragged]":
        """reference: the log-probability of each answer under the reference, as `forward` has the policy's."""
        from mmalign.contract.batch import Ragged

        sequences = batch["sequences"]
        logps = self._logps(models.role("reference", CausalLM), sequences)
        return {"reference": Ragged.of_lengths(logps, sequences.counts)}

    def forward(self, models: "Models", batch: "Batch") -> Outputs:
        """policy: [N, K] log-probabilities of the answers, 0 where a prompt has fewer."""
        sequences = batch["sequences"]
        return {"policy": sequences.by_prompt(self._logps(models.role("policy", CausalLM), sequences))}

    def loss(self, outputs: Outputs, batch: "Batch") -> "tuple[dict[str, Tensor], Metrics]":
        from mmalign.language.sequences import ranks_of, weights_of
        from mmalign.ops.preference import ranked_pairs

        policy_logps, reference_logps = outputs["policy"], batch["sequences"].by_prompt(batch["reference"].values)
        log_ratios = policy_logps - reference_logps  # [N, K]
        ranks, present = ranks_of(batch, log_ratios)
        ranked = ranked_pairs(
            log_ratios, ranks, present, lambda margins, gaps: self._pair_losses(margins), tie=self.config.tie
        )
        rewards = self.config.beta * log_ratios.detach()
        chosen, rejected = (present & (ranks == end) for end in _ends(ranks, present))
        metrics = {
            "accuracy": (ranked.right.sum(), ranked.pairs.sum()),
            "accuracy_apart": (ranked.right_apart.sum(), ranked.pairs_apart.sum()),
            "margin": (self.config.beta * ranked.margins.sum(), ranked.pairs.sum()),
            "chosen_reward": (rewards[chosen].sum(), chosen.sum()),
            "rejected_reward": (rewards[rejected].sum(), rejected.sum()),
        }
        losses = ranked.losses * ranked.counted * weights_of(batch, ranked.losses)
        return {"preference": losses.sum()}, metrics

    def _pair_losses(self, margins: "Tensor") -> "Tensor":
        """-log sigmoid(beta m) of each margin m; with smoothing e, labels are wrong with probability e (Mitchell 2023).
        `config.loss` may choose another loss."""
        from torch.nn.functional import logsigmoid

        from mmalign.ops.preference import PAIR_LOSSES

        beta, e = self.config.beta, self.config.label_smoothing
        if self.config.loss != "sigmoid":
            return PAIR_LOSSES[self.config.loss](margins, beta, e)
        z = beta * margins
        return -(1 - e) * logsigmoid(z) - e * logsigmoid(-z)

    def count(self, batch: "Batch") -> dict[str, float]:
        """The weights of prompts with answers that differ in rank."""
        from mmalign.language.sequences import num_ranked

        return {"preference": num_ranked(batch, tie=self.config.tie)}

    @property
    def _per_token(self) -> bool:
        return self.config.length_normalised or self.config.loss == "ipo"

    def _logps(self, backbone: "CausalLM", sequences: "Sequences") -> "Tensor":
        """[M] log-probabilities of the answers: sums, or means over their tokens."""
        from mmalign.language.derive import sequence_logps

        logps = sequence_logps(backbone, sequences)
        if self._per_token:
            logps = logps / sequences.num_labels().clamp(min=1).to(logps)
        return logps


def _ends(ranks: "Tensor", present: "Tensor") -> "tuple[Tensor, Tensor]":
    """[N, 1] each: the best and the worst rank of each prompt."""
    infinity = float("inf")
    best = ranks.masked_fill(~present, infinity).min(1, keepdim=True).values
    return best, ranks.masked_fill(~present, -infinity).max(1, keepdim=True).values
