"""A causal language model from a GGUF file: config, tokenizer and weights, dequantised by transformers.

    parts, module = load(source, config)      # source.file is the GGUF file; an ordinary model, which trains and saves

transformers marks a model read from GGUF as quantised and then refuses to save it. So the values are moved into a model
built from the same config without that mark. The tokenizer is written out once and read back, and later saves write
these files. Reading a GGUF file needs the package `gguf`.
"""

import copy
import functools
import importlib
import importlib.util
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from mmalign.errors import CheckpointError
from mmalign.models.folder import draw_weights, load_exactly, offline, quiet, read_json, unreadable
from mmalign_lm.folder import Parts, load_module, own_tokenizer, read_config, read_processor
from mmalign_lm.options import CausalLMConfig

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from mmalign.contract.source import Source


def load(source: "Source", options: CausalLMConfig) -> "tuple[Parts, PreTrainedModel]":
    """The parts of the file, and the model in float32 on the CPU; raises CheckpointError."""
    file = source.file
    assert file is not None
    if importlib.util.find_spec("gguf") is None:
        raise CheckpointError(
            f"{file.name} is a GGUF file, and the package gguf that reads it is not installed",
            hint="python -m pip install gguf",
        )
    with offline(), quiet(), _reading_once():
        config = read_config(file.parent, options.dropout, gguf_file=file.name)
        with tempfile.TemporaryDirectory() as place:
            _write_tokenizer(file, Path(place), config.vocab_size)
            processor = read_processor(own_tokenizer(source) or Path(place), config, options)
        parts = Parts(file.parent, source.origin, config, processor, has_weights=not options.random_weights)
        return parts, _dequantised(file, config) if parts.has_weights else load_module(parts)


def _dequantised(file: Path, config: "PreTrainedConfig") -> "PreTrainedModel":
    import torch
    from transformers import AutoModelForCausalLM

    marked = load_exactly(AutoModelForCausalLM, file.parent, gguf_file=file.name, config=copy.deepcopy(config))
    with torch.random.fork_rng(devices=[]):  # the drawn weights are replaced
        module = draw_weights(AutoModelForCausalLM, config)
    module.load_state_dict(marked.state_dict())
    return module


def _write_tokenizer(file: Path, folder: Path, num_tokens: int) -> None:
    """transformers adds GPT-2's end token to byte-pair vocabularies that lack it, beyond the model's embeddings; it is
    removed again."""
    from transformers import AutoTokenizer

    try:
        options = {"local_files_only": True, "trust_remote_code": False}
        tokenizer: Any = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name, **options)
        tokenizer.save_pretrained(folder)
    except unreadable() as error:
        raise CheckpointError(f"{file}: the tokenizer cannot be read: {error}") from error
    path = folder / "tokenizer.json"
    content = read_json(path)
    content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] < num_tokens]
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


@contextmanager
def _reading_once() -> Iterator[None]:
    """Inside the context, transformers' several reads of one GGUF file share one parse (seconds each) and show no
    progress bars."""
    from transformers import modeling_gguf_pytorch_utils as reading

    gguf: Any = importlib.import_module("gguf")
    with (
        patch.object(gguf, "GGUFReader", functools.cache(gguf.GGUFReader)),
        patch.object(reading, "tqdm", functools.partial(reading.tqdm, disable=True)),
    ):
        yield
