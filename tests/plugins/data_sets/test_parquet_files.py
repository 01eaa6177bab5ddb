"""Parquet files of a few bytes that stand for gigabytes are refused before they are unpacked; others read as ever."""

import random
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mmalign_data import parquet_files
from mmalign_data.image_text import ImageTextConfig, ImageTextFiles
from mmalign_data.parquet_files import open_parquet, parquet_rows
from mmalign_data.texts import CompletionFiles, TextFilesConfig

from mmalign.errors import DataError


def repeated(text: str, rows: int) -> pa.Array:
    """One entry of a dictionary in all rows."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([text]))


def in_lists(values: pa.Array) -> pa.Array:
    """Conversations of one message each."""
    messages = pa.StructArray.from_arrays([repeated("user", len(values)), values], ["role", "content"])
    return pa.ListArray.from_arrays(pa.array(range(len(values) + 1), pa.int32()), messages)


def zeros(number: int) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array([0, number], pa.int32()), pa.array(np.zeros(number, np.int8)))


BOMBS = {
    "a dictionary's long text in many rows": lambda: {
        "prompt": repeated("y" * 200_000, 2000), "completion": repeated("a", 2000)
    },
    "the same in messages": lambda: {"messages": in_lists(repeated("y" * 200_000, 2000))},
    "many equal rows": lambda: {"prompt": repeated("x", 1_500_000), "completion": repeated("a", 1_500_000)},
    "a long list": lambda: {"prompt": ["q"], "completion": ["a"], "n": zeros(3_000_000)},
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_that_unpacks_to_much_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "bomb.parquet"
    pq.write_table(pa.table(BOMBS[name]()), path, compression="zstd")
    assert path.stat().st_size < 30_000
    tracemalloc.start()
    before = pa.total_allocated_bytes()
    with pytest.raises(DataError, match=r"its [\d,]+ bytes unpack to over"):
        CompletionFiles.build(TextFilesConfig(path=str(path), holdout=0), "train")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000_000 and pa.total_allocated_bytes() - before < 20_000_000


def test_one_long_text_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(parquet_files, "_FREE", 1_000_000)
    path = tmp_path / "long.parquet"
    table = pa.table({"prompt": ["z" * 5_000_000], "completion": ["a"]})
    pq.write_table(table, path, compression="zstd", use_dictionary=False)
    with pytest.raises(DataError, match="unpack to over 5,000,"):
        CompletionFiles.build(TextFilesConfig(path=str(path), holdout=0), "train")


def test_an_image_in_many_rows_is_held_once(tmp_path: Path) -> None:
    path = tmp_path / "images.parquet"
    images = pa.DictionaryArray.from_arrays(pa.array(np.zeros(5000, np.int32)), pa.array([b"i" * 300_000]))
    rng = random.Random(0)
    captions = ["".join(rng.choices("abcdefghij ", k=40)) + "x" for _ in range(5000)]
    pq.write_table(pa.table({"image": images, "caption": captions}), path)
    data = ImageTextFiles.build(ImageTextConfig(path=str(path), holdout=0), "train")
    assert data is not None and len(data) == 5000
    before = pa.total_allocated_bytes()
    assert data[4999].image.data == b"i" * 300_000
    assert pa.total_allocated_bytes() - before < 50_000_000, "1.5 GB with each image written out"


@pytest.mark.parametrize("row_group_size", [7, 1000])
def test_what_is_read_is_what_was_written(tmp_path: Path, row_group_size: int) -> None:
    """Of every nesting, nulls included, in several slices and row groups."""
    rng = random.Random(1)
    rows = [
        {
            "prompt": rng.choice(["same", f"text {n}", None]),
            "messages": [{"role": "user", "content": rng.choice(["hi", f"{n}"])} for _ in range(rng.randrange(3))],
            "tags": rng.choice([None, [], ["a", None, "b"]]),
            "bytes": rng.choice([None, b"\xff\x00"]),
            "number": n,
        }
        for n in range(100)
    ]
    path = tmp_path / "t.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=row_group_size)
    assert list(parquet_rows(path, open_parquet(path))) == list(enumerate(rows, 1))
    assert [row for _, row in parquet_rows(path, open_parquet(path), ["tags"])] == [{"tags": r["tags"]} for r in rows]


def test_texts_that_compress_well_are_read(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    rows = {"prompt": [f"the same words again and again {n}" * 20 for n in range(20_000)], "completion": ["a"] * 20_000}
    pq.write_table(pa.table(rows), path, compression="zstd")
    assert path.stat().st_size < 600_000
    assert len(list(parquet_rows(path, open_parquet(path)))) == 20_000
