r"""Group relative policy optimisation: `mmalign train --objective grpo`.

K answers y_i to each prompt are sampled and scored. An answer's advantage is its score relative to its siblings':

    A_i = (r_i - mean_j r_j) / (std_j r_j + 1e-4)                                  (Shao 2024, section 4.1.2)
    l_t = max(-A rho_t, -A clip(rho_t, 1 - e, 1 + e')) + beta k3_t,   rho_t = pi(y_t) / pi_old(y_t)
    k3  = ref/pi - 1 - log ref/pi

`variant` chooses how the losses l_t of tokens are averaged:
    grpo     mean over the tokens of an answer, then over answers
    dr-grpo  sum over all tokens / (answers x longest allowed answer); A is not divided by the deviation (Liu 2025)
    dapo     mean over all tokens; e' = 0.28 (Yu 2025, without its length filters and without resampling)
The papers of dr-grpo and dapo have no distance to the reference: set beta to 0 to do as they did.

Where all answers to a prompt score the same, A = 0. They are counted (`no_difference`) but teach nothing: they add
neither to the loss, its distance to the reference included, nor to a denominator, in any variant. The same holds for an
answer for which every reward gave None; its siblings are compared without it. If an inexact engine (`rollout.engine`)
drew the answers, the max is weighted by min(pi_old / pi_sampler, C), C = `sampler_clip`. Use it where answers can be
scored and no critic is wanted.
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
    """Compares answers with their siblings, without a critic. `forward` is the base's: logps of the action tokens,
    [P]."""

    class Config(PolicyGradientConfig):
        variant: Literal["grpo", "dr-grpo", "dapo"] = Field(
            "grpo", description="how losses of tokens and scores are normalised"
        )
        clip: float = Field(0.2, gt=0, description="e: how far a probability ratio may move from 1")
        clip_high: float = Field(0.0, ge=0, description="e', the bound above 1; 0: 0.28 for dapo, else as clip")
        beta: float = Field(
            0.04,
            ge=0,
            description="weight of the distance to the reference, k3 of each token; 0: no reference is loaded",
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
        # 2. Log-probabilities of the reference and, where more than one update follows, of the policy before them.
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
        """Answers that learn (grpo), their tokens (dapo), or the most tokens that they could have (dr-grpo)."""
        learns = batch["learns"].flatten().cpu()
        if self.config.variant == "grpo":
            return {"policy": float(learns.sum())}
        if self.config.variant == "dapo":
            return {"policy": float(batch["sequences"].num_labels()[learns].sum())}
        return {"policy": float(learns.sum()) * self.sampling.max_tokens}
