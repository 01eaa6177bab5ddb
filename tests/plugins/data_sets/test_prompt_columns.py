"""Columns beside the prompt, as rewards get them: every one, under its own name, with its own value."""

import datetime
import decimal
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mmalign_data.texts import PromptFiles, TextFilesConfig


def read(path: Path, **options: Any) -> Any:
    return PromptFiles.build(TextFilesConfig(path=str(path), **{"holdout": 0, **options}), "train")


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


# As competition mathematics has them (open-r1/OpenR1-Math-220k and MATH): a worked solution beside the final answer.
ROW = {
    "prompt": "What is 6 x 7?",
    "solution": r"We have $6 \times 7 = \boxed{42}$.",
    "answer": "42",
    "level": 5,
    "score": 2.0,
    "is_reasoning_complete": [True, False],
    "meta": {"source": "olympiads", "ids": [1, 2]},
    "hint": None,
}


def test_every_column_keeps_its_name_and_its_value(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([ROW]), tmp_path / "p.parquet")
    for path in (jsonl(tmp_path / "p.jsonl", ROW), tmp_path / "p.parquet"):
        example = read(path)[0]
        assert dict(example.columns) == {name: value for name, value in ROW.items() if name != "prompt"}
        assert [type(v) for v in example.columns.values()] == [type(v) for k, v in ROW.items() if k != "prompt"]
        assert (example.prompt, example.solution) == (ROW["prompt"], "42"), "the final answer, not the worked one"


def test_a_column_that_a_row_lacks_is_none_there(tmp_path: Path) -> None:
    """As `datasets` reads JSON lines; a function sees the same names for every answer."""
    data = read(jsonl(tmp_path / "p.jsonl", {"prompt": "a", "x": 1}, {"prompt": "b", "y": [2]}))
    assert [dict(data[i].columns) for i in range(2)] == [{"x": 1, "y": None}, {"x": None, "y": [2]}]
    assert data[0].solution == "" and "notes" not in data.report()


@pytest.mark.parametrize(
    ("row", "options", "solution", "said"),
    [
        ({"ground_truth": 7, "solution": "worked"}, {}, "7", "are in the column ground_truth (solution is there, too"),
        ({"answer": None, "solution": "s"}, {}, "s", "are in the column solution"),
        ({"final_answer": "f", "answer": "a"}, {}, "f", "are in the column final_answer (answer is there"),
        ({"answer": 2.0}, {}, "2", "column answer"),
        ({"answer": 2.5}, {}, "2.5", "column answer"),
        ({"answer": True}, {}, "True", "column answer"),
        ({"answer": [1, "b"]}, {}, '[1, "b"]', "column answer"),
        ({"answer": "a", "result": "r"}, {"columns": {"solution": "result"}}, "r", "are in the column solution"),
    ],
)
def test_what_is_right_is_taken_from_one_column_and_said(tmp_path: Path, row, options, solution, said) -> None:
    data = read(jsonl(tmp_path / "p.jsonl", {"prompt": "Q", **row}), **options)
    assert data[0].solution == solution
    assert said in data.report()["notes"][0]


def test_the_column_that_is_right_is_the_same_for_all_rows(tmp_path: Path) -> None:
    """A row without a final answer has no solution: its worked text is not compared in its place."""
    rows = ({"prompt": "a", "answer": None, "solution": "worked"}, {"prompt": "b", "answer": "4", "solution": "worked"})
    data = read(jsonl(tmp_path / "p.jsonl", *rows))
    assert [data[i].solution for i in range(2)] == ["", "4"]


def test_what_json_does_not_hold_is_converted_or_named(tmp_path: Path) -> None:
    row = {
        "prompt": "Q",
        "day": datetime.date(2026, 1, 2),
        "time": datetime.datetime(2026, 1, 2, 3, 4),
        "price": decimal.Decimal("1.25"),
        "logo": b"\x89PNG",
        "pictures": [{"bytes": b"\xff"}],
    }
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "p.parquet")
    data = read(tmp_path / "p.parquet")
    assert dict(data[0].columns) == {"day": "2026-01-02", "time": "2026-01-02T03:04:00", "price": 1.25}
    assert data.report()["notes"] == ["rewards do not get columns of bytes: logo, pictures"]


def test_columns_are_part_of_what_a_resumed_run_compares(tmp_path: Path) -> None:
    prints = {
        read(jsonl(tmp_path / "p.jsonl", {"prompt": "a", "x": value})).fingerprint() for value in (1, 2, "1", [1])
    }
    assert len(prints) == 4
