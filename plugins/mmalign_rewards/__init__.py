"""Rewards that score answers in reinforcement learning: sentiment, length, verifiers, your own function, models,
programs.

mmalign train --objective grpo --set rollout.rewards='[{"name": "vader"}, {"name": "length", "weight": 0}]'
mmalign show regex --options
"""

from mmalign import RewardSpec, hookimpl


def _reward(name: str, target: str, summary: str, *, packages: tuple[str, ...] = (), config: str = "") -> RewardSpec:
    return RewardSpec(
        name=name,
        summary=summary,
        target=f"mmalign_rewards.{target}",
        packages=packages,
        config=config and f"mmalign_rewards.{config}",
        examples=("prompt",),
    )


@hookimpl
def register_rewards() -> list[RewardSpec]:
    return [
        _reward(
            "vader",
            "vader:Vader",
            "Sentiment of the answer by VADER's lexicon and rules, from -1 to 1",
            packages=("vaderSentiment",),
        ),
        _reward("length", "length:Length", "Words or tokens of the answer, or their distance from a target number"),
        _reward("exact-match", "exact_match:ExactMatch", "1 where the answer is the example's solution, else 0"),
        _reward("regex", "regex_match:RegexMatch", "1 where the answer matches a regular expression, else 0"),
        _reward("function", "function:Function", "The result of your own Python function; TRL's reward functions too"),
        _reward(
            "reward-model",
            "reward_model:RewardModelReward",
            "The score that a trained reward model gives to prompt and answer, with any tokenizer",
            config="options:RewardModelRewardConfig",
        ),
        _reward(
            "clip-score",
            "clip_score:ClipScore",
            "How well the answer fits an image or a text, by a dual encoder (Hessel 2021)",
            config="options:ClipScoreConfig",
        ),
        _reward(
            "code", "code:Code", "Runs the answer as a confined Python program and checks its output or runs tests"
        ),
    ]
