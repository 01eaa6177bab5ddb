"""The reader of image-text files: tables, webdataset tars, and folders of images with captions.

    mmalign train --objective contrastive --dataset pairs.csv
    mmalign train --objective contrastive --dataset 'shards/{000..009}.tar' --set dataset.validation=val.tar

A folder may hold tars, a table (metadata.csv, metadata.jsonl, captions.csv, ..., or parquet files), or images each with
a text file of the same name (`cat.jpg`, `cat.txt`).
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from mmalign.data.examples import ImageText
from mmalign.data.images import find_images
from mmalign.data.order import stable_hash
from mmalign.errors import DataError
from mmalign_data.pairs import Found, Pairs
from mmalign_data.paths import expand
from mmalign_data.rows import SUFFIXES
from mmalign_data.tables import Columns, holds_bytes, read_table
from mmalign_data.tars import index_tar

_TABLES = tuple(f"{stem}{suffix}" for stem in ("metadata", "captions") for suffix in SUFFIXES)
_MAX_SIDECAR = 1_000_000


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
    max_bad: float = Field(
        0.01, ge=0, le=1, description="Fraction of samples that may be unusable, such as without text"
    )


class ImageTextFiles:
    """Image-text pairs, see the module. Images are opened when they are used; only captions are read beforehand."""

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
        """Counts: kept in this part, and skipped in the whole source by reason."""
        counts = {"kept": len(self), "skipped": dict(self._pairs.skipped), "source": self._source}
        return {**counts, "ignored": dict(self._pairs.ignored)} if self._pairs.ignored else counts

    def fingerprint(self) -> str:
        """A hash of names, captions, places and of the part that this is; image files are not read."""
        rows = stable_hash(self._rows.tobytes().hex()) if len(self._rows) < len(self._pairs) else 0
        return f"{self._pairs.fingerprint()}-{rows:x}"


def read_pairs(path: str, config: ImageTextConfig) -> Pairs:
    """Index whatever `path` names. Raises DataError."""
    files = _expand(path)
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
        _read_sidecars(files[0], found)
    else:
        odd = next(file for file in files if file.suffix.lower() not in SUFFIXES)
        hint = f"Give one kind of: .tar, {', '.join(SUFFIXES)}, or a folder."
        if odd.suffix.lower() in (".gz", ".tgz", ".zip", ".bz2", ".xz", ".zst"):
            hint = "Unpack it first: an uncompressed .tar is read as it is."
        raise DataError(f"{path}: {odd.name} is no kind of image-text data that is known", hint=hint)
    return found.finish(path, config.max_bad)


def _expand(path: str) -> list[Path]:
    """The files that a path stands for, or [folder] for a folder of images. Raises DataError if there are none."""
    files = expand(path)
    return _inside(files[0]) if len(files) == 1 and files[0].is_dir() else files


def _inside(folder: Path) -> list[Path]:
    tars, tables = sorted(folder.glob("*.tar")), [folder / name for name in _TABLES if (folder / name).is_file()]
    return tars or tables[:1] or sorted(folder.glob("*.parquet")) or [folder]


def _read_sidecars(folder: Path, found: Found) -> None:
    """Images with a .txt of the same name beside them."""
    where = found.source(str(folder), str(folder))
    images, _ = find_images([folder])
    if not images:
        raise DataError(
            f"{folder}: no image, no tar and no table in the folder",
            hint=f"Wanted: images with .txt files of the same name, *.tar, or one of {', '.join(_TABLES[:3])}, ...",
        )
    for image in images:
        name, text = os.path.relpath(image, folder), image.with_suffix(".txt")
        try:
            with open(text, "rb") as file:
                found.add(name, file.read(_MAX_SIDECAR).decode("utf-8"), where)
        except FileNotFoundError:
            found.skip("no caption", name)
        except UnicodeDecodeError:
            found.skip("caption is not UTF-8", name)
        except OSError as error:
            found.skip(f"caption: {error.strerror}", name)
