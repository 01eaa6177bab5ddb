"""The options of causal language models and of reward models."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from mmalign.lora import LoraOptions


class RewardModelConfig(BaseModel):
    """How to load a reward model."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    context_length: int = Field(0, ge=0, description="longest prompt and answer, in tokens; 0: the model's own limit")
    template: str = Field(
        "", description="a Jinja file that renders messages; empty: the tokenizer's own chat template, or a plain one"
    )


class CausalLMConfig(BaseModel):
    """How to load and run a causal language model."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    random_weights: bool = Field(False, description="start from random weights of the config's architecture")
    dropout: float = Field(
        0.0, ge=0, lt=1, description="share of activations dropped in training, in every dropout layer of the model"
    )
    neftune_alpha: float = Field(
        0.0, ge=0, description="noise on the embeddings in training (NEFTune; Jain 2023, who take 5 to 15); 0: none"
    )
    lora: LoraOptions = Field(LoraOptions(), description="train a low-rank adapter instead of the weights")
    packing: Literal["auto", "off"] = Field(
        "auto",
        description="auto: several examples in a row, kept apart by masks, where the model can; off: never",
    )
    row_length: int = Field(512, ge=1, description="tokens of a packed row, where no example is longer")
    context_length: int = Field(0, ge=0, description="longest prompt and answer, in tokens; 0: the model's own limit")
    template: str = Field(
        "", description="a Jinja file that renders messages; empty: the tokenizer's own chat template, or a plain one"
    )
