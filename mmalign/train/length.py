"""The steps and warm-up of a run, from `train.steps` or `train.epochs` and the number of examples.

train, reasons = with_steps(config)               # before data is opened; `epochs` have to wait for it
train = with_examples(train, 1_000)               # steps and warm-up as numbers
passes(train, 1_000)                              # "200 steps of 64 are 12.8 passes over 1,000 examples"
"""

import math

from mmalign.train.config import DEFAULT_STEPS, TrainConfig


def with_steps(config: TrainConfig) -> tuple[TrainConfig, dict[str, str]]:
    """(the config with steps and warm-up, unless they depend on data; option -> why it has its value)."""
    if config.epochs:
        return config, {}
    reasons = {} if config.steps else {"steps": "neither train.steps nor train.epochs is given"}
    steps = config.steps or DEFAULT_STEPS
    if config.warmup_steps < 0:
        reasons["warmup_steps"] = f"train.warmup_share {config.warmup_share:g} of {steps} steps"
    return _settled(config, steps), reasons


def with_examples(config: TrainConfig, examples: int) -> TrainConfig:
    """The config with steps and warm-up; epochs end with the step that completes them."""
    steps = config.steps or max(1, _ceil(config.epochs * examples / config.batch_size))
    return _settled(config, steps)


def passes(config: TrainConfig, examples: int, unit: str = "examples") -> str:
    """The number of passes over the data, in words. config: with its steps."""
    number = config.steps * config.batch_size / examples
    return f"{config.steps:,} steps of {config.batch_size:,} are {_number(number)} over {examples:,} {unit}"


def never_warm(config: TrainConfig) -> str:
    """A warning if the run ends within its warm-up, else an empty text. config: with its steps."""
    if config.warmup_steps < config.steps or config.warmup_steps < 2:
        return ""
    return (
        f"train.warmup_steps={config.warmup_steps} of {config.steps} steps: the run ends within its warm-up. "
        f"To use a share of the run: --set train.warmup_share={config.warmup_share:g} --set train.warmup_steps=-1"
    )


def _settled(config: TrainConfig, steps: int) -> TrainConfig:
    warmup = config.warmup_steps if config.warmup_steps >= 0 else _ceil(config.warmup_share * steps)
    # `steps` may stand beside the `epochs` that they come from; only users must choose one of them.
    return config.model_copy(update={"steps": steps, "warmup_steps": warmup})


def _ceil(number: float) -> int:
    return math.ceil(round(number, 9))  # 0.07 * 100 is more than 7


def _number(passes: float) -> str:
    return "1 pass" if passes == 1 else f"{passes:,.1f} passes" if passes >= 1 else f"{passes:.2g} of a pass"
