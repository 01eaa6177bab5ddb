"""Reads image-text pairs from tables: CSV and TSV, JSON lines, parquet.

    read_table("pairs.csv", found, Columns(image="", caption="", separator="", root=""))

Columns are recognised by their usual names (open_clip's, the hub's image folders'), or named by the user. A caption
cell may hold a list of strings, one pair for each. Images are paths, relative to the table's folder, or bytes inside
parquet; URLs are not fetched.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mmalign.errors import DataError
from mmalign_data.pairs import Found
from mmalign_data.parquet_files import open_parquet, parquet_rows
from mmalign_data.rows import choose, csv_rows, json_rows

IMAGE_COLUMNS = ("image", "filepath", "file_name", "filename", "image_path", "path", "file", "img")
CAPTION_COLUMNS = ("caption", "text", "title", "captions", "description")
_MAX_ROW_GROUP = 2_000_000_000
_PROBED = 8  # paths checked before a run starts


class Columns(NamedTuple):
    """How to read a table; an empty string means that the reader finds out."""

    image: str
    caption: str
    separator: str
    root: str


def read_table(path: Path, found: Found, columns: Columns) -> None:
    """Add the pairs of one table. Raises DataError, with the line, where the rest cannot be read."""
    if path.suffix.lower() == ".parquet":
        _read_parquet(path, found, columns)
        return
    rows = csv_rows(path, columns.separator) if path.suffix.lower() in (".csv", ".tsv") else json_rows(path)
    _add_rows(path, rows, found, columns)


def holds_bytes(path: Path, columns: Columns) -> bool:
    """Whether a table is a parquet file with the images inside."""
    return path.suffix.lower() == ".parquet" and not _is_text(open_parquet(path), path, columns)


def captions_of(value: Any) -> list[str] | None:
    """The texts of a caption cell: a string, or a list of strings; None for anything else."""
    texts = [value] if isinstance(value, str) else value
    if isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts):
        return texts
    return None


def _add_rows(path: Path, rows: Iterable[tuple[int, Any]], found: Found, columns: Columns) -> None:
    where = found.source(str(path), root := columns.root or str(path.parent))
    image = caption = ""
    probed: list[str] = []
    for line, row in rows:
        if not isinstance(row, Mapping):
            found.settle(found.skip(row, f"{path.name}:{line}"))
            continue
        if not image:
            image = choose(path, list(row), columns.image, IMAGE_COLUMNS, "image_column")
            caption = choose(path, list(row), columns.caption, CAPTION_COLUMNS, "caption_column")
        name, texts = row.get(image), captions_of(row.get(caption))
        if not isinstance(name, str) or not name.strip():
            found.settle(found.skip("no image", f"{path.name}:{line}"))
        elif texts is None:
            found.settle(found.skip("no caption", f"{path.name}:{line}"))
        elif name.lower().startswith(("http://", "https://")):
            hint = "Download the images first, for example with img2dataset, and give its folder of tars."
            raise DataError(f"{path}:{line}: the image is a URL, and URLs are not fetched", hint=hint)
        else:
            found.settle(found.add_all(name, texts, where, line))
            probed += [name] * (len(probed) < _PROBED)
    _probe(path, probed, root)


def _probe(path: Path, names: list[str], root: str) -> None:
    """Fail at once if none of the first images exists. Later missing images are counted when they are read."""
    if not names or any(os.path.lexists(os.path.join(root, name)) for name in names if "\0" not in name):
        return
    hint = "Name the folder where relative paths start: --set dataset.image_root=FOLDER"
    if any(os.path.lexists(name) for name in names if "\0" not in name):
        hint = "They exist relative to the current folder: --set dataset.image_root=."
    raise DataError(
        f"{path}: none of the first {len(names)} images exists, such as {os.path.join(root, names[0])}", hint=hint
    )


def _read_parquet(path: Path, found: Found, columns: Columns) -> None:
    file = open_parquet(path)
    image, caption = _parquet_columns(file, path, columns)
    paths_only = _is_text(file, path, columns)

    rows = parquet_rows(path, file, [image, caption] if paths_only else [caption])
    if paths_only:
        _add_rows(path, rows, found, columns)
    else:
        _add_cells(path, file, rows, found, image, caption)


def _add_cells(path: Path, file: Any, rows: Iterable[tuple[int, Any]], found: Found, image: str, caption: str) -> None:
    where = found.source(str(path), image)
    groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
    places = ((number, row) for number, group in enumerate(groups) for row in range(group.num_rows))
    if any(group.total_byte_size > _MAX_ROW_GROUP for group in groups):
        hint = "Write it again with row_group_size=100."
        raise DataError(f"{path}: a row group over {_MAX_ROW_GROUP:,} bytes", hint=hint)
    for (number, row), (group, offset) in zip(rows, places, strict=True):
        texts = None if isinstance(row, str) else captions_of(row[caption])
        key = f"{path.name}:{number}"
        if texts is None:
            found.settle(found.skip(row if isinstance(row, str) else "no caption", key))
        else:
            found.settle(found.add_all(key, texts, where, group, offset))


def _parquet_columns(file: Any, path: Path, columns: Columns) -> tuple[str, str]:
    known = file.schema_arrow.names
    image = choose(path, known, columns.image, IMAGE_COLUMNS, "image_column")
    return image, choose(path, known, columns.caption, CAPTION_COLUMNS, "caption_column")


def _is_text(file: Any, path: Path, columns: Columns) -> bool:
    """Whether the image column holds paths; False: bytes, alone or in the hub's {bytes, path}. Raises DataError."""
    import pyarrow.types as types

    image, _ = _parquet_columns(file, path, columns)
    kind = file.schema_arrow.field(image).type
    kind = kind.value_type if types.is_dictionary(kind) else kind
    if types.is_string(kind) or types.is_large_string(kind):
        return True
    inner = kind.field("bytes").type if types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind
    if types.is_binary(inner) or types.is_large_binary(inner):
        return False
    hint = "Name the column of paths or bytes: --set dataset.image_column=NAME"
    raise DataError(f"{path}: column {image!r} is {kind}, neither paths nor image bytes", hint=hint)
