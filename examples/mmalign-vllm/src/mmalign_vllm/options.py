"""Options of the engine, apart from vLLM: checked before it is imported."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class VllmConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    memory: float = Field(0.3, gt=0, lt=1, description="share of the GPU's memory for vLLM's weights and cache")
    dtype: Literal["bfloat16", "float16", "float32"] = Field("bfloat16", description="precision that it computes in")
    sleep: bool = Field(True, description="give the memory back between batches, with its weights kept on the CPU")
    eager: bool = Field(False, description="capture no CUDA graphs: a faster start, slower tokens")
