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
        description="optimiser steps; of an objective that samples: batches of prompts, whose updates (epochs x "
        f"minibatches) all have the learning rate of their step; 0: as `epochs` says, or {DEFAULT_STEPS} without it",
    )
    epochs: float = Field(
        0.0, ge=0, description="passes over the training examples or prompts, in place of `steps`; 0: as `steps` says"
    )
    batch_size: int = Field(64, ge=1, description="examples a step, over all processes")
    micro_batch_size: int = Field(
        0,
        ge=0,
        description="examples a forward pass and process; 0: the whole batch, shared out where several models learn, "
        "or as many as keep the run within half of the device's memory (3 GB on a CPU), measured before the first step",
    )
    learning_rate: float = Field(
        0.0,
        ge=0,
        description="peak learning rate; 0: the objective's own for a model of this size, which is lower for "
        "trained weights than for random ones or an adapter",
    )
    schedule: Literal["cosine", "constant"] = Field("cosine", description="learning rate after the warm-up")
    warmup_steps: int = Field(
        -1, ge=-1, description="steps of linear warm-up; the first has rate / warmup_steps; -1: as warmup_share says"
    )
    warmup_share: float = Field(
        0.1, ge=0, le=1, description="steps of linear warm-up as a share of the run, where warmup_steps is -1"
    )
    min_learning_rate: float = Field(0.0, ge=0, description="where the cosine ends")
    ema_decay: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="the model that is saved is the average of the policy's weights, each update keeping so much of it "
        "(0.992 in InstructGPT); 0: the last weights",
    )
    clip_norm: float = Field(1.0, ge=0, description="largest gradient norm over all parameters; 0: no clipping")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="bf16: autocast of the forward; weights stay fp32")
    gradient_checkpointing: bool = Field(
        False, description="keep no activations within layers, and compute them again in the backward pass: less memory"
    )
    compile: bool = Field(False, description="compile the forward with torch.compile; on a GPU in fp32 only")
    deterministic: bool = Field(False, description="deterministic kernels only (CUDA: needed for bit-exact resume)")
    seed: int = Field(0, ge=0, description="of data order, augmentation and dropout")
    wise_ft: float = Field(
        1.0,
        ge=0,
        le=1,
        description="weight of the trained model in the saved one, the rest is the starting weights (WiSE-FT); 1: off",
    )
    log_every: int = Field(10, ge=1, description="steps between lines of progress")
    eval_every: int = Field(
        0, ge=0, description="steps between evaluations; 0: before the first and after the last step only"
    )
    save_every: int = Field(50, ge=0, description="steps between checkpoints; 0: only at the end or on a signal")
    keep: int = Field(2, ge=1, description="newest checkpoints kept; the best on held-out data is never deleted")
    frozen_roles: Literal["auto", "cache", "copy"] = Field(
        "auto",
        description="what frozen models say of an example: worked out once, before the first step, without a second "
        "model (cache), or asked at every step of a copy or, with an adapter, of the model without it (copy); auto: "
        "cache where the objective and the data allow",
    )
    on_nonfinite: Literal["stop", "skip"] = Field(
        "stop", description="a NaN or infinite loss or gradient: stop, or skip that update and count it"
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
        description="evaluations of the starting model to show beside the trained one, each with its options, such as "
        '[{"name": "few-shot", "shots": 8}]; measured once, before the first step',
    )
    max_examples: int = Field(1000, ge=1, description="held-out examples used, at most")
    batch_size: int = Field(64, ge=1, description="examples a forward pass")
    samples: int = Field(4, ge=0, description="answers that a language model writes before and after, for comparison")
    sample_tokens: int = Field(40, ge=1, description="longest of these answers, in tokens; at most half of the context")
