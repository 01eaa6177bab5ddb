"""Rows of any table: CSV and TSV, JSON lines, parquet, and Arrow streams as `datasets` writes them.

    for line, row in csv_rows(path, separator=""): ...     # row: a mapping, or the reason why there is none
    column = choose(path, list(row), asked="", usual=("caption", "text"), option="caption_column")

A broken line of JSON counts as a row that cannot be used. A fault that makes the rest doubtful (a first line that is
not JSON, a cell with too many quotes, bytes that are not UTF-8) is a DataError with the line.
"""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmalign.errors import DataError, did_you_mean
from mmalign.reading import MAX_DEPTH, is_text, open_file, parse_json, read_bytes
from mmalign_data.parquet_files import open_parquet, parquet_rows, rows_of

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
_MAX_LINE = 16_000_000
_MAX_LIST = 2_000_000_000  # bytes of a JSON list, which is read whole; Alpaca's has 23 million
_RECODE = "Convert it: iconv -f latin1 -t utf-8 OLD > NEW"
_BLANKS = 1000  # bytes searched for the first that is not blank
HALF_CHARACTER = "a text holds half of a character (a lone surrogate, such as \\ud83d)"


def table_rows(path: Path, separator: str = "") -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    """(line or row number, row by column or the reason why there is none) of a table with any of SUFFIXES, or
    .arrow."""
    if path.suffix.lower() == ".arrow":
        return arrow_rows(path)
    if path.suffix.lower() == ".parquet":
        return parquet_rows(path, open_parquet(path))
    return csv_rows(path, separator) if path.suffix.lower() in (".csv", ".tsv") else json_rows(path)


def choose(path: Path, known: Sequence[str], asked: str, usual: Sequence[str], option: str) -> str:
    """The column to use: the one asked for, or the first of the usual ones. Raises DataError that lists the columns."""
    if asked and asked in known:
        return asked
    for name in () if asked else usual:
        matches = [column for column in known if column.strip().lower() == name]
        if matches:
            return matches[0]
    what = f"no column {asked!r}" if asked else f"none of the usual columns ({', '.join(usual)})"
    near = did_you_mean(asked, known) if asked else ""
    raise DataError(
        f"{path}: {what}; it has {', '.join(map(repr, known)) or 'none'}",
        hint=separator_hint(known) or f"{near} Name it: --set dataset.{option}=NAME".strip(),
    )


def separator_hint(columns: Sequence[str]) -> str:
    """The option to set where one column was read that looks like several, or ""."""
    if len(columns) > 1:
        return ""
    name = "".join(columns)
    separator = next((character for character in ";|\t," if character in name), "")
    return f"It looks like several columns in one: --set dataset.separator={separator!r}" if separator else ""


def csv_rows(path: Path, separator: str) -> Iterator[tuple[int, Mapping[str, str] | str]]:
    """(line, row by column or the reason why there is none). A column without a name, as pandas writes its index, is
    left out, because nobody can refer to it."""
    if not separator:
        first = next(iter(lines(path)), (1, ""))[1]
        separator = "\t" if path.suffix.lower() == ".tsv" or ("\t" in first and "," not in first) else ","
    reader = csv.reader((text for _, text in lines(path)), delimiter=separator, strict=True)
    header: list[str] = []
    try:
        for cells in reader:
            if not header:
                header = cells
                named = [name for name in header if name.strip()]
                if len(set(named)) < len(named):
                    raise DataError(f"{path}: a column name appears twice: {', '.join(header)}")
            elif len(cells) == len(header):
                pairs = zip(header, cells, strict=True)
                yield reader.line_num, {name: cell for name, cell in pairs if name.strip()}
            elif cells:
                yield reader.line_num, "wrong number of cells"
    except csv.Error as error:
        hint = "Quote cells that contain the separator or a quote, or set the separator: --set dataset.separator=';'"
        raise DataError(f"{path}:{reader.line_num}: {error}", hint=hint) from error
    if not header:
        raise DataError(f"{path}: the table is empty")


def json_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    """(line, row or the reason why there is none) of JSON lines, or (number from 1, row) of one list of objects. A
    broken first line is a DataError, because such a file is not JSON lines."""
    if _starts_a_list(path):
        yield from _list_rows(path)
        return
    known = False
    for number, text in lines(path):
        if not text.strip():
            continue
        try:
            row = parse_json(text)
        except ValueError as error:
            if not known:
                raise DataError(
                    f"{path}:{number}: broken JSON: {error}", hint="Write one JSON object a line."
                ) from error
            yield number, "broken JSON (not one JSON object a line)"
            continue
        known = True
        yield number, _checked(row, text)


def _checked(row: Any, text: str) -> Mapping[str, Any] | str:
    if not isinstance(row, dict):
        return "not a JSON object"
    return HALF_CHARACTER if "\\u" in text and not is_text(row) else row


def _starts_a_list(path: Path) -> bool:
    try:
        with open_file(path) as file:
            return file.read(_BLANKS).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error


def _list_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    """Rows of a file that is one JSON list, as Alpaca and ShareGPT were published; it is read as a whole."""
    if path.stat().st_size > _MAX_LIST:
        raise DataError(
            f"{path}: a JSON list of over {_MAX_LIST:,} bytes", hint="Write one JSON object a line, in a .jsonl file."
        )
    try:
        text = read_bytes(path, _MAX_LIST).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 (byte {error.start:,})", hint=_RECODE) from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    decoder, place, number = json.JSONDecoder(), text.index("[") + 1, 0
    while True:
        place = _after_blanks(text, place)
        if text[place : place + 1] == "]":
            break
        number += 1
        try:
            row, end = decoder.raw_decode(text, place)
            if text.count("[", place, end) + text.count("{", place, end) > MAX_DEPTH:
                row = parse_json(text[place:end])  # refuses values nested too deep
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: broken JSON in object {number} of the list: {error}") from error
        yield number, _checked(row, text[place:end])
        place = _after_blanks(text, end)
        if text[place : place + 1] == ",":
            place += 1
        elif text[place : place + 1] != "]":
            raise DataError(f"{path}: broken JSON behind object {number} of the list: no comma and no end")
    if text[place + 1 :].strip():
        raise DataError(f"{path}: broken JSON: more behind the list", hint="Write one JSON object a line.")


def _after_blanks(text: str, place: int) -> int:
    while text[place : place + 1].isspace():
        place += 1
    return place


def arrow_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    """(row number from 1, row or the reason why there is none) of an Arrow stream."""
    import pyarrow as pa

    start = 1
    try:
        with pa.memory_map(str(path)) as file:
            for batch in pa.ipc.open_stream(file):
                yield from enumerate(rows_of(batch), start)
                start += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not an Arrow stream, or damaged: {str(error).splitlines()[0]}") from error


def lines(path: Path) -> Iterator[tuple[int, str]]:
    number = 0
    try:
        with open_file(path) as file:
            while raw := file.readline(_MAX_LINE + 1):
                number += 1
                if len(raw) > _MAX_LINE:
                    raise DataError(f"{path}:{number}: a line over {_MAX_LINE:,} bytes")
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        what = f"not UTF-8 (byte 0x{error.object[error.start]:02x})"
        raise DataError(f"{path}:{number}: {what}", hint=_RECODE) from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
