"""Options of reinforcement learning: the `rollout` section of a run, and rewards as users write them."""

import contextlib
import json
import math
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationInfo, field_validator

if TYPE_CHECKING:
    from mmalign.language.sampling import Sampling


class RolloutConfig(BaseModel):
    """How an online objective samples answers, and what scores them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples: int = Field(4, ge=1, description="answers to each prompt of a batch")
    max_tokens: int = Field(64, ge=1, description="longest answer, in tokens; of an episode, all turns together")
    temperature: float = Field(1.0, gt=0, description="sampling temperature, applied to log-probabilities too")
    top_p: float = Field(
        1.0,
        gt=0,
        le=1,
        description="sample only from the most probable tokens that make up this probability; 1: from all. "
        "Log-probabilities are still over all tokens; KL and entropy are means over sampled tokens only",
    )
    rewards: tuple[dict[str, JsonValue], ...] = Field(
        (),
        description="scorers of answers, summed by `weight` (default 1; 0: only reported), each with its options, as "
        '[{"name": "vader"}, {"name": "length", "weight": 0}]; or only names: vader, or ["vader", "length=0"]',
    )
    engine: dict[str, JsonValue] = Field(
        {},
        description="engine that samples instead of the policy: a name, such as continuous-batching, or options as "
        '{"name": ..., ...}; empty: the policy itself, reproducible by the seed',
    )
    environment: dict[str, JsonValue] = Field(
        {}, description='environment that replies to answers, with its options, as {"name": "calculator"}; empty: none'
    )
    environment_timeout: float = Field(
        10.0, gt=0, description="seconds that an environment may take to reply before the run stops"
    )
    max_turns: int = Field(4, ge=1, description="most turns of an episode")
    keep_experience: int = Field(
        10, ge=0, description="steps between tables of answers and scores in the run folder (parquet); 0: none"
    )
    heldout_answers: int = Field(
        128, ge=1, description="fewest answers that a measurement samples, over all held-out prompts"
    )

    @field_validator("rewards", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return reward_list(value)

    @field_validator("environment", "engine", mode="before")
    @classmethod
    def _alone(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, str | dict):
            name = "calculator" if info.field_name == "environment" else "continuous-batching"
            raise ValueError(f"{value!r} is no {info.field_name}; give a name, or options as {{'name': '{name}'}}")
        if isinstance(value, str):
            _require_name(value, str(info.field_name))
            return {"name": value} if value else {}
        return value

    @property
    def sampling(self) -> "Sampling":
        from mmalign.language.sampling import Sampling

        return Sampling(self.max_tokens, self.temperature, self.top_p)

    def answers_heldout(self, prompts: int, fewest: int) -> int:
        """Answers per held-out prompt. fewest: that the objective needs."""
        return max(fewest, -(-self.heldout_answers // max(1, prompts)))


def reward_list(value: Any) -> list[dict[str, Any]]:
    """A list of options for each reward; a reward may also be NAME or NAME=WEIGHT, and one needs no list.

    Raises ValueError.
    """
    rewards = value if isinstance(value, list | tuple) else [value]
    for reward in rewards:
        if not isinstance(reward, str | dict):
            raise ValueError(f"{reward!r} is no reward; give a name, or options as {{'name': 'vader', 'weight': 0.5}}")
    return [named_reward(reward) if isinstance(reward, str) else reward for reward in rewards]


def reward_option(text: str) -> dict[str, Any]:
    """What a user types for one reward: NAME, NAME=WEIGHT, or JSON with its options. Raises ValueError."""
    if text.lstrip()[:1] == "[":
        raise ValueError("this option takes one reward, not a list; repeat it for several")
    return json.loads(text) if text.lstrip()[:1] == "{" else named_reward(text)


def named_reward(text: str) -> dict[str, Any]:
    """ "length=-0.1" as an entry of rollout.rewards; raises ValueError."""
    name, equals, weight = text.partition("=")
    if not name.strip():
        raise ValueError(f"{text!r} names no reward; try vader, or vader=0.5")
    _require_name(text, "reward")
    with contextlib.suppress(ValueError):
        number = float(weight) if equals else 1.0
        if math.isfinite(number):
            return {"name": name.strip(), **({"weight": number} if equals else {})}
    raise ValueError(f"{weight!r} is no weight; try {name}=0.5")


def _require_name(text: str, kind: str) -> None:
    """Raise ValueError for broken JSON in place of a name."""
    if text.lstrip()[:1] in ("[", "{"):
        raise ValueError(f"{text!r} names no {kind}, and cannot be read as JSON")
