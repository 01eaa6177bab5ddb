"""Rows of tables, whatever they hold: CSV and TSV, JSON lines, parquet, and Arrow streams as `datasets` writes them.

    for line, row in csv_rows(path, separator=""): ...     # row: a mapping, or the reason why there is none
    column = choose(path, list(row), asked="", usual=("caption", "text"), option="caption_column")

A broken line of JSON is a row that cannot be used, and counted as one. What makes the rest doubtful (a first line that
is no JSON, a cell with too many quotes, bytes that are not UTF-8) is a DataError with the line.
"""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmalign.errors import DataError, did_you_mean

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
_MAX_LINE = 16_000_000


def table_rows(path: Path, separator: str = "") -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    """(line or row number, row by column, or the reason why there is none) of a table of any of SUFFIXES, or .arrow."""
    if path.suffix.lower() == ".arrow":
        return arrow_rows(path)
    if path.suffix.lower() == ".parquet":
        return parquet_rows(path, open_parquet(path))
    return csv_rows(path, separator) if path.suffix.lower() in (".csv", ".tsv") else json_rows(path)


def choose(path: Path, known: Sequence[str], asked: str, usual: Sequence[str], option: str) -> str:
    """The column to use: the one asked for, or the first usual one. Raises DataError that lists the columns."""
    if asked in known:
        return asked
    for name in () if asked else usual:
        matches = [column for column in known if column.strip().lower() == name]
        if matches:
            return matches[0]
    what = f"no column {asked!r}" if asked else f"none of the usual columns ({', '.join(usual)})"
    near = did_you_mean(asked, known) if asked else ""
    raise DataError(
        f"{path}: {what}; it has {', '.join(map(repr, known)) or 'none'}",
        hint=f"{near} Name it: --set dataset.{option}=NAME".strip(),
    )


def csv_rows(path: Path, separator: str) -> Iterator[tuple[int, Mapping[str, str] | str]]:
    """(line, row by column, or the reason why there is none)."""
    if not separator:
        first = next(iter(lines(path)), (1, ""))[1]
        separator = "\t" if path.suffix.lower() == ".tsv" or ("\t" in first and "," not in first) else ","
    reader = csv.reader((text for _, text in lines(path)), delimiter=separator, strict=True)
    header: list[str] = []
    try:
        for cells in reader:
            if not header:
                header = cells
                if len(set(header)) < len(header):
                    raise DataError(f"{path}: a column name appears twice: {', '.join(header)}")
            elif len(cells) == len(header):
                yield reader.line_num, dict(zip(header, cells, strict=True))
            elif cells:
                yield reader.line_num, "wrong number of cells"
    except csv.Error as error:
        hint = "Quote cells that hold the separator or a quote, or set the separator: --set dataset.separator=';'"
        raise DataError(f"{path}:{reader.line_num}: {error}", hint=hint) from error
    if not header:
        raise DataError(f"{path}: the table is empty")


def json_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    """(line, row, or the reason why there is none). A broken first line is a DataError: these are no JSON lines."""
    known = False
    for number, text in lines(path):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            if not known:
                raise DataError(
                    f"{path}:{number}: broken JSON: {error}", hint="Write one JSON object a line."
                ) from error
            yield number, "broken JSON (not one JSON object a line)"
            continue
        known = True
        yield number, row if isinstance(row, dict) else "not a JSON object"


def parquet_rows(
    path: Path, file: Any, columns: Sequence[str] | None = None
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(row number from 1, row) of an opened parquet file."""
    import pyarrow as pa

    start = 1
    try:
        for batch in file.iter_batches(columns=None if columns is None else list(columns)):
            yield from enumerate(batch.to_pylist(), start)
            start += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: damaged: {error}") from error


def arrow_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(row number from 1, row) of an Arrow stream."""
    import pyarrow as pa

    start = 1
    try:
        with pa.memory_map(str(path)) as file:
            for batch in pa.ipc.open_stream(file):
                yield from enumerate(batch.to_pylist(), start)
                start += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not an Arrow stream, or damaged: {str(error).splitlines()[0]}") from error


def open_parquet(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not readable as parquet: {str(error).splitlines()[0]}") from error


def lines(path: Path) -> Iterator[tuple[int, str]]:
    number = 0
    try:
        with open(path, "rb") as file:
            while raw := file.readline(_MAX_LINE + 1):
                number += 1
                if len(raw) > _MAX_LINE:
                    raise DataError(f"{path}:{number}: a line over {_MAX_LINE:,} bytes")
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        hint = "Convert it: iconv -f latin1 -t utf-8 OLD > NEW"
        raise DataError(f"{path}:{number}: not UTF-8 (byte 0x{error.object[error.start]:02x})", hint=hint) from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
