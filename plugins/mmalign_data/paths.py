"""Paths as users write them: a file, a folder, a glob, or a range such as 'shards/{000..009}.tar'."""

import glob
import re
from pathlib import Path

from mmalign.errors import DataError
from mmalign.reading import check_regular

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MAX_SHARDS = 1_000_000


def expand(path: str) -> list[Path]:
    """The files and folders that a path stands for; raises DataError if there are none."""
    names = [path]
    while any(_RANGE.search(name) for name in names):
        names = [one for name in names for one in _expand_range(name)]
        if len(names) > _MAX_SHARDS:
            raise DataError(f"{path}: over {_MAX_SHARDS:,} files")
    files: list[Path] = []
    for name in names:
        exact = Path(name).expanduser()
        matches = (
            [exact] if exact.exists() else [Path(match) for match in sorted(glob.glob(str(exact), recursive=True))]
        )
        if not matches:
            raise DataError(f"{name}: no such file or folder", hint="mmalign list datasets shows the embedded ones.")
        for match in matches:
            if not match.is_dir():
                _check(match)
        files += matches
    return files


def _check(path: Path) -> None:
    try:
        check_regular(path)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}", hint="Give a file, or a folder of files.") from error


def _expand_range(name: str) -> list[str]:
    match = _RANGE.search(name)
    if match is None:
        return [name]
    first, last, width = int(match[1]), int(match[2]), len(match[1])
    if last - first >= _MAX_SHARDS:
        raise DataError(f"{name}: over {_MAX_SHARDS:,} files")
    return [f"{name[: match.start()]}{number:0{width}d}{name[match.end() :]}" for number in range(first, last + 1)]
