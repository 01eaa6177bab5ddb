"""Checkpoints that resume exactly: safetensors and JSON, committed by one rename, found by scanning.

    checkpoints/step-000050/{model,optimizer,rng}.safetensors  state.json  manifest.json

A checkpoint is written into a hidden folder, every file is fsynced, the manifest (sizes and sha256) last, and the
folder is renamed; only then are old ones deleted. There is no pointer file: `newest` scans and verifies, and if a file
is missing, truncated or altered, it warns and uses the checkpoint before. Nothing is ever unpickled.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmalign.errors import CheckpointError
from mmalign.files import fsync
from mmalign.reading import open_file, read_json

FORMAT = 2  # format 1 held only the optimiser's tensors, which is all that AdamW keeps
_READABLE = (1, FORMAT)
_PREFIX = "step-"
_FILES = ("model.safetensors", "optimizer.safetensors", "rng.safetensors", "state.json")
_MAX_MANIFEST = 2**16


@dataclass(frozen=True)
class Checkpoint:
    """A complete training state. rng: the generator states of every process, named "<rank>/<generator>"."""

    step: int
    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    rng: Mapping[str, Tensor]
    state: Mapping[str, Any]


def save(root: Path, checkpoint: Checkpoint) -> Path:
    """Commit a checkpoint under `root`; raises CheckpointError (disk full), leaving the older ones as they were."""
    final = root / f"{_PREFIX}{checkpoint.step:06d}"
    partial = root / f".{final.name}.partial"
    try:
        root.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        for name in ("model", "optimizer", "rng"):
            tensors = {key: value.detach().cpu().contiguous() for key, value in getattr(checkpoint, name).items()}
            save_file(tensors, partial / f"{name}.safetensors")
        _write_json(partial / "state.json", {**checkpoint.state, "step": checkpoint.step})
        files = {path.name: _digest(path) for path in sorted(partial.iterdir())}
        manifest = {"format": FORMAT, "torch": torch.__version__, "files": files}
        _write_json(partial / "manifest.json", manifest)
        for path in partial.iterdir():
            fsync(path)
        fsync(partial)
        if final.exists():  # left damaged, or the same step written before a signal
            _bury(final)
        os.rename(partial, final)
        fsync(root)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        needed = sum(tensor.nbytes for tensor in (*checkpoint.model.values(), *checkpoint.optimizer.values()))
        raise CheckpointError(
            f"cannot save {final}: {error}; it needs {needed / 1e6:.0f} MB, and {_free_megabytes(root)} MB are free",
            hint="Free space or choose another --out; earlier checkpoints are intact.",
        ) from error
    return final


def load(folder: Path) -> Checkpoint:
    """Read and verify one checkpoint; raises CheckpointError that names the damaged file."""
    verify(folder)
    try:
        state = read_json(folder / "state.json")
        tensors = {name: load_file(folder / f"{name}.safetensors") for name in ("model", "optimizer", "rng")}
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: {error}") from error
    return Checkpoint(step=state["step"], state=state, **tensors)


def verify(folder: Path) -> None:
    """Compare every file with the manifest; raises CheckpointError."""
    try:
        manifest = read_json(folder / "manifest.json", _MAX_MANIFEST)
        files = manifest["files"]
        if manifest["format"] not in _READABLE:
            raise CheckpointError(
                f"{folder}: format {manifest['format']}, this version reads {' and '.join(map(str, _READABLE))}",
                hint="A newer version wrote it: pip install --upgrade mmalign",
            )
        if set(files) != set(_FILES):  # so that no name leads out of the folder
            odd = ", ".join(sorted(set(files) ^ set(_FILES))[:4])
            raise CheckpointError(f"{folder}: the manifest must list {', '.join(_FILES)}; it differs in {odd}")
        for name, expected in files.items():
            if _digest(folder / name) != expected:
                raise CheckpointError(f"{folder}: {name} differs from its size or digest in the manifest")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder}: {error}") from error


def committed(root: Path) -> list[Path]:
    """Committed checkpoint folders, oldest first, unverified."""
    if not root.is_dir():
        return []
    folders = [path for path in root.glob(f"{_PREFIX}*") if path.is_dir() and path.name[len(_PREFIX) :].isdigit()]
    return sorted(folders, key=_step)


def newest(root: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that passes verification, with a warning for each that does not; None if there is none."""
    for folder in reversed(committed(root)):
        try:
            return load(folder)
        except CheckpointError as error:
            warn(f"{folder.name} is damaged and not used ({error.message})")
    return None


def rotate(root: Path, keep: int, best: int | None, newest: int) -> list[Path]:
    """After the commit of step `newest`, delete all but the newest `keep` and the `best`. Returns what was deleted.

    Folders of later steps are deleted too: they are damaged, or from before the run went back to an earlier step.
    """
    folders = committed(root)
    current = [folder for folder in folders if _step(folder) <= newest]
    protected = set(current[-keep:]) | {folder for folder in current if _step(folder) == best}
    deleted = [folder for folder in folders if folder not in protected]
    for folder in deleted:
        _bury(folder)
    for leftover in root.glob(f".{_PREFIX}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    return deleted


def _bury(folder: Path) -> None:
    """Rename a folder for `rotate` to delete: a deletion cut short must leave nothing that looks committed."""
    grave = folder.with_name(f".{folder.name}.deleted")
    shutil.rmtree(grave, ignore_errors=True)
    os.rename(folder, grave)


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix(_PREFIX))


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _digest(path: Path) -> dict[str, Any]:
    with open_file(path) as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _free_megabytes(path: Path) -> int:
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free // 1_000_000


def require_same(state: Mapping[str, Any], fingerprint: Any, num_processes: int) -> None:
    """Raises CheckpointError if a checkpoint's state is from other data or another number of processes."""
    if state["data"] != fingerprint:
        raise CheckpointError("the training data changed since the checkpoint", hint="Restore it, or start a new run.")
    if len(state["host_rng"]) != num_processes:
        raise CheckpointError(
            f"{len(state['host_rng'])} processes saved the checkpoint, this run has {num_processes}",
            hint="Resume with the same number of processes.",
        )
