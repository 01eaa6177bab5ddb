"""Reads a folder of a causal language model, and checks its files before transformers reads them.

    parts, module = load(source, config)    # from a folder, or a hub id fetched to one; float32, on the CPU

Each of these is refused with an error that names it: code in configs, pickled weights, an adapter beside a model, a
missing tokenizer, a tokenizer with more tokens than the model has embeddings, weights that miss a tensor.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmalign.errors import CheckpointError
from mmalign.models.folder import (
    ADAPTER_CONFIG,
    draw_weights,
    load_exactly,
    offline,
    read_json,
    refuse_code,
    unreadable,
)
from mmalign.models.hub import CHAT_TEMPLATE, TOKENIZER_PATTERNS, fetch
from mmalign.models.references import TRANSFORMERS_CONFIG
from mmalign.reading import read_text
from mmalign_lm import four_bit
from mmalign_lm.options import CausalLMConfig
from mmalign_lm.texts import TextProcessor, end_token

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from mmalign.contract.source import Source

TOKENIZER_CONFIG = "tokenizer_config.json"
_GENERATION_CONFIG = "generation_config.json"
_PATTERNS = (*TOKENIZER_PATTERNS, "chat_template*", _GENERATION_CONFIG)


@dataclass(frozen=True)
class Parts:
    """origin: as `Source.origin`. config: transformers' config, with the dropout of the options. note: a sentence on
    how the options were carried out, where that is not obvious."""

    folder: Path
    origin: str
    config: "PreTrainedConfig"
    processor: TextProcessor
    has_weights: bool = True
    note: str = ""


def load(source: "Source", options: CausalLMConfig) -> "tuple[Parts, PreTrainedModel]":
    """The parts of a folder or hub id, and the model on the CPU; raises CheckpointError."""
    parts = read(source, options)
    if options.load_in == "4bit":
        return parts, four_bit.load_module(parts.folder, parts.config)
    return parts, load_module(parts)


def read(source: "Source", options: CausalLMConfig) -> Parts:
    """Check and read everything except the weights; raises CheckpointError. Downloads only for a hub id."""
    folder = source.folder
    if folder is None:
        wanted = ["*.safetensors", "*.safetensors.index.json", *_PATTERNS]
        folder = fetch(source.name, [TRANSFORMERS_CONFIG], wanted)
    refuse_code(read_json(folder / TRANSFORMERS_CONFIG), folder / TRANSFORMERS_CONFIG)
    if (folder / ADAPTER_CONFIG).is_file():
        raise CheckpointError(
            f"{folder} holds a model and an adapter ({ADAPTER_CONFIG}): which of them is meant?",
            hint="Move one of them to another folder.",
        )
    with offline():
        config = read_config(folder, options.dropout)
        processor = read_processor(own_tokenizer(source) or folder, config, options)
    return Parts(folder, source.origin, config, processor, has_weights=not options.random_weights)


def own_tokenizer(source: "Source") -> Path | None:
    """The topmost adapter that has tokenizer files: it may have brought a chat template."""
    return next((folder for folder in reversed(source.adapters) if (folder / TOKENIZER_CONFIG).is_file()), None)


def load_module(parts: Parts) -> "PreTrainedModel":
    """The model in float32 on the CPU, with SDPA attention where the family has it; raises CheckpointError."""
    from transformers import AutoModelForCausalLM

    if not parts.has_weights:
        return draw_weights(AutoModelForCausalLM, parts.config)
    return load_exactly(AutoModelForCausalLM, parts.folder, config=parts.config)


def read_config(folder: Path, dropout: float, *, gguf_file: str | None = None) -> "PreTrainedConfig":
    """transformers' config of a folder (or of a GGUF file in it) with every dropout set; raises CheckpointError."""
    from transformers import AutoConfig

    options = {"local_files_only": True, "trust_remote_code": False, "gguf_file": gguf_file}
    try:
        config = AutoConfig.from_pretrained(str(folder), **options)
    except unreadable() as error:
        path = folder / (gguf_file or TRANSFORMERS_CONFIG)
        raise CheckpointError(f"{path}: transformers cannot read it: {error}") from error
    set_dropout(config, dropout)
    return config


def text_config(config: "PreTrainedConfig") -> "PreTrainedConfig":
    """The config of the language model: a part of the config where a model has towers of other kinds, else all of
    it."""
    return config.get_text_config(decoder=True)


def set_dropout(config: "PreTrainedConfig", dropout: float) -> None:
    """Set every dropout of a config, under any of its names; layerdrop, which drops whole layers, is set to 0."""
    for name, value in config.to_dict().items():
        if isinstance(value, float) and name.endswith("layerdrop"):
            setattr(config, name, 0.0)
        elif isinstance(value, float) and name.endswith(("dropout", "_pdrop", "_drop", "dropout_prob")):
            setattr(config, name, dropout)


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder; raises CheckpointError."""
    from transformers import AutoTokenizer

    path = folder / TOKENIZER_CONFIG
    if not path.is_file():
        raise CheckpointError(
            f"{folder} has no tokenizer: {TOKENIZER_CONFIG} is missing",
            hint="Copy the tokenizer files of the model into the folder, or save it again with mmalign.",
        )
    refuse_code(read_json(path), path)
    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except unreadable() as error:
        raise CheckpointError(f"{folder}: the tokenizer cannot be read: {error}") from error


def read_processor(folder: Path, config: "PreTrainedConfig", options: CausalLMConfig) -> TextProcessor:
    """The tokenizer of a folder with its files; raises CheckpointError, also where the tokenizer does not fit the
    config."""
    tokenizer = read_tokenizer(folder)
    known = text_config(config).vocab_size
    if len(tokenizer) > known:
        raise CheckpointError(
            f"{folder}: the tokenizer has {len(tokenizer):,} tokens and the model knows {known:,}",
            hint="The tokenizer files belong to another model.",
        )
    files = sorted({path for pattern in _PATTERNS for path in folder.glob(pattern) if path.is_file()})
    template = _read_template(options.template)
    length = options.context_length or context_length(config, tokenizer)
    content = {path.name: path.read_bytes() for path in files}
    if template:
        # From here on the template is the tokenizer's own: it is saved with the model and replaces any earlier one.
        tokenizer.chat_template = template
        content = {name: each for name, each in content.items() if not name.startswith("chat_template")}
        content[CHAT_TEMPLATE] = template.encode()
    return TextProcessor(tokenizer, content, length, end_token(tokenizer, folder))


def context_length(config: "PreTrainedConfig", tokenizer: Any) -> int:
    """The model's limit in tokens; a million where neither config nor tokenizer states one (ALiBi)."""
    stated = text_config(config).to_dict()
    names = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
    limits = [stated[name] for name in names if isinstance(stated.get(name), int)]
    return min([*limits[:1], tokenizer.model_max_length, 1_000_000])


def _read_template(path: str) -> str:
    if not path:
        return ""
    try:
        return read_text(Path(path).expanduser())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"backbone.template: {path} cannot be read: {error}") from error
