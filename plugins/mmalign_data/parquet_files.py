"""Reads rows of parquet files. A few bytes may unpack to very many, so the unpacked size is computed before unpacking.

    file = open_parquet(path)                        # refused by its metadata where it would unpack to too much
    for number, row in parquet_rows(path, file): ...

A file may unpack to 64 MB or to a thousand times its size; texts hardly ever compress to a fiftieth. Lengths come from
the metadata (compressed pages, runs of values). One entry of a dictionary may be in any number of rows, so dictionaries
and indices are read too, without writing them out.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmalign.errors import BadSample, DataError

_FREE = 64_000_000  # bytes that any file may unpack to
_RATIO = 1000
_VALUE = 32  # least bytes of a Python object beside its text
_AT_ONCE = 64_000_000  # bytes of texts held as Python objects at a time
_MOST_ROWS, _FEWEST_ROWS = 65_536, 4  # decoded at a time


def open_parquet(path: Path) -> Any:
    """A pyarrow.parquet.ParquetFile; raises DataError for one that is damaged, or whose metadata promise too much."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not readable as parquet: {str(error).splitlines()[0]}") from error
    groups = (file.metadata.row_group(i) for i in range(file.metadata.num_row_groups))
    chunks = (group.column(j) for group in groups for j in range(group.num_columns))
    claimed = sum(max(0, chunk.total_uncompressed_size) + _VALUE * max(0, chunk.num_values) for chunk in chunks)
    _check(path, claimed)
    return file


def parquet_rows(
    path: Path, file: Any, columns: Sequence[str] | None = None
) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    """(row number from 1, row or the reason why there is none) of an opened file. Raises DataError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    start, unpacked = 1, 0
    names = None if columns is None else list(columns)
    try:
        reader = pq.ParquetFile(path, read_dictionary=text_columns(file))
        for group in range(reader.num_row_groups):
            rows_at_once = _rows_at_once(file, group)
            for batch in reader.iter_batches(rows_at_once, row_groups=[group], columns=names):
                size = sum(_bytes_of(column) for column in batch.columns)
                unpacked += size
                _check(path, unpacked)
                step = max(1, int(batch.num_rows * min(1.0, _AT_ONCE / max(1, size))))
                for first in range(0, batch.num_rows, step):
                    yield from enumerate(rows_of(_written_out(batch.slice(first, step))), start + first)
                start += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: damaged: {error}") from error


def picture_bytes(path: str, column: str, group: int, row: int, index: int = -1) -> bytes:
    """The bytes in a cell, or in {bytes, path} there. index: in a list in the cell; -1: none. Raises BadSample."""
    import pyarrow as pa

    where = f"{path}: row {row} of row group {group}"
    try:
        value: Any = _row_group(path, column, group)[row].as_py()
    except (OSError, pa.ArrowException, IndexError, DataError) as error:
        raise BadSample(f"{where}: {error}") from error
    value = value[index] if index >= 0 and isinstance(value, list) else value
    value = value.get("bytes") if isinstance(value, Mapping) else value
    if not isinstance(value, bytes):
        raise BadSample(f"{where}: no image bytes")
    return value


@functools.lru_cache(maxsize=4)
def _row_group(path: str, column: str, group: int) -> Any:
    """The image column of one row group. Random access decodes a whole group, so small groups (100 rows) are
    quickest."""
    import pyarrow.parquet as pq

    # As dictionary and indices, because one image may be in any number of rows.
    file = pq.ParquetFile(path, read_dictionary=text_columns(open_parquet(Path(path))))
    return file.read_row_group(group, columns=[column], use_threads=False).column(column)


def text_columns(file: Any) -> list[str]:
    """The columns of texts or bytes that pyarrow can read as dictionary and indices; inside lists it cannot always."""
    return [leaf.path for leaf in _text_leaves(file) if "." not in leaf.path]


def _text_leaves(file: Any) -> list[Any]:
    leaves = (file.schema.column(index) for index in range(len(file.schema)))
    return [leaf for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]


def _rows_at_once(file: Any, group: int) -> int:
    """Few rows where texts are inside lists: pyarrow writes these out before their length is known, and the only bound
    on a text is what its column unpacks to."""
    nested = {leaf.path for leaf in _text_leaves(file) if "." in leaf.path}
    chunks = [file.metadata.row_group(group).column(j) for j in range(file.metadata.num_columns)]
    longest = sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema in nested)
    return min(_MOST_ROWS, max(_FEWEST_ROWS, _AT_ONCE * 4 // longest)) if longest > 0 else _MOST_ROWS


def _written_out(batch: Any) -> Any:
    import pyarrow as pa

    columns = [
        column.dictionary_decode() if pa.types.is_dictionary(column.type) else column for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def rows_of(batch: Any) -> Iterator[Mapping[str, Any] | str]:
    """The rows of a record batch, or the reason why one cannot be used."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for index in range(batch.num_rows):
            try:
                row: Mapping[str, Any] | str = batch.slice(index, 1).to_pylist()[0]
            except UnicodeDecodeError:
                row = "a text is not UTF-8"
            yield row


def _check(path: Path, size: int) -> None:
    packed = path.stat().st_size
    if size > _FREE + _RATIO * packed:
        raise DataError(
            f"{path}: its {packed:,} bytes unpack to over {size:,}",
            hint="No table of texts does that. If it is yours, write it as JSON lines.",
        )


def _bytes_of(array: Any) -> int:
    """Bytes of an array with every text written out."""
    import pyarrow as pa
    from pyarrow.compute import call_function

    kind = array.type
    if pa.types.is_dictionary(kind):
        lengths = call_function("binary_length", [array.dictionary])
        return (call_function("sum", [lengths.take(array.indices)]).as_py() or 0) + len(array)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return array.nbytes if array.values is None else 4 * len(array) + _bytes_of(array.flatten())
    if pa.types.is_struct(kind):
        return sum(_bytes_of(field) for field in array.flatten())
    return array.nbytes
