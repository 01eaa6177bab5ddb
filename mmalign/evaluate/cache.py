"""Classifiers on disk, under a hash of everything that made them.

    cache = ClassifierCache.default()
    entry = cache.read(key)            # Cached, or None
    cache.write(key, Cached(weights, num_long, num_lost))

A folder (MMALIGN_CACHE, else the user's cache folder) of safetensors files, written to a temporary name and renamed,
pruned to the most recently used. A damaged file is rebuilt, and said. A folder that cannot be written costs only time.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mmalign.errors import MmalignError
from mmalign.files import write_text
from mmalign.reading import open_file, read_json

MAX_FILES, MAX_BYTES = 200, 512 * 2**20
_LARGE_FILE = 64 * 2**20


@dataclass(frozen=True)
class Cached:
    """weights: [D, C] float32; num_long: texts that were cut to the context length; num_lost: tokens cut from them."""

    weights: torch.Tensor
    num_long: int
    num_lost: int


@dataclass
class ClassifierCache:
    """One folder; `warnings` collects what the user should hear."""

    folder: Path
    warnings: list[str] = field(default_factory=list)

    @classmethod
    def default(cls) -> "ClassifierCache":
        base = os.environ.get("MMALIGN_CACHE")
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "mmalign"
        return cls((Path(base) if base else home) / "classifiers")

    def read(self, key: str) -> Cached | None:
        path = self.folder / f"{key}.safetensors"
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                weights = file.get_tensor("weights")
            # The header's own length check does not see a flipped byte in the numbers.
            if metadata["sha256"] != _sha256(weights):
                raise ValueError("checksum differs")
            cached = Cached(weights, int(metadata["num_long"]), int(metadata["num_lost"]))
            os.utime(path)  # most recently used
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            self.warnings.append(f"the cached classifier {path} is damaged ({error}); it is built again")
            return None
        return cached

    def write(self, key: str, entry: Cached) -> None:
        weights = entry.weights.contiguous()
        metadata = {"sha256": _sha256(weights), "num_long": str(entry.num_long), "num_lost": str(entry.num_lost)}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.folder, prefix=".tmp-") as folder:
                save_file({"weights": weights}, Path(folder) / "file", metadata=metadata)
                os.replace(Path(folder) / "file", self.folder / f"{key}.safetensors")
            self._prune()
        except (OSError, SafetensorError) as error:
            self.warnings.append(f"the classifier could not be cached in {self.folder}: {error}")

    def _prune(self) -> None:
        """Keep the most recently used files, at most MAX_FILES and MAX_BYTES of them."""
        files = [(path.stat().st_mtime, path.stat().st_size, path) for path in self.folder.glob("*.safetensors")]
        total = 0
        for place, (_, size, path) in enumerate(sorted(files, reverse=True)):
            total += size
            if place >= MAX_FILES or (total > MAX_BYTES and place > 0):
                path.unlink(missing_ok=True)


def folder_digest(folder: Path, memory: Path | None = None) -> str:
    """A hash of every file of a model folder (or of a model that is one file), by content.

    Content hashes of files over 64 MiB are remembered in the JSON file `memory` (by default in the user's cache) under
    path, size and time of change.
    """
    memory = memory or ClassifierCache.default().folder / "digests.json"
    known = _read_memory(memory)
    total, changed = hashlib.sha256(), False
    files = [folder] if folder.is_file() else sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        stat = path.stat()
        place = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
        digest = known.get(place)
        if digest is None or stat.st_size < _LARGE_FILE:
            with open_file(path) as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if stat.st_size >= _LARGE_FILE:
                known[place], changed = digest, True
        total.update(f"{path.relative_to(folder)}\0{digest}\n".encode("utf-8", "surrogateescape"))
    if changed:
        _write_memory(memory, known)
    return total.hexdigest()


def state_digest(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """A hash of named tensors, for weights that do not come from a folder."""
    total = hashlib.sha256()
    for name, tensor in tensors:
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(_bytes(tensor))
    return total.hexdigest()


def _sha256(tensor: torch.Tensor) -> str:
    return hashlib.sha256(_bytes(tensor)).hexdigest()


def _bytes(tensor: torch.Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()


def _read_memory(path: Path) -> dict[str, str]:
    try:
        known = read_json(path)
    except (OSError, ValueError):
        return {}  # only a memory of hashes: without it they are computed again
    return known if isinstance(known, dict) else {}


def _write_memory(path: Path, known: dict[str, str]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(dict(list(known.items())[-100:])))
    except (OSError, MmalignError):
        return  # read-only home: hash again next time
