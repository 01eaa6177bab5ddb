"""The common part of objectives that sample answers and learn from them: how often, and until where.

    class Mine(OnlineObjective):
        class Config(OnlineConfig): beta: float = Field(0.1, description="...")

`prepare` gets the batch with its answers sampled and scored. The columns: `mmalign.rl.rollout.Sampler.sample`; how to
read them: `mmalign.rl.rollout_batch`.
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
    """Of every one."""

    epochs: int = Field(1, ge=1, description="times that a batch of answers is learnt from")
    minibatches: int = Field(1, ge=1, description="updates in each of these times")
    max_kl: float = Field(
        100.0, gt=0, description="nats an answer from the reference, where there is one, at which the run stops"
    )


class PolicyGradientConfig(OnlineConfig):
    """Of those whose gradient is right for answers of the policy's own distribution only."""

    sampler_clip: float = Field(
        2.0,
        ge=0,
        description="C: where an engine drew that is not exact (`rollout.engine`), the policy loss is weighted by "
        "min(pi_old / pi_sampler, C); 0: it is not",
    )


class OnlineObjective(Objective):
    """Its Config is an `OnlineConfig`; its metric `kl` is the distance from the reference, in nats an answer."""

    sampling: "Sampling"
    """How answers are sampled; the feed sets it."""

    @property
    def passes(self) -> tuple[int, int]:
        """(epochs, minibatches): how often a prepared batch is gone through, and in how many updates each time."""
        return (self.config.epochs, self.config.minibatches)

    @property
    def limits(self) -> Mapping[str, float]:
        """Metrics of an update and what they must not exceed: the run stops before it, as for a loss that is NaN."""
        return {"kl": self.config.max_kl}

    def forward(self, models: "Models", batch: "Batch") -> Outputs:
        """logps: [P] of the action tokens."""
        policy = models.role("policy", CausalLM)
        hidden = policy.hidden_states(batch["sequences"])
        return {"logps": policy.token_logps(hidden, temperature=self.sampling.temperature).logps}
