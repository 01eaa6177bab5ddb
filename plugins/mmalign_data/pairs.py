"""Image-text pairs as the readers of this package return them: compact columns, and counts of what was left out.

found = Found("file")
table = found.source("pairs.csv", root="photos")
found.add("cat.jpg", "a cat", table, line)
found.skip("no caption", "pairs.csv:7")
found.settle("read")                     # once for each row, member or file: its outcome
pairs = found.finish(max_bad=0.01)
"""

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from mmalign.contract.examples import ImageRef, ImageText
from mmalign.errors import DataError
from mmalign_data.parquet_files import picture_bytes

MAX_CAPTION = 100_000  # characters; longer ones are documents, or a table read with the wrong separator

READ = "read"
Kind = Literal["file", "slice", "cell"]


@dataclass(frozen=True)
class Pairs:
    """Columns of equal length, in the order of the source.

    kind: the image is a file named by `names`, a slice of a source (offset, size), or a cell of a parquet source
    (row group, row). `offsets` of files are line numbers, 0 where there is none. `names` are the same on every machine.
    """

    kind: Kind
    sources: tuple[str, ...]
    roots: tuple[str, ...]
    names: pa.Array
    texts: pa.Array
    where: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    skipped: Mapping[str, int]
    ignored: Mapping[str, int]
    entries: Mapping[str, int]
    note: str = ""

    def __len__(self) -> int:
        return len(self.names)

    def example(self, row: int) -> ImageText:
        """The pair in that row; raises BadSample where a parquet cell cannot be read."""
        name, text = self.names[row].as_py(), self.texts[row].as_py()
        where, offset, size = int(self.where[row]), int(self.offsets[row]), int(self.sizes[row])
        source = self.sources[where]
        if self.kind == "file":
            key = f"{os.path.basename(source)}:{offset}" if offset else name
            return ImageText(key, ImageRef(os.path.join(self.roots[where], name)), text, group=f"{where}/{name}")
        if self.kind == "slice":
            return ImageText(name, ImageRef(source, offset, size), text, group=f"{where}/{name}")
        image = ImageRef(f"{source}:{name}", data=picture_bytes(source, self.roots[where], offset, size))
        return ImageText(name, image, text, group=f"{where}/{name}")

    def fingerprint(self) -> str:
        """A hash of the names, texts and positions."""
        digest = hashlib.sha256(self.kind.encode())
        for column in (self.names, self.texts):
            for buffer in column.buffers()[1:]:
                digest.update(buffer or b"")
        for numbers in (self.where, self.offsets, self.sizes):
            digest.update(numbers.tobytes())
        return digest.hexdigest()[:16]


class Found:
    """Collects pairs. `max_bad` is applied at the end, so that the error can report all skipped pairs."""

    def __init__(self, kind: Kind) -> None:
        self._kind: Kind = kind
        self._sources: list[tuple[str, str]] = []
        self._rows: list[tuple[str, str, int, int, int]] = []
        self._skipped: Counter[str] = Counter()
        self._ignored: Counter[str] = Counter()
        self._entries: Counter[str] = Counter()
        self._shown: list[str] = []

    def source(self, path: str, root: str = "") -> int:
        """Register a file. `root`: the folder of its relative names, or the image column of a parquet file."""
        self._sources.append((path, root))
        return len(self._sources) - 1

    def add(self, name: str, text: str, where: int, offset: int = 0, size: int = 0) -> str:
        """Add a pair, or count why it cannot be used: READ, or the reason."""
        if not text.strip():
            return self.skip("empty caption", name)
        if len(text) > MAX_CAPTION:
            return self.skip(f"caption over {MAX_CAPTION:,} characters", name)
        if not _encodes(name) or not _encodes(text):
            return self.skip("not UTF-8", ascii(name))
        self._rows.append((name, text.strip(), where, offset, size))
        return READ

    def add_all(self, name: str, texts: Sequence[str], where: int, offset: int = 0, size: int = 0) -> str:
        """Several captions of one image: READ where any of them can be used, else the first reason."""
        outcomes = [self.add(name, text, where, offset, size) for text in texts]
        return READ if READ in outcomes else outcomes[0]

    def ignore(self, what: str, number: int = 1) -> None:
        """Count entries that are no samples and were not meant to be."""
        self._ignored[what] += number
        self.settle(what, number)

    def skip(self, reason: str, key: str) -> str:
        """Count a sample that cannot be used; returns the reason."""
        self._skipped[reason] += 1
        if len(self._shown) < 5:
            self._shown.append(f"  {key}: {reason}")
        return reason

    def settle(self, outcome: str, number: int = 1) -> None:
        """Count the outcome of rows, members or files, once for each: READ, or the reason."""
        self._entries[outcome] += number

    def finish(self, path: str, max_bad: float, note: str = "") -> Pairs:
        """Raise DataError if nothing or too little is left. note: a sentence to show about the pairs."""
        bad, total = self._skipped.total(), self._skipped.total() + len(self._rows)
        counts = ", ".join(f"{count} x {reason}" for reason, count in self._skipped.most_common())
        if bad > max_bad * total or not self._rows:
            what = f"{path}: {bad} of {total} samples cannot be used ({counts})" if bad else f"{path}: no sample found"
            hint = f"Mend them, or allow more: --set dataset.max_bad={min(1, bad / total + 0.005):.2f}" if bad else ""
            raise DataError("\n".join([what, *self._shown]), hint=hint if self._rows else "")
        names, texts, where, offsets, sizes = zip(*self._rows, strict=True)
        return Pairs(
            self._kind,
            tuple(source for source, _ in self._sources),
            tuple(root for _, root in self._sources),
            pa.array(names, pa.large_string()),
            pa.array(texts, pa.large_string()),
            np.array(where, np.int32),
            np.array(offsets, np.int64),
            np.array(sizes, np.int64),
            dict(self._skipped),
            dict(self._ignored),
            dict(self._entries),
            note,
        )


def _encodes(text: str) -> bool:
    """False for lone surrogates: undecodable bytes of file names, or broken escapes of JSON."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
