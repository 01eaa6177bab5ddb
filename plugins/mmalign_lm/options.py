"""The options of causal language models and of reward models."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from mmalign.errors import UsageError
from mmalign.models.lora import LoraOptions
from mmalign.pairs.embedder_options import EMBEDDER, EmbedderOptions

# Absolute, so that a run can be resumed from any directory; empty for none.
LocalPath = Annotated[str, AfterValidator(lambda path: path and str(Path(path).expanduser().absolute()))]


class RewardModelConfig(BaseModel):
    """How to load a reward model."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    context_length: int = Field(0, ge=0, description="longest prompt and answer, in tokens; 0: the model's own limit")
    template: LocalPath = Field(
        "",
        description="a Jinja file that renders messages, saved with the model as its chat template; empty: the "
        "tokenizer's own chat template, or a plain one",
    )


class CausalLMConfig(BaseModel):
    """How to load and run a causal language model. Options "from scratch" apply to `gpt-1`, `gpt-2` and `llama`
    only."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    random_weights: bool = Field(False, description="start from random weights of the config's architecture")
    load_in: Literal["float32", "4bit"] = Field(
        "float32", description="4bit: linear layers frozen in 4 bits (QLoRA), on a CUDA GPU; train backbone.lora"
    )
    tokenizer: LocalPath = Field(
        "", description="from scratch: the folder whose tokenizer the model gets; empty: the embedded gpt-mini"
    )
    layers: int = Field(0, ge=0, description="from scratch (gpt-1, gpt-2, llama): number of layers; 0: the size's")
    width: int = Field(0, ge=0, description="from scratch: width of the hidden states; 0: the size's")
    heads: int = Field(0, ge=0, description="from scratch: attention heads; 0: as many as keep the width of a head")
    dropout: float = Field(
        0.0, ge=0, lt=1, description="share of activations dropped in training, in every dropout layer of the model"
    )
    neftune_alpha: float = Field(
        0.0, ge=0, description="noise on the embeddings in training (NEFTune; Jain 2023, who take 5 to 15); 0: none"
    )
    lora: LoraOptions = Field(LoraOptions(), description="train a low-rank adapter instead of the weights")
    embedder: EmbedderOptions = EMBEDDER
    packing: Literal["auto", "off"] = Field(
        "auto",
        description="auto: several examples in a row, kept apart by masks, where the model can; off: never",
    )
    row_length: int = Field(512, ge=1, description="tokens of a packed row; more where an example is longer")
    context_length: int = Field(
        0,
        ge=0,
        description="longest prompt and answer, in tokens; 0: the model's own limit; from scratch: its limit",
    )
    template: LocalPath = Field(
        "",
        description="a Jinja file that renders messages, saved with the model as its chat template; empty: the "
        "tokenizer's own chat template, or a plain one",
    )

    def places(self) -> tuple[Path, ...]:
        """Other paths that the model is built from: the tokenizer's folder and the template, where they are set."""
        return tuple(Path(path) for path in (self.tokenizer, self.template) if path)

    def check_training(self) -> None:
        """Raise UsageError where nothing could train."""
        if self.load_in == "4bit" and not self.lora.rank:
            raise UsageError(
                "backbone.load_in=4bit freezes the weights, and there is no adapter to train",
                hint="Add one: --set backbone.lora.rank=16",
            )

    @property
    def from_scratch(self) -> list[str]:
        """Names of the options set that shape a model from scratch."""
        return [name for name in ("tokenizer", "layers", "width", "heads") if getattr(self, name)]
