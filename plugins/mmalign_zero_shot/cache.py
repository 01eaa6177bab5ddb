"""Classifiers on disk, under a hash of everything that made them.

    cache = ClassifierCache.default()
    entry = cache.read(key)            # Cached, or None
    cache.write(key, Cached(weights, num_long, num_lost))

The cache is a folder (MMALIGN_CACHE, else the user's cache folder) of safetensors files. A file is written under a
temporary name and renamed; the most recently used files are kept. A damaged file is rebuilt with a warning. If the
folder cannot be written, classifiers are built again each time.
"""

import hashlib
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mmalign.models.digest import cache_folder, tensor_bytes

MAX_FILES, MAX_BYTES = 200, 512 * 2**20


@dataclass(frozen=True)
class Cached:
    """weights: [D, C] float32; num_long: texts that were cut to the context length; num_lost: tokens cut from them."""

    weights: torch.Tensor
    num_long: int
    num_lost: int


@dataclass
class ClassifierCache:
    """One folder; `warnings` collects messages for the user."""

    folder: Path
    warnings: list[str] = field(default_factory=list)

    @classmethod
    def default(cls) -> "ClassifierCache":
        return cls(cache_folder() / "classifiers")

    def read(self, key: str) -> Cached | None:
        path = self.folder / f"{key}.safetensors"
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                weights = file.get_tensor("weights")
            # The header's own length check does not notice a flipped byte in the numbers.
            if metadata["sha256"] != _sha256(weights):
                raise ValueError("checksum differs")
            cached = Cached(weights, int(metadata["num_long"]), int(metadata["num_lost"]))
            os.utime(path)  # marks it as most recently used
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
        num_bytes = 0
        for rank, (_, size, path) in enumerate(sorted(files, reverse=True)):
            num_bytes += size
            if rank >= MAX_FILES or (num_bytes > MAX_BYTES and rank > 0):
                path.unlink(missing_ok=True)


def _sha256(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor_bytes(tensor)).hexdigest()
