r"""Proximal policy optimisation from rewards of whole answers (RLHF): `mmalign train --objective ppo`.

The policy answers a batch of prompts; rewards score the answers; the critic says what each state is worth:

    r_t = -beta KL_t, and the score added at the last action, 0 where no reward has one    (Ouyang 2022, equation 2)
    A_t = r_t + gamma V_{t+1} - V_t + gamma lambda A_{t+1},   both 0 after the end, R_t = A_t + V_t
    L   = mean_t max(-A_t rho_t, -A_t clip(rho_t, 1 - e, 1 + e)),   rho_t = pi(y_t) / pi_old(y_t)
        + c_v mean_t 1/2 max((V_t - R_t)^2, (clip(V_t, V_old -+ e_v) - R_t)^2)
        - c_h mean_t H_t  -  g mean over pretraining tokens of log pi            (PPO-ptx, the last)

(Schulman 2017, equation 9; GAE: Schulman 2016.) Means are over the action tokens of the global batch. KL_t is an
estimate at the drawn token (k1: log pi - log ref; k2, k3: `mmalign/ops/policy_gradient.py`), beta fixed, or steered so
that the KL of an answer comes to `kl_target` (Ziegler 2019, section 2.2). A is whitened over the global batch. Where an
engine drew that is not exact (`rollout.engine`), the first max is weighted by min(pi_old / pi_sampler, C),
C = `sampler_clip`.

Use it where answers can be scored and credit should reach single tokens. The critic is a head on the policy's trunk, an
adapter on its frozen weights, or a model of its own (`objective.critic`).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from mmalign.contract.objective import Context, Metrics, Outputs, Phase
from mmalign.language.protocols import CausalLM
from mmalign.rl.config import CriticOptions
from mmalign.rl.online_objective import OnlineObjective, PolicyGradientConfig

if TYPE_CHECKING:
    from torch import Tensor

    from mmalign import Batch
    from mmalign.contract.roles import Models
    from mmalign.language.protocols import Hidden


class ProximalPolicyOptimization(OnlineObjective):
    """Roles: policy, critic, reference.

    Phases of a step: policy, then value, so that the activations of one are gone when the other begins; both in one
    pass where the critic is a head on the policy's trunk; then pretraining, where `ptx_coef` asks for it.
    """

    class Config(PolicyGradientConfig):
        epochs: int = Field(4, ge=1, description="times that a batch of answers is learnt from")
        clip: float = Field(0.2, gt=0, description="e: how far a probability ratio may move from 1")
        value_clip: float = Field(0.2, ge=0, description="e_v: how far a value may move from the old one; 0: anywhere")
        value_coef: float = Field(0.1, ge=0, description="c_v: weight of the critic's loss")
        entropy_coef: float = Field(0.0, ge=0, description="c_h: weight of the entropy, in 1/nats")
        ptx_coef: float = Field(0.0, ge=0, description="g: weight of pretraining gradients (InstructGPT: 27.8)")
        ptx_batch_size: int = Field(32, ge=1, description="examples of the stream ptx a step, over all processes")
        gamma: float = Field(1.0, gt=0, le=1, description="discount a token")
        lam: float = Field(0.95, ge=0, le=1, description="lambda of the advantages; 1: no bias of the critic's")
        kl_coef: float = Field(0.05, ge=0, description="beta: what a nat of distance from the reference costs")
        kl_estimator: Literal["k1", "k2", "k3"] = Field("k1", description="of the distance at a token")
        kl_target: float = Field(0.0, ge=0, description="nats an answer to steer beta by; 0: beta stays")
        kl_horizon: float = Field(10_000.0, gt=0, description="answers in which beta can change by a fifth (kl_target)")
        whiten: bool = Field(True, description="advantages less their mean, over their deviation, of the global batch")
        scale_scores: bool = Field(False, description="divide scores by their running standard deviation")
        clip_scores: float = Field(0.0, ge=0, description="largest size of a score, after scaling; 0: any")
        missing_end_penalty: float = Field(0.0, ge=0, description="taken off the score of an answer without an end")
        openai_eos: bool = Field(False, description="score an ended answer one place behind its end, as OpenAI's code")
        critic: CriticOptions = Field(CriticOptions(), description="what estimates values")

        def places(self) -> tuple[Path, ...]:
            return (Path(self.critic.source),) if self.critic.source else ()

        @model_validator(mode="after")
        def _steers(self) -> Self:
            if self.kl_target and not self.kl_coef:
                raise ValueError("kl_target steers kl_coef, and 0 would stay 0")
            return self

    config: Config

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        # beta: as it is steered; moments: of scores, how many, their sum, the sum of their squares.
        self.state = {"beta": config.kl_coef, "moments": [0.0, 0.0, 0.0]}
        self._policy, self._value = PolicyPhase(self), ValuePhase(self)

    @property
    def weights(self) -> dict[str, float]:
        return {"value": self.config.value_coef, "entropy": self.config.entropy_coef, "ptx": self.config.ptx_coef}

    @property
    def critic(self) -> CriticOptions:
        return self.config.critic

    def phases(self, models: "Models") -> dict[str, tuple[Phase, ...]]:
        on_one_trunk = models.role("critic", CausalLM) is models.role("policy", CausalLM)
        main = (self,) if on_one_trunk else (self._policy, self._value)
        return {"main": main, "ptx": (PretrainingPhase(),)} if self.config.ptx_coef else {"main": main}

    def prepare(self, models: "Models", batch: "Batch", ctx: Context) -> "Batch":
        """Answers become experience. Adds kl: [N, K] and, of each action token, old, values, advantages, returns and
        deviations, squared, of returns from their mean."""
        import torch

        from mmalign.ops import sum_rows
        from mmalign.ops.policy_gradient import gae, kl_estimate, mean_of_all, steered, whiten
        from mmalign.rl.rollout_batch import action_logps, answer_offsets, per_prompt

        sequences, offsets = batch["sequences"], answer_offsets(batch["sequences"])
        # 1. The policy and the critic as they are, and the reference.
        outputs = ctx.map(lambda part: self.forward(models, part), batch)
        old, values = outputs["logps"], outputs["values"]
        frozen = models.role("reference", CausalLM)
        reference = action_logps(frozen, batch, ctx, self.sampling.temperature).values
        # 2. Rewards: distance at every token, the score at the last.
        kl = kl_estimate(old, reference, self.config.kl_estimator)
        shaped = self._shaped(batch, ctx)
        if self.config.openai_eos:
            batch, shaped = self._behind(batch, outputs["ends"], shaped)
        # 3. Advantages.
        advantages, returns = gae(shaped - self.state["beta"] * kl, values, offsets, self.config.gamma, self.config.lam)
        if self.config.whiten:
            advantages = whiten(advantages, ctx.sum_over_processes)
        # 4. Steer beta for the next batch.
        distance, beta = sum_rows(old - reference, offsets), torch.full_like(batch["score"], self.state["beta"])
        if self.config.kl_target:
            answers, mean = mean_of_all(distance, ctx.sum_over_processes)
            self.state["beta"] *= steered(mean, answers, self.config.kl_target, self.config.kl_horizon)
        deviations = (returns - mean_of_all(returns, ctx.sum_over_processes)[1]).square()
        columns = {"old": old, "values": values, "advantages": advantages, "returns": returns, "deviations": deviations}
        ragged = {name: per_prompt(value, sequences) for name, value in columns.items()}
        return batch.with_columns(kl=distance.view_as(beta), beta=beta, **ragged)

    def forward(self, models: "Models", batch: "Batch") -> Outputs:
        """What both phases put out: of one pass where both are on one trunk."""
        policy, critic = models.role("policy", CausalLM), models.role("critic", CausalLM)
        hidden = policy.hidden_states(batch["sequences"])
        outputs = self._policy.outputs(policy, hidden)
        if critic is not policy:
            hidden = critic.hidden_states(batch["sequences"])
        return {**outputs, **self._value.outputs(models, hidden, batch)}

    def loss(self, outputs: Outputs, batch: "Batch") -> "tuple[dict[str, Tensor], Metrics]":
        value, _ = self._value.loss(outputs, batch)
        policy, metrics = self._policy.loss(outputs, batch)
        return {**value, **policy}, metrics

    def count(self, batch: "Batch") -> dict[str, float]:
        return {**self._policy.count(batch), **self._value.count(batch)}

    def _shaped(self, batch: "Batch", ctx: Context) -> "Tensor":
        """[P]: scores at the tokens that they are for, scaled and clipped, less the penalty of answers without end."""
        import torch

        from mmalign.rl.rollout_batch import answer_offsets

        config, rewards, score = self.config, batch["token_rewards"].values.clone(), batch["score"]
        if config.scale_scores:
            wide = score.double()
            new = torch.stack([torch.ones_like(wide), wide, wide.square()]).sum((1, 2)).cpu()
            added = ctx.sum_over_processes(new).tolist()
            number, total, squares = (old + more for old, more in zip(self.state["moments"], added, strict=True))
            self.state["moments"] = [number, total, squares]
            variance = squares / number - (total / number) ** 2
            if variance > 1e-8:  # else no score differed yet, and there is no scale
                rewards = rewards / max(1e-2, variance**0.5)
        if config.clip_scores:
            rewards = rewards.clamp(-config.clip_scores, config.clip_scores)
        offsets, missing = answer_offsets(batch["sequences"]), ~batch["ended"].flatten()
        fined = missing & (offsets.diff() > 0).to(missing.device)  # without a token there is nothing to learn from
        rewards[offsets[1:].to(fined.device)[fined] - 1] -= config.missing_end_penalty
        return rewards

    def has_more(self, batch: "Batch") -> "Tensor":
        """[N, K]: answers that ended with a place to spare behind the end."""
        lengths = batch["sequences"].num_labels().view_as(batch["score"]).to(batch["score"].device)
        return batch["ended"] & (lengths < self.sampling.max_tokens)

    def _behind(self, batch: "Batch", ends: "Tensor", shaped: "Tensor") -> "tuple[Batch, Tensor]":
        """The score s where the policy acts no more and the critic says V: A is s - V there, and the recursion brings
        gamma ((1 - lambda) V + lambda s) to the end token. ends: [N, K], V. Adds ends, end_scores: [N, K], V and s."""
        from mmalign.rl.rollout_batch import answer_offsets

        last, more = answer_offsets(batch["sequences"])[1:].to(shaped.device) - 1, self.has_more(batch)
        scores = shaped[last].view_as(ends)
        brought = self.config.gamma * ((1 - self.config.lam) * ends + self.config.lam * scores)
        shaped = shaped.index_put((last[more.flatten()],), brought[more].to(shaped))
        return batch.with_columns(ends=ends, end_scores=scores), shaped


class PolicyPhase(Phase):
    """The clipped loss of the policy, and its entropy."""

    def __init__(self, ppo: ProximalPolicyOptimization) -> None:
        self._ppo = ppo

    def forward(self, models: "Models", batch: "Batch") -> Outputs:
        policy = models.role("policy", CausalLM)
        return self.outputs(policy, policy.hidden_states(batch["sequences"]))

    def outputs(self, policy: CausalLM, hidden: "Hidden") -> "dict[str, Tensor]":
        """logps and, where it is learnt, entropy: [P]."""
        entropy, temperature = bool(self._ppo.config.entropy_coef), self._ppo.sampling.temperature
        found = policy.token_logps(hidden, temperature=temperature, entropy=entropy)
        return {"logps": found.logps} | ({} if found.entropy is None else {"entropy": found.entropy})

    def loss(self, outputs: Outputs, batch: "Batch") -> "tuple[dict[str, Tensor], Metrics]":
        from mmalign.ops.policy_gradient import clipped_policy_loss
        from mmalign.rl.rollout_batch import old_logps, rollout_metrics, sampler_weights

        config, logps, returns = self._ppo.config, outputs["logps"], batch["returns"].values
        old, tokens = old_logps(batch, logps), len(logps)
        losses, clipped = clipped_policy_loss(logps, old, batch["advantages"].values, config.clip, config.clip)
        weights, drawn = sampler_weights(batch, old, config.sampler_clip)
        sums = {"policy": (losses * weights).sum()}
        sums |= {"entropy": -outputs["entropy"].sum()} if config.entropy_coef else {}
        deviation, error = batch["deviations"].values, (returns - batch["values"].values).square()
        metrics = {
            **rollout_metrics(batch),
            **drawn,
            "kl": (batch["kl"].sum(), batch["kl"].numel()),
            "entropy": (outputs["entropy"].detach().sum() if config.entropy_coef else -logps.detach().sum(), tokens),
            "clipped": (clipped.sum(), tokens),
            "explained_variance": ((deviation - error).sum(), deviation.sum()),
            "beta": (batch["beta"].sum(), batch["beta"].numel()),
        }
        return sums, metrics

    def count(self, batch: "Batch") -> dict[str, float]:
        tokens = float(batch["sequences"].num_labels().sum())
        return {"policy": tokens, **({"entropy": tokens} if self._ppo.config.entropy_coef else {})}


class ValuePhase(Phase):
    """The clipped loss of the critic."""

    def __init__(self, ppo: ProximalPolicyOptimization) -> None:
        self._ppo = ppo

    def forward(self, models: "Models", batch: "Batch") -> Outputs:
        return self.outputs(models, models.role("critic", CausalLM).hidden_states(batch["sequences"]), batch)

    def outputs(self, models: "Models", hidden: "Hidden", batch: "Batch") -> "dict[str, Tensor]":
        """values: [P]; with `openai_eos` ends: [N, K]."""
        from mmalign.language.derive import last_token_scores, token_values

        head = models.head("critic")
        outputs = {"values": token_values(head, hidden)}
        if self._ppo.config.openai_eos:
            outputs["ends"] = last_token_scores(head, hidden).view_as(batch["score"])
        return outputs

    def loss(self, outputs: Outputs, batch: "Batch") -> "tuple[dict[str, Tensor], Metrics]":
        from mmalign.ops.policy_gradient import clipped_value_loss

        clip, returns = self._ppo.config.value_clip, batch["returns"].values
        total = clipped_value_loss(outputs["values"], batch["values"].values, returns, clip).sum()
        if self._ppo.config.openai_eos:
            errors = clipped_value_loss(outputs["ends"], batch["ends"], batch["end_scores"], clip)
            total = total + errors[self._ppo.has_more(batch)].sum()
        return {"value": total}, {}

    def count(self, batch: "Batch") -> dict[str, float]:
        tokens = float(batch["sequences"].num_labels().sum())
        return {"value": tokens + (float(self._ppo.has_more(batch).sum()) if self._ppo.config.openai_eos else 0.0)}


class PretrainingPhase(Phase):
    """PPO-ptx: the log-likelihood of pretraining texts."""

    def forward(self, models: "Models", batch: "Batch") -> Outputs:
        """logps: [N]."""
        from mmalign.language.derive import label_sums
        from mmalign.language.sequences import sequences_of

        return {"logps": label_sums(models.role("policy", CausalLM), sequences_of(batch))["logps"]}

    def loss(self, outputs: Outputs, batch: "Batch") -> "tuple[dict[str, Tensor], Metrics]":
        return {"ptx": -outputs["logps"].sum()}, {}

    def count(self, batch: "Batch") -> dict[str, float]:
        from mmalign.language.sequences import sequences_of

        return {"ptx": float(sequences_of(batch).num_labels().sum())}
