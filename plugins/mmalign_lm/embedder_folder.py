"""A folder of a language model that sentence-transformers loads as an encoder of texts.

    save_embedder_files(folder, tokenizer, settings, width=256, max_tokens=128)
    SentenceTransformer(folder).encode(["A text."])                 # the same embeddings as mmalign's

sentence-transformers pads rows of unequal length, so the saved tokenizer has a padding token, on the right: a base
model counts positions from the left. With pooling "eos" it puts the end token behind every text.
"""

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmalign.errors import UsageError
from mmalign.pairs.embedder_options import Embedding
from mmalign.pairs.sentence_transformers import write_files
from mmalign_lm.endings import appends_end, ending

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def require_ending(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Raise UsageError for a tokenizer that cannot be saved so that it puts the end token behind every text."""
    if not tokenizer.is_fast and not appends_end(tokenizer):
        raise UsageError(
            "backbone.embedder.pooling=eos: this tokenizer is not built on `tokenizers` and cannot be saved so that it "
            "puts the end token behind every text",
            hint="Try: --set backbone.embedder.pooling=last",
        )


def save_embedder_files(
    folder: Path, tokenizer: "PreTrainedTokenizerBase", settings: Embedding, *, width: int, max_tokens: int
) -> None:
    """Write the tokenizer as sentence-transformers needs it, and its own files. width: of the embeddings; max_tokens:
    those of a text that are read."""
    saved: Any = ending(tokenizer) if settings.pooling == "eos" else copy.deepcopy(tokenizer)
    if saved.pad_token is None:
        saved.pad_token = saved.eos_token
    saved.padding_side = "right"
    saved.save_pretrained(folder)
    write_files(folder, settings, width=width, max_tokens=max_tokens)
