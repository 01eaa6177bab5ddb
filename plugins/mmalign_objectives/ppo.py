r"""Proximal policy optimisation from rewards of whole answers (RLHF): `mmalign train --objective ppo`.

The policy answers a batch of prompts, rewards score the answers, and the critic estimates the value V of each state:

    r_t = -beta KL_t, plus the score at the last action, 0 where no reward gave one        (Ouyang 2022, equation 2)
    A_t = r_t + gamma V_{t+1} - V_t + gamma lambda A_{t+1},   V and A 0 after the end, R_t = A_t + V_t
    L   = mean_t max(-A_t rho_t, -A_t clip(rho_t, 1 - e, 1 + e)),   rho_t = pi(y_t) / pi_old(y_t)
        + c_v mean_t 1/2 max((V_t - R_t)^2, (clip(V_t, V_old -+ e_v) - R_t)^2)
        - c_h mean_t H_t  -  g mean over pretraining tokens of log pi            (the last term: PPO-ptx)

(Schulman 2017, equation 9; GAE: Schulman 2016.) Means are over the action tokens of the global batch. KL_t is an
estimate at the drawn token (k1: log pi - log ref; k2, k3: `mmalign/ops/policy_gradient.py`). beta is fixed, or steered
towards an answer's KL of `kl_target` (Ziegler 2019, section 2.2). A is whitened over the global batch. If an inexact
engine (`rollout.engine`) drew the answers, the first max is weighted by min(pi_old / pi_sampler, C),
C = `sampler_clip`.

Use it where answers can be scored and credit should reach single tokens. The critic is a head on the policy's trunk, an
adapter on its frozen weights, or a separate model (`objective.critic`).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from mmalign.contract.objective import Context, Metrics, Outputs, Phase
from mmalign.contract.roles import CriticOptions
from mmalign.language.protocols import CausalLM
from mmalign.rl.online_objective import OnlineObjective, PolicyGradientConfig

if TYPE_CHECKING:
    from torch import Tensor

    from mmalign import Batch
    from mmalign.contract.roles import Models
    from mmalign.language.protocols import Hidden


class ProximalPolicyOptimization(OnlineObjective):
    """Roles: policy, critic, reference.

    The policy phase and the value phase of a step run one after the other, so the activations of one are freed before
    the other begins. A critic that is a head on the policy's trunk shares one pass with it. The pretraining phase
    follows where `ptx_coef` is set.
    """

    class Config(PolicyGradientConfig):
        epochs: int = Field(4, ge=1, description="passes over a batch of answers")
        clip: float = Field(0.2, gt=0, description="e: how far a probability ratio may move from 1")
        value_clip: float = Field(0.2, ge=0, description="e_v: how far a value may move from the old one; 0: no limit")
        value_coef: float = Field(0.1, ge=0, description="c_v: weight of the critic's loss")
        entropy_coef: float = Field(0.0, ge=0, description="c_h: weight of the entropy, in 1/nats")
        ptx_coef: float = Field(0.0, ge=0, description="g: weight of pretraining gradients (InstructGPT: 27.8)")
        ptx_batch_size: int = Field(32, ge=1, description="examples of the stream ptx in each step, over all processes")
        gamma: float = Field(1.0, gt=0, le=1, description="discount of each token")
        lam: float = Field(0.95, ge=0, le=1, description="lambda of the advantages; 1: the critic adds no bias")
        kl_coef: float = Field(0.05, ge=0, description="beta: cost of a nat of distance from the reference, in score")
        kl_estimator: Literal["k1", "k2", "k3"] = Field("k1", description="estimator of the distance at a token")
        kl_target: float = Field(
            0.0, ge=0, description="KL that beta is steered towards, in nats an answer; 0: beta is fixed"
        )
        kl_horizon: float = Field(
            10_000.0, gt=0, description="number of answers over which beta changes by a fifth at most (kl_target)"
        )
        whiten: bool = Field(
            True, description="normalise advantages by their mean and standard deviation over the global batch"
        )
        scale_scores: bool = Field(False, description="divide scores by their running standard deviation")
        clip_scores: float = Field(0.0, ge=0, description="largest absolute score, after scaling; 0: no limit")
        missing_end_penalty: float = Field(
            0.0, ge=0, description="subtracted from the score of an answer that did not end"
        )
        openai_eos: bool = Field(
            False, description="score an ended answer one position behind its end, as OpenAI's code does"
        )
        critic: CriticOptions = Field(CriticOptions(), description="the model that estimates values")

        def places(self) -> tuple[Path, ...]:
            return (Path(self.critic.source),) if self.critic.source else ()

        @model_validator(mode="after")
        def _steers(self) -> Self:
            if self.kl_target and not self.kl_coef:
                raise ValueError("kl_target multiplies kl_coef, and a kl_coef of 0 would stay 0")
            return self

    config: Config

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        # beta: its steered value; moments: number of scores so far, their sum, the sum of their squares.
        self.state = {"beta": config.kl_coef, "moments": [0.0, 0.0, 0.0]}
        self._policy, self._value = PolicyPhase(self), ValuePhase(self)

    @property
    def weights(self) -> dict[str, float]:
        return {"value": self.config.value_coef, "entropy": self.config.entropy_coef, "ptx": self.config.ptx_coef}

    def phases(self, models: "Models") -> dict[str, tuple[Phase, ...]]:
        on_one_trunk = models.role("critic", CausalLM) is models.role("policy", CausalLM)
        main = (self,) if on_one_trunk else (self._policy, self._value)
        return {"main": main, "ptx": (PretrainingPhase(),)} if self.config.ptx_coef else {"main": main}

    def prepare(self, models: "Models", batch: "Batch", ctx: Context) -> "Batch":
        """Turns answers into experience. Adds kl: [N, K] and, for each action token, old, values, advantages, returns
        and deviations (squared, of returns from their mean)."""
        import torch

        from mmalign.ops import sum_rows
        from mmalign.ops.policy_gradient import gae, kl_estimate, mean_of_all, steered, whiten
        from mmalign.rl.rollout_batch import action_logps, answer_offsets, per_prompt

        sequences, offsets = batch["sequences"], answer_offsets(batch["sequences"])
        # 1. Log-probabilities and values before the update, and the reference's log-probabilities.
        outputs = ctx.map(lambda micro_batch: self.forward(models, micro_batch), batch)
        old, values = outputs["logps"], outputs["values"]
        frozen = models.role("reference", CausalLM)
        reference = action_logps(frozen, batch, ctx, self.sampling.temperature).values
        # 2. Rewards: the distance at every token, the score at the last one.
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
        """Outputs of both phases; of a single pass where policy and critic share a trunk."""
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
        """[P]: scores at the tokens that earned them, scaled and clipped, less the penalty of answers that did not
        end."""
        import torch

        from mmalign.rl.rollout_batch import answer_offsets

        config, rewards, score = self.config, batch["token_rewards"].values.clone(), batch["score"]
        if config.scale_scores:
            wide = score.double()
            new = torch.stack([torch.ones_like(wide), wide, wide.square()]).sum((1, 2)).cpu()
            added = ctx.sum_over_processes(new).tolist()
            number, summed, squares = (old + more for old, more in zip(self.state["moments"], added, strict=True))
            self.state["moments"] = [number, summed, squares]
            variance = squares / number - (summed / number) ** 2
            if variance > 1e-8:  # else all scores so far are equal, and there is no scale
                rewards = rewards / max(1e-2, variance**0.5)
        if config.clip_scores:
            rewards = rewards.clamp(-config.clip_scores, config.clip_scores)
        offsets, missing = answer_offsets(batch["sequences"]), ~batch["ended"].flatten()
        fined = missing & (offsets.diff() > 0).to(missing.device)  # without a token there is nothing to learn from
        rewards[offsets[1:].to(fined.device)[fined] - 1] -= config.missing_end_penalty
        return rewards

    def has_more(self, batch: "Batch") -> "Tensor":
        """[N, K]: answers that ended before the last position, so that one is left behind the end."""
        lengths = batch["sequences"].num_labels().view_as(batch["score"]).to(batch["score"].device)
        return batch["ended"] & (lengths < self.sampling.max_tokens)

    def _behind(self, batch: "Batch", ends: "Tensor", shaped: "Tensor") -> "tuple[Batch, Tensor]":
        """Moves the score s of an ended answer to the state behind its end, where the critic's value is V. The
        advantage there is s - V, and the recursion brings gamma ((1 - lambda) V + lambda s) to the end token. ends: [N,
        K], V. Adds ends, end_scores: [N, K], V and s."""
        from mmalign.rl.rollout_batch import answer_offsets

        last, more = answer_offsets(batch["sequences"])[1:].to(shaped.device) - 1, self.has_more(batch)
        scores = shaped[last].view_as(ends)
        brought = self.config.gamma * ((1 - self.config.lam) * ends + self.config.lam * scores)
        shaped = shaped.index_put((last[more.flatten()],), brought[more].to(shaped))
        return batch.with_columns(ends=ends, end_scores=scores), shaped


class PolicyPhase(Phase):
    """The clipped loss of the policy, and its entropy bonus."""

    def __init__(self, ppo: ProximalPolicyOptimization) -> None:
        self._ppo = ppo

    def forward(self, models: "Models", batch: "Batch") -> Outputs:
        policy = models.role("policy", CausalLM)
        return self.outputs(policy, policy.hidden_states(batch["sequences"]))

    def outputs(self, policy: CausalLM, hidden: "Hidden") -> "dict[str, Tensor]":
        """logps, and entropy where it is in the loss: [P]."""
        entropy, temperature = bool(self._ppo.config.entropy_coef), self._ppo.sampling.temperature
        tokens = policy.token_logps(hidden, temperature=temperature, entropy=entropy)
        return {"logps": tokens.logps} | ({} if tokens.entropy is None else {"entropy": tokens.entropy})

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
        """values: [P]; with `openai_eos` also ends: [N, K]."""
        from mmalign.language.derive import last_token_scores, token_values

        head = models.head("critic")
        outputs = {"values": token_values(head, hidden)}
        if self._ppo.config.openai_eos:
            outputs["ends"] = last_token_scores(head, hidden).view_as(batch["score"])
        return outputs

    def loss(self, outputs: Outputs, batch: "Batch") -> "tuple[dict[str, Tensor], Metrics]":
        from mmalign.ops.policy_gradient import clipped_value_loss

        clip, returns = self._ppo.config.value_clip, batch["returns"].values
        summed = clipped_value_loss(outputs["values"], batch["values"].values, returns, clip).sum()
        if self._ppo.config.openai_eos:
            errors = clipped_value_loss(outputs["ends"], batch["ends"], batch["end_scores"], clip)
            summed = summed + errors[self._ppo.has_more(batch)].sum()
        return {"value": summed}, {}

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
