"""Cache the outputs of frozen models, such as reference log-probabilities, before the first step.

    cache = FrozenCache.open(folder, "key of weights, data and options")
    cache.fill(batches, compute)                    # compute(batch) -> columns, one row per example
    batch.with_columns(**cache.columns(batch))

With fixed data, a frozen copy of the starting policy gives an example the same outputs at every step, and before the
first step the policy itself gives them, so no second model is needed. Rows are keyed by a hash of the model's input,
and kept on disk for a resume.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mmalign.contract.batch import Batch, Column, Ragged

_NAME = "frozen.safetensors"


class FrozenCache:
    """Rows by example and column, on the CPU. A column is a tensor [N, ...] or a Ragged."""

    def __init__(self, path: Path | None = None, key: str = "") -> None:
        self._path, self._key = path, key
        self._rows: dict[str, dict[bytes, Tensor]] = {}
        self._ragged: set[str] = set()

    @classmethod
    def open(cls, folder: Path, key: str) -> "FrozenCache":
        """The cache that an earlier session of the run saved under that key, or an empty one."""
        cache = cls(folder / _NAME, key)
        try:
            with safe_open(folder / _NAME, "pt") as file:
                metadata = file.metadata()
                tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
                if metadata["key"] == key and metadata["digest"] == _digest(tensors):
                    cache._ragged = set(filter(None, metadata["ragged"].split(",")))
                    for name in filter(None, metadata["columns"].split(",")):
                        cache._rows[name] = _unpack(tensors, name)
        except (OSError, SafetensorError, KeyError):
            return cls(folder / _NAME, key)  # absent or damaged: computed again
        return cache

    def __len__(self) -> int:
        return max((len(rows) for rows in self._rows.values()), default=0)

    def __contains__(self, digest: bytes) -> bool:
        return any(digest in rows for rows in self._rows.values())

    def fill(self, batches: Iterable[Batch], compute: Callable[[Batch], Mapping[str, Column]]) -> int:
        """Compute missing rows and save the cache; returns the number of new examples."""
        before = len(self)
        for batch in batches:
            digests = row_digests(batch)
            new = [row for row, digest in enumerate(digests) if digest not in self]
            if new:
                for name, column in compute(batch.select(new)).items():
                    self._add(name, [digests[row] for row in new], column)
        if self._path is not None and len(self) > before:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._save(self._path)
        return len(self) - before

    def columns(self, batch: Batch) -> dict[str, Column]:
        """The columns of a batch, on its device; raises KeyError for an example that is not cached."""
        digests = row_digests(batch)
        columns: dict[str, Column] = {}
        for name, known in self._rows.items():
            rows = [known[digest] for digest in digests]
            column = Ragged.from_list(rows) if name in self._ragged else torch.stack(rows)
            columns[name] = column.to(batch.device)
        return columns

    def _add(self, name: str, digests: list[bytes], column: Column) -> None:
        if isinstance(column, Ragged):
            self._ragged.add(name)
            rows = column.rows()
        elif isinstance(column, Tensor):
            rows = list(column)
        else:
            raise TypeError(f"column {name!r} of `frozen` is neither a tensor nor ragged")
        known = self._rows.setdefault(name, {})
        known.update(zip(digests, (row.detach().cpu() for row in rows), strict=True))

    def _save(self, path: Path) -> None:
        tensors: dict[str, Tensor] = {}
        for name, rows in self._rows.items():
            packed = Ragged.from_list([row.reshape(-1) for row in rows.values()])
            tensors[f"{name}/values"], tensors[f"{name}/offsets"] = packed.values, packed.offsets
            shape = next(iter(rows.values())).shape
            tensors[f"{name}/shape"] = torch.tensor([-1] if name in self._ragged else list(shape), dtype=torch.int64)
            tensors[f"{name}/digests"] = torch.frombuffer(bytearray(b"".join(rows)), dtype=torch.uint8)
        partial = path.with_suffix(".partial")
        columns = {"ragged": ",".join(self._ragged), "columns": ",".join(self._rows)}
        metadata = {"key": self._key, "digest": _digest(tensors), **columns}
        save_file(tensors, partial, metadata)
        partial.replace(path)


def row_digests(batch: Batch) -> list[bytes]:
    """A 16-byte hash per example of what a model reads: its ragged columns and sequences."""
    columns: list[Any] = [c for c in batch.columns.values() if not isinstance(c, Tensor | tuple)]
    rows = [column.row_bytes() for column in columns]
    return [hashlib.blake2b(b"\x00".join(parts), digest_size=16).digest() for parts in zip(*rows, strict=True)]


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """A checksum, which safetensors lacks: a byte that changed on disk would give wrong references."""
    digest = hashlib.blake2b(digest_size=16)
    for _, tensor in sorted(tensors.items()):
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _unpack(tensors: Mapping[str, Tensor], name: str) -> dict[bytes, Tensor]:
    values, offsets = tensors[f"{name}/values"], tensors[f"{name}/offsets"]
    shape = tensors[f"{name}/shape"].tolist()
    digests = bytes(tensors[f"{name}/digests"].numpy())
    rows = Ragged(values, offsets).rows()
    return {digests[16 * i : 16 * i + 16]: row.reshape(shape).clone() for i, row in enumerate(rows)}
