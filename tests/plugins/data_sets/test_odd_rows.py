"""Rows that no reader can use are counted, and errors name the next step."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mmalign_data.image_text import ImageTextConfig, ImageTextFiles
from mmalign_data.texts import CompletionFiles, PromptFiles, TextFilesConfig

from mmalign.cli import run
from mmalign.errors import DataError, UsageError
from mmalign.train.layers import parse_set

GOOD = {"prompt": "whole \U0001f600", "completion": "x"}


def read(cls: Any, path: Path, **options: Any) -> Any:
    return cls.build(TextFilesConfig(path=str(path), **{"holdout": 0, "max_bad": 1, **options}), "train")


@pytest.mark.parametrize("escape", [r"\ud83d", r"\uDE00", r"\ude00\ud83d"])
@pytest.mark.parametrize("place", ["prompt", "completion", "other", "key"])
def test_half_a_character_in_json_is_a_row_that_cannot_be_used(tmp_path: Path, escape: str, place: str) -> None:
    bad = json.dumps({**GOOD, "other": "?"}).replace('"other"', '"?"' if place == "key" else '"other"')
    values = {"prompt": "whole", "completion": '"x"', "other": '"?"', "key": '"?"'}
    bad = bad.replace(values[place], values[place][:-1] + escape + values[place][-1], 1)
    assert escape in bad
    (tmp_path / "a.jsonl").write_text(f"{json.dumps(GOOD)}\n{bad}\n")
    data = read(CompletionFiles, tmp_path / "a.jsonl")
    assert len(data) == 1 and data[0].prompt == GOOD["prompt"]
    assert sum(data.report()["skipped"].values()) == 1 and "half of a character" in next(iter(data.report()["skipped"]))
    assert len(read(PromptFiles, tmp_path / "a.jsonl")) == 1


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_text_of_a_table_that_is_not_utf8_is_a_row_that_cannot_be_used(tmp_path: Path, suffix: str) -> None:
    offsets = np.array([0, 1, 3, 4], np.int32)
    broken = pa.StringArray.from_buffers(3, pa.py_buffer(offsets.tobytes()), pa.py_buffer(b"a\xed\xa0b"))
    table = pa.table({"prompt": broken, "completion": ["x", "y", "z"]})
    path = tmp_path / f"a.{suffix}"
    if suffix == "parquet":
        pq.write_table(table, path)
    else:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    data = read(CompletionFiles, path)
    assert [data[i].key for i in range(len(data))] == [f"a.{suffix}:1", f"a.{suffix}:3"]
    assert data.report()["skipped"] == {"a text is not UTF-8": 1}


@pytest.mark.parametrize("index", ["", "Unnamed: 0"])
@pytest.mark.parametrize("separator", [",", "\t"])
def test_the_index_that_pandas_writes_is_never_a_guess(tmp_path: Path, index: str, separator: str) -> None:
    """open_clip #1083 and #789: the unnamed first column was taken for the image, "0", "1", ..."""
    path = tmp_path / "pairs.csv"
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes(b"x")
    lines = [[index, "filepath", "title"], ["0", "0.png", "a cat"], ["1", "1.png", "a dog"]]
    path.write_text("".join(separator.join(line) + "\n" for line in lines))
    data = ImageTextFiles.build(ImageTextConfig(path=str(path), holdout=0), "train")
    assert [(Path(data[i].image.path).name, data[i].text) for i in range(2)] == [("0.png", "a cat"), ("1.png", "a dog")]
    path.write_text("".join(separator.join(line[:2]) + "\n" for line in lines))
    with pytest.raises(DataError, match=r"none of the usual columns \(caption"):
        ImageTextFiles.build(ImageTextConfig(path=str(path), holdout=0), "train")
    (tmp_path / "p.csv").write_text(f"{index},prompt,answer\n0,Q,4\n")
    assert "" not in read(PromptFiles, tmp_path / "p.csv")[0].columns


@pytest.mark.parametrize(
    ("objective", "name", "content", "expected"),
    [
        ("dpo", "c.jsonl", json.dumps(GOOD), "Objectives for completion data: sft. Try: --objective sft"),
        ("sft", "p.jsonl", json.dumps({"prompt": "Q", "chosen": "A", "rejected": "B"}), "preference data: cpo, dpo"),
        ("sft", "c.csv", "prompt;completion\nQ;A", "--set dataset.separator=';'"),
        ("dpo", "c.csv", "prompt|chosen|rejected\nQ|A|B", "--set dataset.separator='|'"),
        ("contrastive", "c.csv", "image;caption\na.png;A", "--set dataset.separator=';'"),
    ],
)
def test_data_of_another_kind_or_separator_name_what_to_do(
    tmp_path: Path, capsys, objective: str, name: str, content: str, expected: str
) -> None:
    (tmp_path / name).write_text(content + "\n")
    code = run(["train", "--objective", objective, "--dataset", str(tmp_path / name), "--out", str(tmp_path / "run")])
    err = capsys.readouterr().err
    assert code == 3 and expected in err, err


@pytest.mark.parametrize(
    ("option", "expected"),
    [("steps=5", "train.steps?"), ("batch_size=5", "train.batch_size"), ("max_tokens=3", "rollout.max_tokens?"),
     ("num_workers=0", "data.num_workers?"), ("trian=1", "Did you mean train?")],
)  # fmt: skip
def test_an_option_without_its_section_is_told_which(option: str, expected: str) -> None:
    with pytest.raises(UsageError, match=r"unknown section") as caught:
        parse_set(option)
    assert expected in caught.value.message
