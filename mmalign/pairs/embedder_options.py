"""How a language model becomes an encoder of texts (`mmalign.pairs.embedder`): its options.

class Config(BaseModel): embedder: EmbedderOptions = EMBEDDER
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field

Pooling = Literal["last", "eos", "mean", "weighted-mean"]


class EmbedderOptions(BaseModel):
    """What turns a language model into an encoder of texts. An option that is not set is as the model's folder states
    it for sentence-transformers, else as described."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    pooling: Pooling | None = Field(
        None,
        description="last: the last token's state; eos: that of an end token put behind the text; mean; weighted-mean: "
        "token t of T weighs t (SGPT); default: mean",
    )
    query_instruction: str | None = Field(
        None,
        description="text put before a query (anchor); for pooling by a mean it ends with a line break, or "
        "pool_instruction is set; default: none",
    )
    document_instruction: str | None = Field(
        None, description="text put before a document (positive, negative); default: none"
    )
    pool_instruction: bool | None = Field(None, description="whether an instruction's tokens are pooled; default: no")
    bidirectional: bool = Field(
        False, description="attention in both directions, where the architecture has it; such a model writes no text"
    )
    temperature: float | None = Field(
        None, gt=0, description="of the contrastive loss: scores are cosines divided by it; default: 0.05"
    )
    learn_temperature: bool = Field(False, description="train the temperature, too")


EMBEDDER: Any = Field(
    EmbedderOptions(), description="how the model encodes texts, for `contrastive` and the evaluation text-retrieval"
)


@dataclass(frozen=True)
class Embedding:
    """Every option settled. max_tokens: a text's most tokens, or 0 for the model's own limit."""

    pooling: Pooling = "mean"
    query_instruction: str = ""
    document_instruction: str = ""
    pool_instruction: bool = False
    temperature: float = 0.05
    learn_temperature: bool = False
    max_tokens: int = 0


@runtime_checkable
class SavesEmbedders(Protocol):
    def save_embedder(self, folder: Path, settings: Embedding, max_tokens: int) -> None:
        """Write the model as an encoder of texts with these settings; max_tokens: those of a text that are read."""
        ...
