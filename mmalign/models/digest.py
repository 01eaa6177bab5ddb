"""Hashes of model folders and of tensors, to see whether weights are the same as before.

folder_digest(Path("./model"))                   # of every file, by content
state_digest(module.state_dict().items())        # of weights that are not in a folder
"""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

import torch

from mmalign.errors import MmalignError
from mmalign.files import write_text
from mmalign.reading import open_file, read_json

_LARGE_FILE = 64 * 2**20


def cache_folder() -> Path:
    """MMALIGN_CACHE, else the user's cache folder, for files that can be computed again."""
    base = os.environ.get("MMALIGN_CACHE")
    return Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "mmalign"


def folder_digest(folder: Path, memory: Path | None = None) -> str:
    """A hash of every file of a model folder (or of a model that is one file), by content.

    Content hashes of files over 64 MiB are remembered in the JSON file `memory` (by default in the user's cache) under
    path, size and time of change.
    """
    memory = memory or cache_folder() / "classifiers" / "digests.json"
    known = _read_memory(memory)
    combined, changed = hashlib.sha256(), False
    files = [folder] if folder.is_file() else sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        stat = path.stat()
        identity = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
        digest = known.get(identity)
        if digest is None or stat.st_size < _LARGE_FILE:
            with open_file(path) as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if stat.st_size >= _LARGE_FILE:
                known[identity], changed = digest, True
        combined.update(f"{path.relative_to(folder)}\0{digest}\n".encode("utf-8", "surrogateescape"))
    if changed:
        _write_memory(memory, known)
    return combined.hexdigest()


def state_digest(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """A hash of named tensors, for weights that do not come from a folder."""
    combined = hashlib.sha256()
    for name, tensor in tensors:
        combined.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        combined.update(tensor_bytes(tensor))
    return combined.hexdigest()


def tensor_bytes(tensor: torch.Tensor) -> bytes:
    """The bytes of the tensor's numbers, on the CPU."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()


def _read_memory(path: Path) -> dict[str, str]:
    try:
        known = read_json(path)
    except (OSError, ValueError):
        return {}  # without remembered hashes they are computed again
    return known if isinstance(known, dict) else {}


def _write_memory(path: Path, known: dict[str, str]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(dict(list(known.items())[-100:])))
    except (OSError, MmalignError):
        return  # read-only home: hash again next time
