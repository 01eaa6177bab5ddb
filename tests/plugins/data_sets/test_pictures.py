"""Pictures as prompts and as answers, in the forms in which published data sets have them."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mmalign_data.options import TextFilesConfig
from mmalign_data.texts import CompletionFiles, PreferenceFiles, PromptFiles, RankingFiles, kind_of
from PIL import Image

from mmalign.contract.examples import ImageRef, pair_of
from mmalign.data.images import open_image
from mmalign.errors import DataError

RED, BLUE = (200, 0, 0), (0, 0, 200)


def png(colour: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "red.png").write_bytes(png(RED))
    (tmp_path / "pictures" / "blue.png").write_bytes(png(BLUE))
    return tmp_path


def lines(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def parquet(path: Path, group: int = 2, **columns: list[Any]) -> str:
    pq.write_table(pa.table(columns), path, row_group_size=group)
    return str(path)


def read(reader: Any, path: str, **options: Any) -> Any:
    return reader.build(TextFilesConfig(path=path, holdout=0, **options), "train")


def colour(ref: Any) -> tuple[int, int, int]:
    assert isinstance(ref, ImageRef)
    return open_image(ref).getpixel((0, 0))


URI = "data:image/png;base64," + base64.b64encode(png(RED)).decode()
PROMPTS = {
    "column image": {"image": "pictures/red.png"},
    "column images": {"images": ["pictures/red.png"], "prompt": "<image>"},
    "path and no bytes": {"image": {"path": "pictures/red.png", "bytes": None}},
    "part of type image": {"prompt": {"type": "image", "image": "pictures/red.png"}},
    "part of type image_url": {"prompt": {"type": "image_url", "image_url": {"url": URI}}},
    "message": {"prompt": [{"role": "user", "content": [{"type": "image", "path": "pictures/red.png"}]}]},
    "data URI": {"image": URI},
}


@pytest.mark.parametrize("form", PROMPTS)
def test_a_prompt_is_a_picture(form: str, folder: Path) -> None:
    answers = {
        "completion": "red",
        "chosen": "red",
        "rejected": "blue",
        "completions": ["red", "blue"],
        "ranks": [1, 2],
    }
    path = lines(folder / "rows.jsonl", {**PROMPTS[form], **answers})
    for reader in (CompletionFiles, PreferenceFiles, RankingFiles):
        (example,) = read(reader, path)
        assert colour(example.prompt) == RED and pair_of(example) == ("image", "text")
    (prompt,) = read(PromptFiles, lines(folder / "prompts.jsonl", {**PROMPTS[form], "answer": "red"}))
    assert colour(prompt.prompt) == RED and prompt.solution == "red" and pair_of(prompt) == ("image", "")


USER = {"role": "user", "content": [{"type": "image", "image": "pictures/red.png"}]}
BARE = {"role": "user", "content": [{"type": "image"}]}
NULLS = {"role": "user", "content": [{"type": "image", "text": None, "image": None}]}
RED_SAID = {"role": "assistant", "content": "red"}
BLUE_SAID = {"role": "assistant", "content": [{"type": "text", "text": "blue"}]}


def test_conversations_of_a_picture_and_an_answer(folder: Path) -> None:
    rows = (
        {"messages": [USER, RED_SAID]},
        {"prompt": [USER], "completion": [RED_SAID]},
        {"prompt": [BARE], "images": ["pictures/red.png"], "completion": [RED_SAID]},
        {"messages": [BARE, RED_SAID], "image": "pictures/red.png"},
        {"messages": [NULLS, RED_SAID], "image": "pictures/red.png"},
    )
    data = [
        example for n, row in enumerate(rows) for example in read(CompletionFiles, lines(folder / f"{n}.jsonl", row))
    ]
    assert [(colour(e.prompt), e.completion) for e in data] == [(RED, "red")] * 5
    pair = {"prompt": [BARE], "images": ["pictures/red.png"], "chosen": [RED_SAID], "rejected": [BLUE_SAID]}
    (example,) = read(PreferenceFiles, lines(folder / "pair.jsonl", pair))
    assert (colour(example.prompt), example.chosen, example.rejected) == (RED, "red", "blue")
    talk = {"messages": [{"role": "user", "content": "Hi"}, RED_SAID]}
    (example,) = read(CompletionFiles, lines(folder / "talk.jsonl", talk))
    assert example.prompt[0].content == "Hi", "conversations of texts stay as they are"


def test_cells_of_parquet_as_datasets_writes_them(folder: Path) -> None:
    cells = [{"bytes": png(each), "path": f"{number}.png"} for number, each in enumerate([RED, BLUE, RED, BLUE, BLUE])]
    names = ["red", "blue", "red", "blue", "blue"]
    data = read(CompletionFiles, parquet(folder / "cells.parquet", image=cells, completion=names))
    assert [(colour(e.prompt) == RED, e.completion) for e in data] == [(name == "red", name) for name in names]
    lists = [[cell] for cell in cells]
    data = read(CompletionFiles, parquet(folder / "lists.parquet", images=lists, prompt=[""] * 5, completion=names))
    assert [colour(e.prompt) == RED for e in data] == [name == "red" for name in names]
    pairs = read(
        PreferenceFiles, parquet(folder / "pairs.parquet", prompt=["a", "b"], chosen=cells[:2], rejected=cells[3:5])
    )
    assert [(colour(e.chosen), colour(e.rejected)) for e in pairs] == [(RED, BLUE), (BLUE, BLUE)]
    assert pair_of(pairs[0]) == ("text", "image")


def test_pick_a_pic(folder: Path) -> None:
    columns = {
        "caption": ["first", "second", "third"],
        "jpg_0": [png(RED), png(BLUE), png(RED)],
        "jpg_1": [png(BLUE), png(RED), png(BLUE)],
        "label_0": [1.0, 0.0, 0.5],
        "label_1": [0.0, 1.0, 0.5],
        "num_example_per_prompt": [1, 4, 2],
    }
    path = parquet(folder / "pick.parquet", **columns)
    rankings = read(RankingFiles, path)
    assert [e.ranks for e in rankings] == [(1.0, 2.0), (2.0, 1.0), (1.0, 1.0)]
    assert [colour(e.completions[0]) for e in rankings] == [RED, BLUE, RED]
    assert [e.weight for e in rankings] == [1.0, 0.25, 0.5]
    assert "an example weighs 1 / num_example_per_prompt in the loss" in rankings.report()["notes"]
    with pytest.raises(DataError, match="a tie, which is no preference"):
        read(PreferenceFiles, path)
    pairs = read(PreferenceFiles, path, max_bad=0.5)
    assert [(e.prompt, colour(e.chosen)) for e in pairs] == [("first", RED), ("second", RED)]
    assert [e.weight for e in pairs] == [1.0, 0.25]
    assert pairs.report()["skipped"] and kind_of(path, {}) in ("ranking", "preference")


@pytest.mark.parametrize("share", [0, -1, "many", [2]])
def test_a_weight_is_a_number_above_0(folder: Path, share: Any) -> None:
    row = {"prompt": "a", "chosen": "b", "rejected": "c"}
    path = lines(folder / "pairs.jsonl", {**row, "num_example_per_prompt": share}, row, {**row, "weight": 7})
    with pytest.raises(DataError, match="num_example_per_prompt is not a number above 0"):
        read(PreferenceFiles, path)
    assert [e.weight for e in read(PreferenceFiles, path, max_bad=0.5)] == [1.0, 1.0]


def test_pictures_as_prompts_and_as_answers_do_not_mix(folder: Path) -> None:
    one = {"image": "pictures/red.png", "chosen": "red", "rejected": "blue"}
    other = {"prompt": "red", "chosen": {"path": "pictures/red.png"}, "rejected": {"path": "pictures/blue.png"}}
    with pytest.raises(DataError, match=r"pictures are prompts \(.*rows.jsonl:1\) and answers \(.*rows.jsonl:3\)"):
        read(PreferenceFiles, lines(folder / "rows.jsonl", one, one, other))


def test_hpd(folder: Path) -> None:
    rows = (
        {"prompt": "one", "image_path": ["blue.png", "red.png"], "human_preference": [0, 1]},
        {"prompt": "two", "file_path": ["red.png", "blue.png", "red.png"], "rank": [2, 3, 1]},
    )
    data = read(RankingFiles, lines(folder / "hpd.jsonl", *rows), image_root=str(folder / "pictures"))
    assert [e.ranks for e in data] == [(2.0, 1.0), (2.0, 3.0, 1.0)]
    assert [colour(e.completions[0]) for e in data] == [BLUE, RED]


WRONG = {
    "a picture outside of": {"image": "../elsewhere.png", "completion": "x"},
    "a web address": {"image": "https://example.org/a.png", "completion": "x"},
    "a picture and a text": {"image": "pictures/red.png", "prompt": "What is it?", "completion": "x"},
    "several pictures": {
        "prompt": [{"role": "user", "content": [{"type": "image", "path": "pictures/red.png"}] * 2}],
        "completion": "x",
    },
    "holds several pictures": {"images": ["pictures/red.png", "pictures/blue.png"], "completion": "x"},
    "is not base64": {"image": "data:image/png;base64,???", "completion": "x"},
    "pictures as answers to a picture": {"image": "pictures/red.png", "completion": {"path": "pictures/blue.png"}},
    "holds no picture": {"image": 7, "completion": "x"},
    "an empty answer": {"image": "pictures/red.png", "completion": " "},
}


@pytest.mark.parametrize("why", WRONG)
def test_what_cannot_be_used_is_counted_with_the_reason(why: str, folder: Path) -> None:
    path = lines(folder / "rows.jsonl", WRONG[why], {"image": "pictures/blue.png", "completion": "blue"})
    with pytest.raises(DataError, match=why):
        read(CompletionFiles, path)
    data = read(CompletionFiles, path, max_bad=0.5)
    assert len(data) == 1 and any(why in reason for reason in data.report()["skipped"])


def test_one_picture_as_both_answers_is_no_preference(folder: Path) -> None:
    picture = {"path": "pictures/red.png"}
    with pytest.raises(DataError, match="chosen equals rejected"):
        read(PreferenceFiles, lines(folder / "rows.jsonl", {"prompt": "x", "chosen": picture, "rejected": picture}))


def test_columns_of_pictures_can_be_ignored(folder: Path) -> None:
    row = {"image": "pictures/red.png", "prompt": "What is it?", "completion": "x"}
    (example,) = read(CompletionFiles, lines(folder / "rows.jsonl", row), pictures=False)
    assert example.prompt == "What is it?"
