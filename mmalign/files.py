"""Writes files completely or not at all: `write_atomically(path, fill)`, `write_text(path, text)`, `fsync(path)`.

`check_out(path, force=False)` checks, before the work, whether a file may be written.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from mmalign.errors import MmalignError, UsageError


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it. If that fails, nothing is left behind; raises
    MmalignError for an OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        fsync(temporary)
        os.replace(temporary, path)
    except OSError as error:
        hint = "Free some space or write elsewhere; an earlier file is unchanged."
        raise MmalignError(f"cannot write {path}: {error.strerror or error}", hint=hint) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace a text file atomically: readers see the old or the new content. Raises MmalignError."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def fsync(path: Path) -> None:
    """Flush a file or a folder's entries to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_out(path: Path, force: bool, suffixes: Sequence[str] = (".jsonl", ".csv", ".parquet")) -> None:
    """Refuse an unknown suffix, a missing folder, and an existing file unless `force`; raises UsageError."""
    if path.suffix not in suffixes:
        raise UsageError(f"{path}: unknown kind of file {path.suffix!r}", hint=f"Use one of: {', '.join(suffixes)}")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: there is no folder {path.parent}", hint=f"mkdir -p {path.parent}")
    if path.is_dir() or (path.exists() and not force):
        problem = "is a folder" if path.is_dir() else "exists already"
        raise UsageError(f"{path} {problem}", hint="Give another name, or --force to replace a file.")
