"""A feed of sampled answers: the policy answers each batch of prompts, and rewards score the answers.

feed = SampledAnswers.open(catalog, rollout, spec, objective, models, share=8, columns=(), device=device, say=print)
batch = feed.complete(policy, prompts, ctx)       # N prompts with K answers each, and their scores
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmalign.contract.backbone import NamesPlaces
from mmalign.contract.batch import Batch
from mmalign.contract.capabilities import Pair
from mmalign.contract.objective import Context, Objective
from mmalign.contract.specs import ObjectiveSpec
from mmalign.display import Say, terminal_width
from mmalign.errors import PluginError, UsageError
from mmalign.rl.counts import NO_DIFFERENCE, answer_counts, unlearnt_prompts, worth_telling
from mmalign.rl.engines import Engine
from mmalign.rl.environment_host import EnvironmentHost
from mmalign.rl.experience import show_experience, write_experience
from mmalign.rl.online_objective import OnlineObjective, PolicyGradientConfig
from mmalign.rl.rewards import RewardList, check_rewards
from mmalign.rl.rollout import Sampler, checked_rollout

if TYPE_CHECKING:
    import torch

    from mmalign.registry.catalog import Catalog
    from mmalign.rl.config import RolloutConfig


class SampledAnswers:
    """fewest: answers per held-out prompt, at least."""

    def __init__(self, sampler: Sampler, objective: OnlineObjective, fewest: int, processor: Any) -> None:
        self.unit, self.stage = "prompts", "rollout"
        self.comparable_loss, self.long_steps = False, True
        self.sampler, self._config = sampler, sampler.config
        self._fewest, self._processor = fewest, processor
        self.answer_tokens = sampler.config.max_tokens
        self.passes, self.limits = objective.passes, objective.limits
        objective.sampling = sampler.config.sampling

    @classmethod
    def check(cls, catalog: "Catalog", rollout: "RolloutConfig", spec: ObjectiveSpec) -> "RolloutConfig":
        if rollout.samples < spec.fewest_answers:
            raise UsageError(
                f"{spec.name} compares answers to a prompt, and rollout.samples={rollout.samples} is too few",
                hint=f"Try: --set rollout.samples={max(4, spec.fewest_answers)}",
            )
        return checked_rollout(catalog, rollout)

    @classmethod
    def places(cls, catalog: "Catalog", rollout: "RolloutConfig") -> list[Path]:
        options = [chosen.config for chosen in check_rewards(catalog, rollout.rewards, required=False)]
        return [path for config in options if isinstance(config, NamesPlaces) for path in config.places()]

    @classmethod
    def open(
        cls,
        catalog: "Catalog",
        rollout: "RolloutConfig",
        spec: ObjectiveSpec,
        objective: Objective,
        models: Any,
        *,
        share: int,
        columns: tuple[str, ...],
        pair: Pair,
        device: "torch.device",
        say: Say,
    ) -> "SampledAnswers":
        """columns: names of the prompts' columns, which rewards may need.

        Raises UsageError if answers leave no room for a prompt, if there are fewer prompts than updates, or if a reward
        needs a missing column or does not read such prompts; PluginError for an objective that is not an
        OnlineObjective.
        """
        if not isinstance(objective, OnlineObjective):
            raise PluginError(f"{spec.name} learns from sampled answers, but its class is not an OnlineObjective")
        policy = models["policy"]
        context = policy.processor.context_length
        if rollout.max_tokens >= context:
            raise UsageError(
                f"rollout.max_tokens={rollout.max_tokens} leaves no room for a prompt in a context of {context} tokens",
                hint=f"Try: --set rollout.max_tokens={context // 2}",
            )
        if objective.passes[1] > share:
            raise UsageError(
                f"objective.minibatches={objective.passes[1]} with {share} prompts per step and process: some would be "
                "empty",
                hint="Raise train.batch_size, or lower objective.minibatches.",
            )
        environment = None
        if rollout.environment:
            environment = EnvironmentHost.open(catalog, rollout.environment, rollout.environment_timeout)
        rewards = RewardList.build(
            catalog, rollout.rewards, device, say, required=environment is None, trunk=models.trunk
        )
        rewards.check_columns(columns)
        rewards.check_pair((pair[0], "text"))
        engine = Engine.build(catalog, rollout.engine, policy, say)
        weighs = isinstance(objective.config, PolicyGradientConfig) and objective.config.sampler_clip
        if weighs and engine is not None and not engine.exact and rollout.top_p < 1:
            say(
                f"rollout.top_p={rollout.top_p:g} weakens learning: importance weights also cover the tokens it leaves "
                "out, so they are below 1, and near 0 for whole answers (rloo). Set rollout.top_p=1, or "
                "objective.sampler_clip=0"
            )
        sampler = Sampler(rollout, policy.processor, rewards, environment, engine)
        return cls(sampler, objective, spec.fewest_answers, policy.processor)

    def complete(self, policy: Any, batch: Batch, ctx: Context) -> Batch:
        self.sampler.take_seconds()  # drop those of measurements since the last step
        return self.sampler.answered(policy, batch, ctx, self._config.samples)

    def complete_heldout(self, policy: Any, batch: Batch, ctx: Context, total: int) -> Batch:
        return self.sampler.answered(policy, batch, ctx, self._config.answers_heldout(total, self._fewest))

    def heldout_chunk(self, micro_batch_size: int, batch_size: int) -> int:
        """The size used in training, if set: each prompt has many answers."""
        return micro_batch_size or batch_size

    def sizes(self, batch: Batch) -> dict[str, int]:
        return {"prompts": len(batch), "answers": batch["score"].numel()}

    def take_seconds(self) -> dict[str, float]:
        return self.sampler.take_seconds()

    def counts(self, batch: Batch) -> dict[str, int]:
        counts = answer_counts(batch)
        if self._config.environment:  # answers without an end may also come from max_turns
            counts |= self.sampler.counts | {"answers_cut": self.sampler.counts["stopped_length"]}
        return counts

    def count_all(self, counts: Mapping[str, int], metrics: Mapping[str, float]) -> dict[str, int]:
        return dict(counts) | unlearnt_prompts(metrics, counts["prompts"])

    def keep(self, batch: Batch, step: int, folder: Path, rank: str) -> list[str]:
        """Write a table of answers at the first step and every `rollout.keep_experience`th."""
        every = self._config.keep_experience
        if not every or (step % every and step != 1):
            return []
        write_experience(batch, folder / "experience" / f"step-{step:05d}{rank}.parquet", self._processor)
        return list(show_experience(batch, self._processor, max(0, terminal_width() - 2)))

    def tell(self, counts: Mapping[str, int]) -> list[str]:
        return worth_telling(counts)

    def why_empty(self, metrics: Mapping[str, Any]) -> str:
        same = NO_DIFFERENCE in metrics
        return "all answers to a prompt score the same" if same else "every term of the loss has count 0"

    def opening(self, key: str) -> str:
        environment = self._config.environment.get("name")
        before = f", before {environment} adds its text" if environment else ""
        return f"the first prompt, {key}{before}; training learns from the answers that the policy samples to it:"
