"""The `train`, `data` and `evaluation` sections of a run's configuration."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

DEFAULT_STEPS = 200


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TrainConfig(_Section):
    """How to optimise, whatever the objective."""

    steps: int = Field(
        0,
        ge=0,
        description="number of steps. For online objectives a step is one batch of prompts, and all its updates "
        f"(epochs x minibatches) use the step's learning rate. 0: use `epochs`, or {DEFAULT_STEPS} if that is 0 too",
    )
    epochs: float = Field(
        0.0, ge=0, description="passes over the training examples or prompts, instead of `steps`; 0: use `steps`"
    )
    batch_size: int = Field(64, ge=1, description="examples per step, over all processes")
    micro_batch_size: int = Field(
        0,
        ge=0,
        description="examples per forward pass and process; 0: the whole batch (divided by the number of models that "
        "train), or fewer to stay within half of the device's memory (3 GB on a CPU), measured before the first step",
    )
    learning_rate: float = Field(
        0.0,
        ge=0,
        description="peak learning rate; 0: the objective's default for a model of this size, lower for trained "
        "weights than for random ones or an adapter",
    )
    schedule: Literal["cosine", "constant"] = Field("cosine", description="learning rate after the warm-up")
    warmup_steps: int = Field(
        -1, ge=-1, description="steps of linear warm-up, the first at rate / warmup_steps; -1: use warmup_share"
    )
    warmup_share: float = Field(
        0.1, ge=0, le=1, description="linear warm-up as a share of the run's steps, if warmup_steps is -1"
    )
    min_learning_rate: float = Field(0.0, ge=0, description="learning rate at the end of the cosine")
    ema_decay: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="save the moving average of the policy's weights, decaying by this factor at each update (0.992 in "
        "InstructGPT); 0: save the last weights",
    )
    clip_norm: float = Field(1.0, ge=0, description="largest gradient norm over all parameters; 0: no clipping")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="bf16: autocast of the forward; weights stay fp32")
    gradient_checkpointing: bool = Field(
        False, description="recompute activations within layers in the backward pass, which takes less memory"
    )
    compile: bool = Field(False, description="compile the forward with torch.compile; on a GPU in fp32 only")
    deterministic: bool = Field(False, description="deterministic kernels only (CUDA: needed for bit-exact resume)")
    seed: int = Field(0, ge=0, description="seed of data order, augmentation and dropout")
    wise_ft: float = Field(
        1.0,
        ge=0,
        le=1,
        description="share of trained weights in the saved model; the rest is starting weights (WiSE-FT); 1: off",
    )
    log_every: int = Field(10, ge=1, description="steps between lines of progress")
    eval_every: int = Field(
        0, ge=0, description="steps between evaluations; 0: before the first and after the last step only"
    )
    save_every: int = Field(50, ge=0, description="steps between checkpoints; 0: only at the end or on a signal")
    keep: int = Field(2, ge=1, description="newest checkpoints kept; the best on held-out data is never deleted")
    frozen_roles: Literal["auto", "cache", "copy"] = Field(
        "auto",
        description="outputs of frozen models: compute them once, before the first step, without a second model "
        "(cache), or at every step with a copy, or with the adapter switched off (copy); auto: cache where the "
        "objective and the data allow",
    )
    on_nonfinite: Literal["stop", "skip"] = Field(
        "stop", description="at a NaN or infinite loss or gradient: stop, or skip the update and count it"
    )

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.steps and self.epochs:
            raise ValueError(f"steps={self.steps} and epochs={self.epochs:g} are both given; leave one of them out")
        return self


class DataConfig(_Section):
    """How to read the data."""

    num_workers: int = Field(1, ge=0, description="processes that decode ahead; 0: in the main process")
    max_bad: float = Field(0.01, ge=0, le=1, description="share of samples that may be unreadable before the run stops")
    max_lost: float = Field(
        0.01, ge=0, le=1, description="share of a language model's tokens that may be cut to fit its context"
    )


class EvaluationConfig(_Section):
    """What to measure on held-out data during a run."""

    names: tuple[str, ...] = Field((), description="evaluations to run; empty: all that fit the backbone and the data")
    baselines: tuple[dict[str, JsonValue], ...] = Field(
        (),
        description="evaluations of the starting model to compare with, each with its options, such as "
        '[{"name": "few-shot", "shots": 8}]; measured once, before the first step',
    )
    max_examples: int = Field(1000, ge=1, description="most held-out examples to use")
    batch_size: int = Field(64, ge=1, description="examples per forward pass")
    samples: int = Field(4, ge=0, description="answers that a language model writes before and after, for comparison")
    sample_tokens: int = Field(40, ge=1, description="most tokens of such an answer, up to half of the context")
