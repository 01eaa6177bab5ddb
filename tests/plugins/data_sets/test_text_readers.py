"""Readers of texts, answers, preferences and rankings: TRL's columns, pieces of documents, and rows that do not fit."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mmalign_data.normal import FORMATS, looks_like
from mmalign_data.texts import (
    CompletionFiles,
    PreferenceFiles,
    PromptFiles,
    RankingFiles,
    TextDocuments,
    TextFilesConfig,
)

from mmalign.contract.examples import Message
from mmalign.errors import DataError


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(cls: Any, path: Path, split: str = "train", **options: Any) -> Any:
    return cls.build(TextFilesConfig(path=str(path), **{"holdout": 0, **options}), split)


def test_trl_columns_are_read_as_they_are(tmp_path: Path) -> None:
    user, bot = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}
    data = read(
        CompletionFiles,
        jsonl(tmp_path / "a.jsonl", {"prompt": "Q", "completion": "A"}, {"prompt": [user], "completion": [bot]})
    )  # fmt: skip
    assert (data[0].prompt, data[0].completion, data[0].key) == ("Q", "A", "a.jsonl:1")
    assert data[1].prompt == (Message("user", "Q"),) and data[1].completion == (Message("assistant", "A"),)
    data = read(CompletionFiles, jsonl(tmp_path / "b.jsonl", {"messages": [user, bot, user, bot]}))
    assert len(data[0].prompt) == 1 and [m.role for m in data[0].completion] == ["assistant", "user", "assistant"]

    other = {"role": "assistant", "content": "B"}
    rows = ({"prompt": "Q", "chosen": "A", "rejected": "B"}, {"chosen": [user, bot], "rejected": [user, other]})
    data = read(PreferenceFiles, jsonl(tmp_path / "c.jsonl", *rows))
    assert (data[0].chosen, data[0].rejected) == ("A", "B")
    assert data[1].prompt == (Message("user", "Q"),) and data[1].rejected == (Message("assistant", "B"),)

    row = {"prompt": "Q", "completions": ["A", "B", "C"], "ranks": [1, 2, 2]}
    data = read(RankingFiles, jsonl(tmp_path / "d.jsonl", row))
    assert data[0].completions == ("A", "B", "C") and data[0].ranks == (1.0, 2.0, 2.0)


def test_prompts_alone_or_of_tables_with_answers(tmp_path: Path) -> None:
    user, bot = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}
    chat = (Message("user", "Q"),)
    for row, prompt in (
        ({"prompt": "Q", "id": 3}, "Q"),
        ({"prompt": [user]}, chat),
        ({"prompt": "Q", "chosen": "A", "rejected": "B"}, "Q"),
        ({"prompt": "Q", "chosen": "A", "rejected": "A"}, "Q"),  # of no use as a pair
        ({"messages": [user, bot, user, bot]}, chat),
        ({"messages": [user]}, chat),
        ({"chosen": [user, bot], "rejected": [user, {**bot, "content": "B"}]}, chat),
    ):
        data = read(PromptFiles, jsonl(tmp_path / "p.jsonl", row))
        assert (data[0].prompt, data[0].key, data[0].answers()) == (prompt, "p.jsonl:1", ())
    with pytest.raises(DataError, match=r"prompt data needs the columns prompt or messages or chosen and rejected"):
        read(PromptFiles, jsonl(tmp_path / "p.jsonl", {"text": "x"}))


def test_tables_of_every_kind_give_the_same(tmp_path: Path) -> None:
    rows = [{"prompt": f"Q{i}, and", "completion": f'"A{i}"\nmore'} for i in range(5)]
    jsonl(tmp_path / "t.jsonl", *rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    for name, separator in (("t.csv", ","), ("t.tsv", "\t")):
        with (tmp_path / name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["prompt", "completion"], delimiter=separator)
            writer.writeheader()
            writer.writerows(rows)
    for name in ("t.jsonl", "t.parquet", "t.csv", "t.tsv"):
        data = read(CompletionFiles, tmp_path / name)
        assert [(e.prompt, e.completion) for e in map(data.__getitem__, range(5))] == [tuple(r.values()) for r in rows]


def test_columns_under_other_names(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"question": "Q", "answer": "A"})
    with pytest.raises(DataError, match=r"columns completion and prompt or messages.*; it has question, answer"):
        read(CompletionFiles, path)
    data = read(CompletionFiles, path, columns={"prompt": "question", "completion": "answer"})
    assert (data[0].prompt, data[0].completion) == ("Q", "A")


@pytest.mark.parametrize(
    ("kind", "row", "reason"),
    [
        ("text", {"text": " "}, "empty text"),
        ("text", {"text": 3}, "not a string"),
        ("completion", {"prompt": "Q", "completion": ""}, "an empty answer"),
        ("completion", {"prompt": "Q", "completion": None}, "neither a string"),
        ("completion", {"prompt": "Q", "completion": [{"role": "assistant", "content": "A"}]}, "mix text and messages"),
        ("completion", {"messages": [{"role": "user", "content": "Q"}]}, "no turn of the assistant"),
        ("completion", {"messages": "Q"}, "messages are text"),
        ("completion", {"messages": {"role": "user"}}, "a dict, neither"),
        (
            "completion",
            {"messages": [{"role": "user", "content": None}]},
            "content is null in a message of role 'user'",
        ),
        ("completion", {"messages": ["Q"]}, "a message is not"),
        ("completion", {"messages": [{"role": "robot", "content": "Q"}]}, "known roles"),
        ("prompt", {"prompt": " "}, "no prompt"),
        ("prompt", {"prompt": None}, "neither a string"),
        ("prompt", {"prompt": [{"role": "robot", "content": "Q"}]}, "unknown role 'robot'; known roles: system"),
        ("prompt", {"chosen": "A", "rejected": "B"}, "no prompt"),
        ("preference", {"prompt": "Q", "chosen": "A", "rejected": "A"}, "chosen equals rejected"),
        ("ranking", {"prompt": "Q", "completions": ["A"], "ranks": [1]}, "fewer than two"),
        ("ranking", {"prompt": "Q", "completions": ["A", "B"], "ranks": [1]}, "one length"),
        ("ranking", {"prompt": "Q", "completions": ["A", "B"], "ranks": [1, "2"]}, "not a number"),
        *(
            ("ranking", {"prompt": "Q", "completions": ["A", "B"], "ranks": [1, rank]}, "a rank is not finite")
            for rank in (math.nan, math.inf, -math.inf, 10**400)
        ),
    ],
)
def test_rows_that_cannot_be_used_say_why(kind, row, reason) -> None:
    found = FORMATS[kind].normalise(row)
    assert isinstance(found, str) and reason in found


def test_bad_rows_are_counted_and_too_many_stop_the_run(tmp_path: Path) -> None:
    good, bad = {"text": "fine"}, {"text": ""}
    path = jsonl(tmp_path / "a.jsonl", *[good] * 9, bad)
    with pytest.raises(DataError, match=r"1 of 10 rows cannot be used; dataset.max_bad=0.01\n  a.jsonl:10: empty text"):
        read(TextDocuments, path)
    data = read(TextDocuments, path, max_bad=0.2)
    counts = {"kept": 9, "skipped": {"empty text": 1}, "source": str(path)}
    assert data.report() == {**counts, "ignored": {}, "entries": {"read": 9, "empty text": 1}}


def test_files_that_cannot_be_read_name_the_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n' * 6 + "{broken\n")
    with pytest.raises(DataError, match=r"1 of 7 rows cannot be used.*\n  a.jsonl:7: broken JSON"):
        read(TextDocuments, tmp_path / "a.jsonl")
    ((reason, count),) = read(TextDocuments, tmp_path / "a.jsonl", max_bad=0.2).report()["skipped"].items()
    assert count == 1 and reason.startswith("broken JSON"), reason
    (tmp_path / "d.json").write_text('[\n{"text": "a"},\n' + '{"text": "a"}\n' * 999)
    with pytest.raises(DataError, match=r"d.json: broken JSON behind object 2"):  # no list, whatever may be bad
        read(TextDocuments, tmp_path / "d.json", max_bad=0.9)
    (tmp_path / "b.txt").write_bytes(b"fine\n\xff\xfe\n")
    with pytest.raises(DataError, match=r"b.txt:2: not UTF-8"):
        read(TextDocuments, tmp_path / "b.txt")
    (tmp_path / "c.jsonl").write_text("")
    with pytest.raises(DataError, match=r"no text examples"):
        read(TextDocuments, tmp_path / "c.jsonl")
    with pytest.raises(DataError, match="no such file"):
        read(TextDocuments, tmp_path / "none.jsonl")
    with pytest.raises(DataError, match=r"holds no known form of completion data"):
        read(CompletionFiles, tmp_path / "b.txt")


def test_documents_keep_every_word_in_pieces(tmp_path: Path) -> None:
    paragraphs = [" ".join(f"word{i}-{j}" for j in range(i % 23 + 1)) for i in range(120)]
    (tmp_path / "a.txt").write_text("\n\n".join(paragraphs) + "\n")
    for piece in (40, 300, 5000):
        data = read(TextDocuments, tmp_path / "a.txt", piece=piece)
        texts = [data[i].text for i in range(len(data))]
        assert all(0 < len(text) <= piece for text in texts)
        assert "".join("".join(texts).split()) == "".join("".join(paragraphs).split())
    keys = [int(data[i].key.rpartition(":")[2]) for i in range(len(data))]
    assert keys == sorted(keys) and keys[0] == 1


def test_all_that_is_said_of_a_prompt_is_on_one_side(tmp_path: Path) -> None:
    rows = [{"prompt": f"Q{i % 40}", "chosen": f"A{i}", "rejected": f"B{i}"} for i in range(400)]
    path = jsonl(tmp_path / "a.jsonl", *rows)
    train, validation = (read(PreferenceFiles, path, split, holdout=0.3) for split in ("train", "validation"))
    sides = [{part[i].prompt for i in range(len(part))} for part in (train, validation)]
    assert not sides[0] & sides[1] and len(train) + len(validation) == 400 and min(map(len, sides)) > 3
    assert train.fingerprint() != validation.fingerprint()
    own = jsonl(tmp_path / "own.jsonl", rows[0])
    both = {"validation": str(own), "holdout": 0.3}
    assert (
        len(read(PreferenceFiles, path, **both)) == 400 and len(read(PreferenceFiles, path, "validation", **both)) == 1
    )
    assert read(PreferenceFiles, path, "validation") is None
    assert read(PreferenceFiles, path, "test", holdout=0.3) is None and read(PreferenceFiles, path, "test") is None
    with pytest.raises(DataError, match=r"no part 'tset'\nParts: train, validation, test"):
        read(PreferenceFiles, path, "tset")


def test_columns_tell_the_kind() -> None:
    assert looks_like(["prompt", "chosen", "rejected"]) == "preference"
    assert looks_like(["messages"]) == "completion" and looks_like(["text", "id"]) == "text"
    assert looks_like(["prompt", "id"]) == "prompt" and looks_like(["prompt", "text"]) == "text"
    assert looks_like(["chosen", "rejected", "score_chosen"]) == "preference"
    assert looks_like(["prompt", "completion"]) == "completion"
    assert looks_like(["completions", "prompt", "ranks"]) == "ranking" and looks_like(["x"]) == ""
