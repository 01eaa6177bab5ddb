"""Reads files that users, configs and manifests name: only regular files of bounded size, and JSON of bounded depth.

    with open_file(path) as file: ...          # as open(path, "rb")
    read_text(path), read_bytes(path), read_json(path), parse_json(text), is_text(value)

Reading a named pipe may block for ever, a device may never end, and a JSON document of a few kilobytes may be nested
deeper than Python can recurse. All are refused with an OSError or a ValueError that says why; readers catch these
anyway.
"""

import errno
import io
import json
import os
import stat
from pathlib import Path
from typing import Any

MAX_BYTES = 256 * 2**20
MAX_DEPTH = 100
_TOO_DEEP = f"nested over {MAX_DEPTH} levels deep"
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def check_regular(path: Path | str) -> None:
    """Raises OSError if the path is not a regular file or a link to one; does not open it."""
    _check(os.stat(path).st_mode, path)


def open_file(path: Path | str) -> io.BufferedReader:
    """Open a regular file to read bytes; raises OSError, also if it is not a regular file."""
    check_regular(path)  # before opening, because opening alone may affect a device
    # O_NONBLOCK: do not block if a pipe has replaced the file since, or on files that the kernel generates.
    file = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    try:
        _check(os.fstat(file.fileno()).st_mode, path)
    except OSError:
        file.close()
        raise
    return file


def read_bytes(path: Path | str, most: int = MAX_BYTES) -> bytes:
    """The content of a regular file; raises OSError, and ValueError if it is larger than `most` bytes."""
    with open_file(path) as file:
        content = file.read(most + 1)
    if content is None:
        raise OSError(errno.EINVAL, "it has no data to read", str(path))
    if len(content) > most:
        raise ValueError(f"over {most:,} bytes")
    return content


def read_text(path: Path | str, encoding: str = "utf-8", most: int = MAX_BYTES) -> str:
    """The text of a regular file, with line ends as "\\n"; raises OSError, and ValueError for too many bytes or another
    encoding."""
    return read_bytes(path, most).decode(encoding).replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: Path | str, most: int = MAX_BYTES) -> Any:
    """The value in a JSON file; raises OSError, and ValueError if it is too large, nested too deeply or not JSON."""
    return parse_json(read_text(path, most=most))


def parse_json(text: str | bytes, **options: Any) -> Any:
    """As json.loads; also raises ValueError for values nested over MAX_DEPTH levels deep."""
    try:
        value = json.loads(text, **options)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    if _depth(value) > MAX_DEPTH:
        raise ValueError(_TOO_DEEP)
    return value


def is_text(value: Any) -> bool:
    """Whether all strings in a JSON value can be encoded: a lone surrogate is half a character and cannot."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, dict | list) and item]:
        depth += 1
        if depth > MAX_DEPTH:
            break
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
    return depth


def _check(mode: int, path: Path | str) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    kind = _KINDS.get(stat.S_IFMT(mode))
    if kind is not None:
        raise OSError(errno.EINVAL, f"{kind}, not a regular file", str(path))
