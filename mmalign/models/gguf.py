"""Reads the architecture that a GGUF file names from its header alone. Standard library only.

    read_architecture(Path("model.gguf"))      # "llama"

Layout (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), little-endian: the four bytes GGUF, version u32,
number of tensors u64, number of keys u64; then each key as a string (length u64, UTF-8), the type of its value u32 and
the value. `general.architecture` is the first key in practice; keys before it are skipped.
"""

import struct
from pathlib import Path
from typing import BinaryIO

from mmalign.errors import CheckpointError
from mmalign.reading import open_file

SUFFIX = ".gguf"
_KEY = "general.architecture"
_LONGEST = 2**16  # most bytes of a key or architecture, most elements of an array before it; the format allows 2**64
_STRING, _ARRAY = 8, 9
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # value type -> bytes


def read_architecture(path: Path) -> str:
    """The value of `general.architecture`; raises CheckpointError for a file that is not GGUF or is truncated."""
    try:
        with open_file(path) as file:
            return _find(file)
    except (OSError, ValueError, struct.error) as error:
        raise CheckpointError(
            f"{path} is not a readable GGUF file: {error}", hint="Is the download complete? Compare its size."
        ) from error


def _find(file: BinaryIO) -> str:
    if file.read(4) != b"GGUF":
        raise ValueError("it does not begin with GGUF")
    version, _, num_keys = _unpack(file, "<IQQ")
    if version not in (2, 3):
        raise ValueError(f"version {version} of the format, or another byte order; known: 2 and 3, little-endian")
    for _ in range(num_keys):
        key, (kind,) = _string(file), _unpack(file, "<I")
        if key == _KEY and kind == _STRING:
            return _string(file)
        _skip(file, kind)
    raise ValueError(f"it has no {_KEY}")


def _skip(file: BinaryIO, kind: int) -> None:
    if kind == _STRING:
        _string(file)
    elif kind == _ARRAY:
        inner, length = _unpack(file, "<IQ")
        if length > _LONGEST:
            raise ValueError(f"an array of {length:,} elements comes before {_KEY}")
        for _ in range(length):
            _skip(file, inner)
    elif kind in _SIZES:
        file.seek(_SIZES[kind], 1)
    else:
        raise ValueError(f"a value of unknown type {kind}")


def _string(file: BinaryIO) -> str:
    (length,) = _unpack(file, "<Q")
    if length > _LONGEST:
        raise ValueError(f"a string of {length:,} bytes comes before {_KEY}")
    return _exactly(file, length).decode("utf-8")


def _unpack(file: BinaryIO, layout: str) -> tuple[int, ...]:
    return struct.unpack(layout, _exactly(file, struct.calcsize(layout)))


def _exactly(file: BinaryIO, length: int) -> bytes:
    data = file.read(length)
    if len(data) < length:
        raise ValueError("it ends inside its header")
    return data
