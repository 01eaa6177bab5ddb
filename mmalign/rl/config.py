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
    temperature: float = Field(1.0, gt=0, description="of sampling; log-probabilities are taken at it too")
    top_p: float = Field(
        1.0,
        gt=0,
        le=1,
        description="draw among the most probable tokens of this share; 1: among all. Log-probabilities stay those of "
        "all tokens; KL and entropy are means over tokens drawn, and know nothing of what is never drawn",
    )
    rewards: tuple[dict[str, JsonValue], ...] = Field(
        (),
        description="scorers of answers, added up by `weight` (1; 0 reports only), each with its options, such as "
        '[{"name": "vader"}, {"name": "length", "weight": 0}]; or names alone, as vader, or ["vader", "length=0"]',
    )
    engine: dict[str, JsonValue] = Field(
        {},
        description="what draws answers in the policy's place: a name, such as continuous-batching, or options as "
        '{"name": ..., ...}; empty: the policy itself, exactly by the seed',
    )
    environment: dict[str, JsonValue] = Field(
        {}, description='what replies to answers, with its options, such as {"name": "calculator"}; empty: nothing does'
    )
    environment_timeout: float = Field(
        10.0, gt=0, description="seconds that an environment may take for a reply; past them the run stops"
    )
    max_turns: int = Field(4, ge=1, description="turns of an episode, after which it ends")
    keep_experience: int = Field(
        10, ge=0, description="steps between tables of answers and scores in the run folder (parquet); 0: none"
    )
    heldout_answers: int = Field(
        128, ge=1, description="answers to held-out prompts, all together, that a measurement samples at least"
    )

    @field_validator("rewards", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return reward_list(value)

    @field_validator("environment", "engine", mode="before")
    @classmethod
    def _alone(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, str | dict):
            such = "calculator" if info.field_name == "environment" else "continuous-batching"
            raise ValueError(f"{value!r} is no {info.field_name}: a name, or options as {{'name': '{such}'}}")
        if isinstance(value, str):
            _require_name(value, str(info.field_name))
            return {"name": value} if value else {}
        return value

    @property
    def sampling(self) -> "Sampling":
        from mmalign.language.sampling import Sampling

        return Sampling(self.max_tokens, self.temperature, self.top_p)

    def answers_heldout(self, prompts: int, fewest: int) -> int:
        """To each of so many prompts, of which the objective needs so many at least."""
        return max(fewest, -(-self.heldout_answers // max(1, prompts)))


def reward_list(value: Any) -> list[dict[str, Any]]:
    """Of a config's field: one reward may stand without a list, and any as NAME or NAME=WEIGHT. Raises ValueError."""
    rewards = value if isinstance(value, list | tuple) else [value]
    for reward in rewards:
        if not isinstance(reward, str | dict):
            raise ValueError(f"{reward!r} is no reward: a name, or options as {{'name': 'vader', 'weight': 0.5}}")
    return [named_reward(reward) if isinstance(reward, str) else reward for reward in rewards]


def reward_option(text: str) -> dict[str, Any]:
    """What a user types for one reward: NAME, NAME=WEIGHT, or JSON with its options. Raises ValueError."""
    if text.lstrip()[:1] == "[":
        raise ValueError("a list, where one reward is meant; repeat the option for several")
    return json.loads(text) if text.lstrip()[:1] == "{" else named_reward(text)


def named_reward(text: str) -> dict[str, Any]:
    """ "length=-0.1" as an entry of rollout.rewards; raises ValueError."""
    name, equals, weight = text.partition("=")
    if not name.strip():
        raise ValueError(f"{text!r} names no reward; as vader, or vader=0.5")
    _require_name(text, "reward")
    with contextlib.suppress(ValueError):
        number = float(weight) if equals else 1.0
        if math.isfinite(number):
            return {"name": name.strip(), **({"weight": number} if equals else {})}
    raise ValueError(f"{weight!r} is no weight; as {name}=0.5")


def _require_name(text: str, what: str) -> None:
    """Raises ValueError for options that were meant as JSON."""
    if text.lstrip()[:1] in ("[", "{"):
        raise ValueError(f"{text!r} names no {what}, and cannot be read as JSON")
