r"""Group relative policy optimisation: `mmalign train --objective grpo`.

K answers y_i to each prompt are sampled and scored; an answer's advantage is its score beside its siblings':

    A_i = (r_i - mean_j r_j) / (std_j r_j + 1e-4)                                  (Shao 2024, section 4.1.2)
    l_t = max(-A rho_t, -A clip(rho_t, 1 - e, 1 + e')) + beta k3_t,   rho_t = pi(y_t) / pi_old(y_t)
    k3  = ref/pi - 1 - log ref/pi

How tokens are put together, and what else differs, by `variant`:
    grpo     mean over the tokens of an answer, then over answers
    dr-grpo  sum over all tokens over (answers x longest allowed answer); A is not divided by the deviation (Liu 2025)
    dapo     mean over all tokens; e' = 0.28 (Yu 2025, without its filters of length, and without sampling again)
Both papers leave the distance to the reference out: set beta to 0 for what they did.

Answers to a prompt that all score the same have A = 0: they are counted (`no_difference`), and neither learnt from, the
distance to the reference included, nor in a denominator, that of dr-grpo included. The same holds for an answer for
which every reward gave None, and siblings are compared without it. Where an engine drew that is not
exact (`rollout.engine`), the max is weighted by min(pi_old / pi_sampler, C), C = `sampler_clip`. Use it where answers
can be scored and no critic is wanted.
"""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from mmalign.contract.objective import Context, Metrics, Outputs
from mmalign.language.protocols import CausalLM
from mmalign.rl.online_objective import OnlineObjective, PolicyGradientConfig

if TYPE_CHECKING:
    from torch import Tensor

    from mmalign import Batch
    from mmalign.contract.roles import Models

_DAPO_HIGH = 0.28


class GroupRelativePolicyOptimization(OnlineObjective):
    """Answers against their siblings, without a critic. `forward` is the base's: logps of the action tokens, [P]."""

    class Config(PolicyGradientConfig):
        variant: Literal["grpo", "dr-grpo", "dapo"] = Field("grpo", description="how tokens and scores are normalised")
        clip: float = Field(0.2, gt=0, description="e: how far a probability ratio may move from 1")
        clip_high: float = Field(0.0, ge=0, description="e', the bound above 1; 0: 0.28 for dapo, else as clip")
        beta: float = Field(
            0.04, ge=0, description="weight of the distance to the reference, k3 a token; 0: there is no reference"
        )

    config: Config

    @property
    def limits(self) -> dict[str, float]:
        return {"kl": self.config.max_kl} if self.config.beta else {}

    def prepare(self, models: "Models", batch: "Batch", ctx: Context) -> "Batch":
        """Adds advantage and learns: [N, K], reference and old: ragged."""
        from mmalign.ops.policy_gradient import group_relative
        from mmalign.rl.rollout_batch import action_logps, scored

        policy, temperature = models.role("policy", CausalLM), self.sampling.temperature
        score, has_score = batch["score"], scored(batch)
        # 1. Compare with the siblings.
        advantage = group_relative(score, scale=self.config.variant != "dr-grpo", scored=has_score)
        differ = (score[:, :, None] != score[:, None, :]) & has_score[:, :, None] & has_score[:, None, :]
        learns = differ.flatten(1).any(1, keepdim=True) & has_score
        # 2. What the reference says and, where more than one update follows, the policy as it is.
        batch = batch.with_columns(advantage=advantage, learns=learns)
        if self.config.beta:
            reference = models.role("reference", CausalLM)
            batch = batch.with_columns(reference=action_logps(reference, batch, ctx, temperature))
        if self.passes == (1, 1):
            return batch
        return batch.with_columns(old=action_logps(policy, batch, ctx, temperature))

    def loss(self, outputs: Outputs, batch: "Batch") -> "tuple[dict[str, Tensor], Metrics]":
        from mmalign.ops.policy_gradient import clipped_policy_loss, kl_estimate
        from mmalign.rl.rollout_batch import old_logps, rollout_metrics, sampler_weights, scored, spread

        config, logps, sequences = self.config, outputs["logps"], batch["sequences"]
        learns = spread(batch["learns"].flatten().to(logps.dtype), sequences)
        advantage = spread(batch["advantage"].flatten(), sequences)
        old = old_logps(batch, logps)
        high = config.clip_high or (_DAPO_HIGH if config.variant == "dapo" else config.clip)
        losses, clipped = clipped_policy_loss(logps, old, advantage, config.clip, high)
        weights, drawn = sampler_weights(batch, old, config.sampler_clip)
        losses = losses * weights
        tokens, answers, distance = len(logps), batch["score"].numel(), {}
        if config.beta:
            reference = batch["reference"].values
            losses = losses + config.beta * kl_estimate(logps, reference, "k3")
            distance = {"kl": ((logps.detach() - reference).sum(), answers)}
        if config.variant == "grpo":
            lengths = sequences.num_labels().clamp(min=1).to(logps)
            losses = losses / spread(lengths, sequences)
        metrics = {
            **rollout_metrics(batch),
            **drawn,
            **distance,
            "entropy": (-logps.detach().sum(), tokens),
            "clipped": (clipped.sum(), tokens),
            "no_difference": ((~batch["learns"] & scored(batch)).sum(), answers),
        }
        return {"policy": (losses * learns).sum()}, metrics

    def count(self, batch: "Batch") -> dict[str, float]:
        """Answers that learn, or their tokens, or as many tokens as they might have had."""
        learns = batch["learns"].flatten().cpu()
        if self.config.variant == "grpo":
            return {"policy": float(learns.sum())}
        if self.config.variant == "dapo":
            return {"policy": float(batch["sequences"].num_labels()[learns].sum())}
        return {"policy": float(learns.sum()) * self.sampling.max_tokens}
