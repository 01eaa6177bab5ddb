"""The reader of image-text files: tables, webdataset tars, and folders of images with captions.

    mmalign train --objective contrastive --dataset pairs.csv
    mmalign train --objective contrastive --dataset 'shards/{000..009}.tar' --set dataset.validation=val.tar

A folder may contain tars; a table (metadata.csv, metadata.jsonl, captions.csv, ..., or parquet files); images each with
a text file of the same name (`cat.jpg`, `cat.txt`); or one folder of images for each class, captioned by a template.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from mmalign.contract.examples import ImageText
from mmalign.errors import DataError
from mmalign.hashing import stable_hash
from mmalign_data.pairs import Found, Pairs
from mmalign_data.paths import expand
from mmalign_data.picture_folders import read_folder
from mmalign_data.rows import SUFFIXES
from mmalign_data.tables import Columns, holds_bytes, read_table
from mmalign_data.tars import index_tar

_TABLES = tuple(f"{stem}{suffix}" for stem in ("metadata", "captions") for suffix in SUFFIXES)


class ImageTextConfig(BaseModel):
    """Options of image-text files."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    path: str = Field(description="A table, a tar, a folder, a glob, or a range such as 'shards/{000..009}.tar'")
    validation: str = Field("", description="The same, for validation; empty: hold out a part of `path`")
    holdout: float = Field(0.05, ge=0, lt=1, description="Fraction of images held out without `validation` (0-1)")
    image_column: str = Field("", description="Column of image paths or bytes; empty: the usual names are tried")
    caption_column: str = Field("", description="Column of captions, in tables and in JSON members; empty: usual names")
    separator: str = Field("", max_length=1, description="Separator of CSV cells, one character; empty: comma or tab")
    image_root: str = Field("", description="Folder that relative paths start from; empty: the table's own")
    template: str = Field(
        "a photo of a {}", description="Caption of images in class folders, {} is the class; empty: they have none"
    )
    max_bad: float = Field(
        0.01, ge=0, le=1, description="Fraction of samples that may be unusable, such as without text"
    )


class ImageTextFiles:
    """Image-text pairs, see the module. Images are opened when they are used; only captions are read at the start."""

    Config: ClassVar[type[BaseModel]] = ImageTextConfig

    def __init__(self, pairs: Pairs, rows: np.ndarray, source: str) -> None:
        self._pairs = pairs
        self._rows = rows
        self._source = source

    @classmethod
    def build(cls, config: ImageTextConfig, split: str) -> Self | None:
        """Read and index; None where nothing is held out. Raises DataError."""
        if split == "validation" and config.validation:
            pairs = read_pairs(config.validation, config)
            return cls(pairs, np.arange(len(pairs)), config.validation)
        if split == "validation" and not config.holdout:
            return None
        pairs = read_pairs(config.path, config)
        held_out = np.zeros(len(pairs), bool)
        if not config.validation:
            # By the image's name, so that all captions of an image are on the same side.
            shares = (stable_hash("holdout", name.as_py()) / 2**64 for name in pairs.names)
            held_out = np.fromiter(shares, float, len(pairs)) < config.holdout
        rows = np.flatnonzero(held_out == (split == "validation"))
        if not len(rows):
            if split == "validation":
                return None
            raise DataError(f"{config.path}: all {len(pairs)} samples are held out", hint="--set dataset.holdout=0")
        return cls(pairs, rows, config.path)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> ImageText:
        return self._pairs.example(int(self._rows[index]))

    def report(self) -> Mapping[str, Any]:
        """Counts: kept in this part, and skipped in the whole source by reason. `entries`: every row, tar member or
        file, once, as read or under the reason why it is not."""
        pairs = self._pairs
        counts = {"kept": len(self), "skipped": dict(pairs.skipped), "source": self._source}
        counts |= {"ignored": dict(pairs.ignored), "entries": dict(pairs.entries)}
        return {**counts, "notes": [pairs.note]} if pairs.note else counts

    def fingerprint(self) -> str:
        """A hash of names, captions, positions and the part; image files are not read."""
        rows = stable_hash(self._rows.tobytes().hex()) if len(self._rows) < len(self._pairs) else 0
        return f"{self._pairs.fingerprint()}-{rows:x}"


def read_pairs(path: str, config: ImageTextConfig) -> Pairs:
    """Index whatever `path` names. Raises DataError."""
    files, others = _expand(path)
    note = ""
    columns = Columns(config.image_column, config.caption_column, config.separator, config.image_root)
    if all(file.suffix.lower() == ".tar" for file in files):
        found = Found("slice")
        for file in files:
            index_tar(file, found, config.caption_column)
    elif all(file.suffix.lower() in SUFFIXES for file in files):
        inside = {holds_bytes(file, columns) for file in files}
        if len(inside) > 1:
            raise DataError(f"{path}: some tables hold images and some only paths", hint="Give one kind at a time.")
        found = Found("cell" if inside.pop() else "file")
        for file in files:
            read_table(file, found, columns)
    elif len(files) == 1 and files[0].is_dir():
        found = Found("file")
        wanted = "Wanted: images with .txt files of the same name, images in a folder a class, *.tar, or one of "
        note = read_folder(files[0], found, config.template, f"{wanted}{', '.join(_TABLES[:3])}, ...")
    else:
        odd = next(file for file in files if file.suffix.lower() not in SUFFIXES)
        hint = f"Give one kind of: .tar, {', '.join(SUFFIXES)}, or a folder."
        if odd.suffix.lower() in (".gz", ".tgz", ".zip", ".bz2", ".xz", ".zst"):
            hint = "Unpack it first: an uncompressed .tar is read directly."
        raise DataError(f"{path}: {odd.name} is no known kind of image-text data", hint=hint)
    for other in others:
        found.ignore(other)
    return found.finish(path, config.max_bad, note)


def _expand(path: str) -> tuple[list[Path], list[str]]:
    """The files that a path stands for, or [folder] for a folder of images; and the other files in a folder of tars or
    tables. Raises DataError if there are none."""
    files = expand(path)
    return _inside(files[0]) if len(files) == 1 and files[0].is_dir() else (files, [])


def _inside(folder: Path) -> tuple[list[Path], list[str]]:
    tars, tables = sorted(folder.glob("*.tar")), [folder / name for name in _TABLES if (folder / name).is_file()]
    if tars:
        chosen = set(tars)
        others = [item for item in sorted(folder.iterdir()) if item not in chosen]
        return tars, [f"beside the tars ({item.suffix.lower()[:12] or 'no suffix'})" for item in others]
    if tables:
        return tables[:1], [f"table beside {tables[0].name}" for _ in tables[1:]]
    return sorted(folder.glob("*.parquet")) or [folder], []
