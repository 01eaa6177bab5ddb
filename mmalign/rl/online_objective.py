"""The base class of objectives that learn from sampled answers, with their passes and limits.

    class Mine(OnlineObjective):
        class Config(OnlineConfig): beta: float = Field(0.1, description="...")

`prepare` gets the batch with sampled and scored answers. `mmalign.rl.rollout.Sampler.sample` lists its columns;
`mmalign.rl.rollout_batch` reads them.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import Field

from mmalign.contract.objective import Objective, ObjectiveConfig, Outputs
from mmalign.language.protocols import CausalLM

if TYPE_CHECKING:
    from mmalign.contract.batch import Batch
    from mmalign.contract.roles import Models
    from mmalign.language.sampling import Sampling


class OnlineConfig(ObjectiveConfig):
    """Options of every online objective."""

    epochs: int = Field(1, ge=1, description="passes over each batch of answers")
    minibatches: int = Field(1, ge=1, description="updates per pass")
    max_kl: float = Field(
        100.0, gt=0, description="KL from the reference, if there is one, in nats per answer, at which the run stops"
    )


class PolicyGradientConfig(OnlineConfig):
    """Options of objectives whose gradient is right only for answers from the policy's own distribution."""

    sampler_clip: float = Field(
        2.0,
        ge=0,
        description="C: with an engine that is not exact (`rollout.engine`), the policy loss is weighted by "
        "min(pi_old / pi_sampler, C); 0: no weighting",
    )


class OnlineObjective(Objective):
    """Its Config is an `OnlineConfig`; its metric `kl` is the KL from the reference, in nats per answer."""

    sampling: "Sampling"
    """How answers are sampled, set by the feed."""

    @property
    def passes(self) -> tuple[int, int]:
        """(epochs, minibatches): passes over a prepared batch, and updates per pass."""
        return (self.config.epochs, self.config.minibatches)

    @property
    def limits(self) -> Mapping[str, float]:
        """Metric -> its upper limit: the run stops before an update that exceeds it, as for a NaN loss."""
        return {"kl": self.config.max_kl}

    def forward(self, models: "Models", batch: "Batch") -> Outputs:
        """logps: [P] of the action tokens."""
        policy = models.role("policy", CausalLM)
        hidden = policy.hidden_states(batch["sequences"])
        return {"logps": policy.token_logps(hidden, temperature=self.sampling.temperature).logps}
