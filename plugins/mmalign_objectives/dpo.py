r"""Direct preference optimisation: `mmalign train --objective dpo`.

L = -1/N sum_i log sigmoid(beta m_i),   m = [log pi(w|x) - log ref(w|x)] - [log pi(l|x) - log ref(l|x)]

(Rafailov 2023, equation 7). x: prompt; w, l: the chosen and the rejected answer; ref: the frozen starting model; beta:
how dear it is to move away from it, in 1/nats. Other losses of the margin m are in `mmalign/ops/preference.py`; IPO is
a mean over tokens, as its authors' code is. The implicit reward of an answer is beta [log pi(y|x) - log ref(y|x)].

Of K ranked answers all untied pairs are learnt, the mean within a prompt and then over prompts, as `reward` does; each
answer is read once. Use it where answers were compared or rated. At the start m = 0: the loss is ln 2, the accuracy one
half. accuracy_apart is the accuracy of pairs whose ranks are at least 1 apart.
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
    """Answers behind one shared prompt, against a frozen reference."""

    class Config(ObjectiveConfig):
        loss: Literal["sigmoid", "robust", "ipo", "hinge"] = Field("sigmoid", description="loss of a pair's margin")
        beta: float = Field(0.1, gt=0, description="weight of the distance to the reference, in 1/nats")
        label_smoothing: float = Field(
            0.0, ge=0, lt=0.5, description="probability that a label is wrong (sigmoid, robust)"
        )
        tie: float = Field(0.0, ge=0, description="ranks that are no more than this apart are tied, and teach nothing")
        length_normalised: bool = Field(False, description="means over tokens instead of sums; IPO always takes means")

    config: Config

    @property
    def comparison(self) -> Comparison:
        return Comparison(reference=True, per_token=self._per_token, tie=self.config.tie)

    def frozen(self, models: "Models", batch: "Batch") -> "dict[str, Ragged]":
        """reference: of each answer, what `forward` returns for the policy."""
        from mmalign.contract.batch import Ragged

        sequences = batch["sequences"]
        logps = self._logps(models.role("reference", CausalLM), sequences)
        return {"reference": Ragged.of_lengths(logps, sequences.counts)}

    def forward(self, models: "Models", batch: "Batch") -> Outputs:
        """policy: [N, K], log-probabilities of the answers, 0 where a prompt has fewer."""
        sequences = batch["sequences"]
        return {"policy": sequences.by_prompt(self._logps(models.role("policy", CausalLM), sequences))}

    def loss(self, outputs: Outputs, batch: "Batch") -> "tuple[dict[str, Tensor], Metrics]":
        from mmalign.language.sequences import ranks_of
        from mmalign.ops.preference import PAIR_LOSSES, ranked_pairs

        config, function = self.config, PAIR_LOSSES[self.config.loss]
        ratio = outputs["policy"] - batch["sequences"].by_prompt(batch["reference"].values)
        ranks, present = ranks_of(batch, ratio)
        found = ranked_pairs(
            ratio,
            ranks,
            present,
            lambda margin, gap: function(margin, config.beta, config.label_smoothing),
            tie=config.tie,
        )
        rewards = config.beta * ratio.detach()
        best, worst = (present & (ranks == end) for end in _ends(ranks, present))
        metrics = {
            "accuracy": (found.right.sum(), found.pairs.sum()),
            "accuracy_apart": (found.right_apart.sum(), found.pairs_apart.sum()),
            "margin": (config.beta * found.margins.sum(), found.pairs.sum()),
            "chosen_reward": (rewards[best].sum(), best.sum()),
            "rejected_reward": (rewards[worst].sum(), worst.sum()),
        }
        return {"preference": (found.losses * found.counted).sum()}, metrics

    def count(self, batch: "Batch") -> dict[str, float]:
        """Prompts with answers that differ in rank."""
        from mmalign.language.sequences import num_ranked

        return {"preference": float(num_ranked(batch, tie=self.config.tie))}

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
