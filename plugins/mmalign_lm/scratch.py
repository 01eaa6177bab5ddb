"""A causal language model of a published shape with random weights, and with another model's tokenizer.

    parts, module = load(source, config)        # source.size: "355m"; float32, on the CPU

Weights are drawn from torch's global generator. The tokenizer comes from a folder (`backbone.tokenizer`) or from the
embedded gpt-mini; only the context length in its saved files changes, to the new model's.
"""

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmalign.errors import CheckpointError
from mmalign.models.folder import offline, read_json
from mmalign.models.hub import TOKENIZER_PATTERNS
from mmalign_lm.folder import TOKENIZER_CONFIG, Parts, load_module, read_processor, read_tokenizer, set_dropout
from mmalign_lm.options import CausalLMConfig
from mmalign_lm.shapes import Shape, reshaped

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from mmalign.contract.source import Source

_EMBEDDED = Path(__file__).parent / "gpt_mini"


def load(source: "Source", options: CausalLMConfig) -> "tuple[Parts, PreTrainedModel]":
    """Reads config and tokenizer, then draws weights; raises UsageError for a shape, CheckpointError for a
    tokenizer."""
    shape, folder = _shape(source, options), _tokenizer_folder(options)
    with offline(), tempfile.TemporaryDirectory() as place:
        tokenizer = read_tokenizer(folder)
        config = _config(shape, tokenizer, options.dropout)
        _copy_tokenizer(folder, Path(place), shape["max_position_embeddings"])
        processor = read_processor(Path(place), config, options)
    parts = Parts(folder, source.origin, config, processor, has_weights=False)
    module = load_module(parts)
    whose = options.tokenizer or "the embedded gpt-mini (another: --set backbone.tokenizer=./folder)"
    changed = "" if shape == source.config else ", reshaped"
    note = (
        f"{source.name}{changed}: {module.num_parameters():,} random parameters, "
        f"with the {len(tokenizer):,} tokens of {whose}"
    )
    return replace(parts, note=note), module


def read_config(source: "Source", options: CausalLMConfig) -> "PreTrainedConfig":
    """transformers' config of the model that `load` would build; raises the errors of `load`."""
    with offline():
        return _config(_shape(source, options), read_tokenizer(_tokenizer_folder(options)), options.dropout)


def _shape(source: "Source", options: CausalLMConfig) -> Shape:
    return reshaped(
        source.config,
        layers=options.layers,
        width=options.width,
        heads=options.heads,
        context_length=options.context_length,
    )


def _tokenizer_folder(options: CausalLMConfig) -> Path:
    folder = Path(options.tokenizer).expanduser() if options.tokenizer else _EMBEDDED
    if not folder.is_dir():
        raise CheckpointError(
            f"backbone.tokenizer: no folder {options.tokenizer}",
            hint="Give a folder with tokenizer files, or leave it empty for gpt-mini's tokenizer.",
        )
    return folder


def _config(shape: Shape, tokenizer: Any, dropout: float) -> "PreTrainedConfig":
    from transformers import AutoConfig

    end, start, pad = tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id
    # Some families never train the embedding of the padding token, so it must not be a token that texts contain.
    ids = {"bos_token_id": start, "eos_token_id": end, "pad_token_id": None if pad in (start, end) else pad}
    config = AutoConfig.for_model(**shape, **ids, vocab_size=len(tokenizer))
    set_dropout(config, dropout)
    return config


def _copy_tokenizer(source: Path, target: Path, context_length: int) -> None:
    for pattern in (*TOKENIZER_PATTERNS, "chat_template*"):
        for path in source.glob(pattern):
            if path.is_file():
                (target / path.name).write_bytes(path.read_bytes())
    path = target / TOKENIZER_CONFIG
    path.write_text(json.dumps({**read_json(path), "model_max_length": context_length}, indent=2), encoding="utf-8")
