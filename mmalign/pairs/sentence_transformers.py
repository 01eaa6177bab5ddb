"""The files by which sentence-transformers knows a folder as an encoder of texts.

settings = settings_of(config.embedder, folder)         # the options over what the folder states
write_files(folder, settings, width=256, max_tokens=128)
"""

import json
from pathlib import Path
from typing import Any

from mmalign.errors import CheckpointError
from mmalign.files import write_text
from mmalign.pairs.embedder_options import EmbedderOptions, Embedding, Pooling
from mmalign.reading import read_json

MODULES = "modules.json"
_MAIN = "config_sentence_transformers.json"
_TRANSFORMER = "sentence_bert_config.json"
_POOLING, _NORMALIZE = "1_Pooling", "2_Normalize"
_OWN = "mmalign"  # the key of what sentence-transformers has no name for
# Pooling in sentence-transformers' files, as versions before 6 write it and as version 6 does.
_MODES = {"last": "lasttoken", "eos": "lasttoken", "mean": "mean_tokens", "weighted-mean": "weightedmean_tokens"}
_READ: dict[str, Pooling] = {
    "lasttoken": "last",
    "mean_tokens": "mean",
    "mean": "mean",
    "weightedmean_tokens": "weighted-mean",
    "weightedmean": "weighted-mean",
}


def settings_of(options: EmbedderOptions, folder: Path | None) -> Embedding:
    """The options over what a folder states; raises CheckpointError for a folder whose modules are others."""
    stated = _stated(folder) if folder is not None and (folder / MODULES).is_file() else {}
    given = {name: value for name, value in options.model_dump(exclude={"bidirectional"}).items() if value is not None}
    return Embedding(**{**stated, **given})


def write_files(folder: Path, settings: Embedding, *, width: int, max_tokens: int) -> None:
    """Write what `SentenceTransformer(folder)` reads beside a model and its tokenizer. width: of the embeddings;
    max_tokens: those of a text that are read."""
    prefix = "sentence_transformers.models"
    modules = [("", "Transformer"), (_POOLING, "Pooling"), (_NORMALIZE, "Normalize")]
    stated = [
        {"idx": number, "name": str(number), "path": path, "type": f"{prefix}.{name}"}
        for number, (path, name) in enumerate(modules)
    ]
    _write(folder / MODULES, stated)
    _write(folder / _TRANSFORMER, {"max_seq_length": max_tokens, "do_lower_case": False})
    modes = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
    chosen = {f"pooling_mode_{mode}": mode == _MODES[settings.pooling] for mode in modes}
    pooling = {"word_embedding_dimension": width, **chosen, "include_prompt": settings.pool_instruction}
    _write(folder / _POOLING / "config.json", pooling)
    (folder / _NORMALIZE).mkdir(exist_ok=True)
    prompts = {"query": settings.query_instruction, "document": settings.document_instruction}
    own = {"temperature": settings.temperature}
    _write(folder / _MAIN, {"prompts": prompts, "default_prompt_name": None, "similarity_fn_name": "cosine", _OWN: own})


def _stated(folder: Path) -> dict[str, Any]:
    modules = _read(folder / MODULES)
    kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in ([], ["Normalize"]):
        raise CheckpointError(
            f"{folder / MODULES}: the modules {', '.join(kinds)} cannot be read as an encoder of texts",
            hint="Known: Transformer, Pooling and, behind them, Normalize.",
        )
    pooling = _read(folder / modules[1]["path"] / "config.json")
    stated: dict[str, Any] = {
        "pooling": _pooling(pooling, folder),
        "pool_instruction": pooling.get("include_prompt", True),
    }
    for name, known in ((_MAIN, _of_main), (_TRANSFORMER, _of_transformer)):
        if (folder / name).is_file():
            stated |= known(_read(folder / name))
    return stated


def _pooling(config: dict[str, Any], folder: Path) -> Pooling:
    before = [
        name.removeprefix("pooling_mode_") for name, on in config.items() if name.startswith("pooling_mode_") and on
    ]
    modes = before or [str(config.get("pooling_mode", "mean"))]
    if len(modes) != 1 or modes[0] not in _READ:
        raise CheckpointError(
            f"{folder}: pooling by {' and '.join(modes)} is not known here", hint=f"Known: {', '.join(sorted(_READ))}."
        )
    return _READ[modes[0]]


def _of_main(config: dict[str, Any]) -> dict[str, Any]:
    prompts = config.get("prompts") or {}
    stated = {f"{side}_instruction": prompts[side] for side in ("query", "document") if prompts.get(side)}
    return stated | {name: value for name, value in config.get(_OWN, {}).items() if name == "temperature"}


def _of_transformer(config: dict[str, Any]) -> dict[str, Any]:
    return {"max_tokens": int(config["max_seq_length"])} if config.get("max_seq_length") else {}


def _read(path: Path) -> Any:
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
