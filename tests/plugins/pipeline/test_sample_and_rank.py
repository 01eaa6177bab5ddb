"""`mmalign sample` and `mmalign rank`: files that hand over to each other, blind sheets, and bad input."""

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mmalign_pipeline.answers import Answered, as_answers, read_answers, write_rows
from mmalign_pipeline.rank import places, rank
from mmalign_pipeline.sheet import answer_id, read_sheet, write_sheet

from mmalign.contract.examples import Message
from mmalign.errors import DataError
from tests.support.pipeline_samples import Lab

RECORDS = [
    Answered("a", "How was it?", (" Good.", " Bad.", " Good.", ""), (True, True, True, False)),
    Answered("b", "And now?", (" Fine, \u2028 thanks.", ' "Quoted"\nlines'), (True, True)),
    Answered("c", "Alone?", (" Yes.", " Yes."), (True, True)),
]


@pytest.fixture
def sample(lab: Lab) -> Callable[..., list[dict[str, Any]]]:
    """sample(*options) -> the rows that were written."""

    def call(*options: object) -> list[dict[str, Any]]:
        out = lab.root / f"answers-{len(list(lab.root.iterdir()))}.jsonl"
        named = ["--backbone", lab.words.model, "--dataset", lab.words.prompts, "--max-tokens", 6, "--out", out]
        code, _, err = lab.run("sample", *named, *options)
        assert code == 0, err
        return [json.loads(line) for line in out.read_text().splitlines()]

    return call


def test_an_answer_depends_on_its_prompt_number_and_seed_alone(sample) -> None:
    """The batch, how many are asked for and how many prompts there are change no answer."""
    rows = sample("--k", 4, "--set", "dataset.holdout=0")
    assert len(rows) == 40 and len({row["key"] for row in rows}) == 40
    assert rows == sample("--k", 4, "--batch-size", 7, "--set", "dataset.holdout=0")
    fewer = sample("--k", 2, "--limit", 9, "--batch-size", 5, "--set", "dataset.holdout=0")
    cut = [{**row, **{name: row[name][:2] for name in ("completions", "ended")}} for row in rows[:9]]
    assert fewer == cut
    other = sample("--k", 4, "--seed", 1, "--set", "dataset.holdout=0")
    assert all(a["prompt"] == b["prompt"] for a, b in zip(rows, other, strict=True))
    assert sum(a["completions"] != b["completions"] for a, b in zip(rows, other, strict=True)) > 30
    best = sample("--k", 2, "--temperature", 0, "--limit", 5)
    assert all(row["completions"][0] == row["completions"][1] for row in best)


def test_equal_answers_are_told(lab: Lab) -> None:
    """Not of one answer, and not where they are drawn."""
    for number, (k, temperature, told) in enumerate([(4, 0, True), (1, 0, False), (2, 0.5, False)]):
        named = ["--backbone", lab.words.model, "--dataset", lab.words.prompts, "--max-tokens", 2, "--limit", 2]
        how = ["--k", k, "--temperature", temperature, "--out", lab.root / f"{number}.jsonl"]
        code, _, err = lab.run("sample", *named, *how)
        assert code == 0 and ("all 4 answers to a prompt are the same" in err) == told, err


def test_what_is_held_out_is_asked_by_its_name(sample) -> None:
    parts = {split: sample("--split", split, "--set", "dataset.holdout=0.3") for split in ("train", "validation")}
    assert len(parts["train"]) + len(parts["validation"]) == 40 and parts["validation"]


def test_answers_are_those_of_generate(sample, lab: Lab) -> None:
    """One model, one prompt: what `sample` draws is what the model's own method draws with that seed."""
    from mmalign_pipeline.compare import load_policy

    from mmalign.contract.evaluation import Runtime
    from mmalign.hashing import stable_hash
    from mmalign.language.sampling import Sampling
    from mmalign.registry.catalog import Catalog
    from mmalign.registry.plugins import load_plugins

    rows = sample("--k", 3, "--limit", 2)
    model = load_policy(Catalog(load_plugins()), str(lab.words.model), Runtime())
    for n, row in enumerate(rows):
        seeds = [stable_hash("sample", 0, n, k) >> 1 for k in range(3)]
        drawn = model.generate([model.processor.prompt(row["prompt"])] * 3, Sampling(6, 1.0, 1.0), seeds)
        texts = [model.processor.decode(i[:-1] if e else i) for i, e in zip(drawn.ids, drawn.ended, strict=True)]
        assert row["completions"] == texts and row["ended"] == drawn.ended


def test_prompts_that_do_not_fit_are_counted(lab: Lab) -> None:
    data, out = lab.root / "prompts.jsonl", lab.root / "out.jsonl"
    data.write_text("".join(json.dumps({"prompt": "cat " * n}) + "\n" for n in (2, 60, 3)))
    named = ["sample", "--backbone", lab.words.model, "--dataset", data, "--set", "dataset.holdout=0", "--out", out]
    code, text, err = lab.run(*named, "--max-tokens", 8, "--json")
    assert code == 0 and "1 prompts left out: no room for 8 tokens behind the prompt" in err, err
    found = json.loads(text)
    assert (found["prompts"], found["answers"], found["prompts_left_out"]) == (2, 8, 1)
    assert len(read_answers(out)) == 2
    code, _, err = lab.run(*named, "--max-tokens", 8)
    assert code == 2 and "--force" in err
    code, _, err = lab.run(*named, "--force", "--max-tokens", 1000)
    assert code == 2 and "do not fit the model's context" in err
    data.write_text(json.dumps({"prompt": "cat " * 60}) + "\n")
    code, _, err = lab.run(*named, "--force", "--max-tokens", 8)
    assert code == 3 and "none of 1 prompts" in err and len(read_answers(out)) == 2  # the file is as it was


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (("--backbone", "clip-lite"), 2, ["sample needs generate"]),
        (("--dataset", "emoji"), 2, ["sample takes prompt", "emoji yields"]),
        (("--split", "trian"), 2, ["no part trian"]),
        (("--set", "dataset.holdut=0"), 2, ["holdut", "Did you mean holdout"]),
        (("--set", "train.steps=3"), 2, ["takes no section train"]),
        (("--dataset", "none.jsonl"), 3, ["none.jsonl"]),
    ],
)
def test_wrong_requests_to_sample(lab: Lab, options: tuple[str, ...], code: int, told: list[str]) -> None:
    named = ["--backbone", lab.words.model, "--dataset", lab.words.prompts, "--out", lab.root / "out.jsonl"]
    found, _, err = lab.run("sample", *named, *options)
    assert found == code and all(word in err for word in told) and "Traceback" not in err, err
    assert not (lab.root / "out.jsonl").exists()


def test_places() -> None:
    assert places([0.1, 0.9, 0.5, 0.5], 0.0) == [4, 1, 2, 2]
    assert places([1.0, 0.95, 0.9, 0.8], 0.1) == [1, 1, 1, 4]  # near the best of the place, not each other
    assert places([1.0, 0.95, 0.85, 0.8], 0.1) == [1, 1, 3, 3]
    assert places([2.0], 0.0) == [1] and places([], 0.0) == []


def test_repeated_and_empty_answers_are_counted_and_left_out() -> None:
    found = rank(RECORDS, [[0.5, 0.7, 0.5, 9.0], [0.2, 0.2], [1.0, 1.0]])
    assert [row["key"] for row in found.rows] == ["a", "b"]
    assert found.rows[0]["completions"] == [" Good.", " Bad."] and found.rows[0]["ranks"] == [2, 1]
    assert found.rows[1]["ranks"] == [1, 1]
    expected = {"prompts": 2, "answers": 4, "tied": 2, "all_tied": 1, "repeated": 2, "empty": 1, "left_out": 1}
    assert found.counts == {**expected, "without_score": 0}
    found = rank(RECORDS, [[0.5, math.nan, 0.5, 9.0], [0.2, 0.2], [1.0, 1.0]])
    assert [row["key"] for row in found.rows] == ["b"], "one of two texts is not ranked, so they cannot be compared"
    assert found.counts["without_score"] == 1 and found.counts["left_out"] == 2


def test_rank_writes_what_reward_reads(lab: Lab) -> None:
    """By two judges together; the reader of rankings takes every row."""
    from mmalign_data.options import TextFilesConfig
    from mmalign_data.texts import RankingFiles

    answers, out = lab.root / "answers.jsonl", lab.root / "rankings.jsonl"
    write_rows(answers, (record.as_row() for record in RECORDS))
    judges = ("--judge", "vader", "--judge", '{"name": "length", "weight": 0.01}')
    code, text, err = lab.run("rank", answers, *judges, "--out", out, "--json")
    assert code == 0 and json.loads(text)["prompts"] == 2, err
    data = RankingFiles.build(TextFilesConfig(path=str(out), holdout=0), "train")
    assert data is not None and len(data) == 2 and not data.report()["skipped"]
    assert data[0].completions == (" Good.", " Bad.") and data[0].ranks == (1.0, 2.0)
    assert data[1].completions == RECORDS[1].completions and data[1].ranks[0] < data[1].ranks[1]


def test_answers_to_messages_are_ranked_and_learnt_from(lab: Lab) -> None:
    """The reward model reads the tokens that were sampled, behind the rendered conversation."""
    from mmalign_data.options import TextFilesConfig
    from mmalign_data.texts import RankingFiles

    prompts, answers, rankings = (lab.root / name for name in ("chat.jsonl", "answers.jsonl", "rankings.jsonl"))
    turns = [[{"role": "user", "content": f"a {word}"}] for word in ("dog", "cat", "tree")]
    write_rows(prompts, ({"prompt": turn} for turn in turns))
    named = ["--backbone", lab.words.model, "--dataset", prompts, "--set", "dataset.holdout=0"]
    assert lab.run("sample", *named, "--k", 3, "--max-tokens", 5, "--out", answers)[0] == 0
    code, _, err = lab.run("rank", answers, "--judge", "length", "--out", rankings)
    assert code == 0, err
    data = RankingFiles.build(TextFilesConfig(path=str(rankings), holdout=0), "train")
    assert data is not None and len(data) == 3 and not data.report()["skipped"]
    assert data[0].prompt == (Message("user", "a dog"),) and all(isinstance(text, str) for text in data[0].completions)
    sets = ("train.steps=1", "train.batch_size=3", "data.num_workers=0", "dataset.holdout=0")
    more = [part for text in sets for part in ("--set", text)]
    model = ("--backbone", lab.words.model, "--out", lab.root / "reward")
    code, _, err = lab.run("train", "--objective", "reward", "--dataset", rankings, *model, *more)
    assert code == 0 and "user: a dog" in err.lower(), err


def test_rewards_see_texts_ends_and_bytes() -> None:
    answers = as_answers(RECORDS)
    assert answers.texts == tuple(text for record in RECORDS for text in record.completions)
    assert answers.ended[:4] == (True, True, True, False) and answers.keys[4] == "b"
    rows = answers.sequences.answers.rows()
    assert [answers.processor.decode(row) for row in rows] == list(answers.texts)
    assert [int(row[-1]) == answers.processor.end_id for row in rows if len(row)] == [True] * 3 + [True] * 4


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_sheet_is_blind_and_comes_back(tmp_path: Path, suffix: str) -> None:
    """Ties, gaps and any order of rows; what people did not rank is counted."""
    records = [Answered(str(n), "Which?", tuple(f" {word} {n}" for word in "abcdef"), (True,) * 6) for n in range(20)]
    records += RECORDS
    sheet = tmp_path / f"sheet{suffix}"
    counts = write_sheet(sheet, records)
    assert counts == {"prompts": 22, "answers": 20 * 6 + 4, "left_out": 1}
    rows = _read(sheet)
    assert not any(row["rank"] for row in rows)
    orders = {tuple(row["answer"][1] for row in rows if row["key"] == str(n)) for n in range(20)}
    assert len(orders) > 10  # shuffled, each prompt in a way of its own
    assert write_sheet(tmp_path / f"again{suffix}", records) == counts and _read(tmp_path / f"again{suffix}") == rows
    for row in rows:
        row["rank"] = {" a": 1, " b": 2, " c": 2, " d": 3.5}.get(row["answer"][:2], "")
    _write(sheet, list(reversed(rows)))
    found = read_sheet(sheet, records)
    assert len(found.rows) == 20 and found.counts["left_out"] == 3 and found.counts["without_rank"] == 20 * 2 + 4
    assert found.rows[0]["completions"] == [" a 0", " b 0", " c 0", " d 0"]
    assert found.rows[0]["ranks"] == [1, 2, 2, 3.5] and found.counts["tied"] == 20 * 2
    for row in rows:
        row["rank"] = 1
    _write(sheet, rows)
    everything = read_sheet(sheet, records)
    assert [row["completions"] for row in everything.rows[-2:]] == [[" Good.", " Bad."], list(RECORDS[1].completions)]
    assert everything.counts["all_tied"] == 22 and not everything.counts["without_rank"]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_bad_rows_of_a_sheet_are_named_by_line(lab: Lab, suffix: str) -> None:
    answers, sheet, out = lab.root / "answers.jsonl", lab.root / f"sheet{suffix}", lab.root / "rankings.jsonl"
    write_rows(answers, (record.as_row() for record in RECORDS[:1]))
    code, _, err = lab.run("rank", answers, "--export", sheet)
    assert code == 0 and f"--import {sheet}" in err, err
    good, bad = _read(sheet)
    first = 2 if suffix == ".csv" else 1
    rows = [{**good, "rank": "best"}, {**good, "key": "z"}, {**bad, "id": "0"}, {**bad, "rank": 1}, {**bad, "rank": 2}]
    _write(sheet, rows)
    code, _, err = lab.run("rank", answers, "--import", sheet, "--out", out)
    assert code == 3 and "4 rows cannot be read" in err and not out.exists(), err
    assert f"line {first}: rank 'best' is not a number" in err
    assert f"line {first + 1}: no prompt has the key 'z'" in err
    assert f"line {first + 2}: no answer to 'a' has the id '0'" in err
    assert f"line {first + 4}: the answer of line {first + 3} once more" in err
    _write(sheet, [{**good, "rank": ""}, {**bad, "rank": 1}])
    code, _, err = lab.run("rank", answers, "--import", sheet, "--out", out)
    assert code == 3 and f"{sheet}: no prompt has two answers with a rank" in err and "1 without rank" in err, err


def test_a_table_without_the_columns_is_refused(tmp_path: Path) -> None:
    from mmalign.errors import DataError, UsageError

    (tmp_path / "sheet.csv").write_text("key,answer\na,b\n")
    with pytest.raises(DataError, match=r"no column id or rank.*\n.*--export"):
        read_sheet(tmp_path / "sheet.csv", RECORDS)
    with pytest.raises(UsageError, match=r"a \.csv or a \.jsonl"):
        write_sheet(tmp_path / "sheet.txt", RECORDS)
    assert answer_id(" Good.") != answer_id(" Bad.")


def test_bad_answers_are_named_by_line(lab: Lab) -> None:
    path = lab.root / "answers.jsonl"
    lines = [
        json.dumps({"key": "1", "prompt": "Q", "completions": ["A"]}),
        "{",
        json.dumps({"prompt": 3, "completions": ["A"]}),
        json.dumps({"prompt": "Q", "completions": "A"}),
        json.dumps({"key": "1", "prompt": "Q", "completions": ["A"]}),
    ]
    path.write_text("\n".join(lines))
    code, _, err = lab.run("rank", path, "--judge", "vader", "--out", lab.root / "out.jsonl")
    assert code == 3 and "4 lines are not answers" in err and "line 2: broken JSON" in err and "and 1 more" in err, err
    assert "line 3: its prompt is neither" in err and "line 4: its completions" in err
    path.write_text("\n".join([lines[0], lines[4]]))
    code, _, err = lab.run("rank", path, "--judge", "vader", "--out", lab.root / "out.jsonl")
    assert code == 3 and "line 2: key '1' is that of line 1 too" in err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ((), ["one of --judge, --export, --import"]),
        (("--judge", "vader"), ["--out rankings.jsonl"]),
        (("--judge", "vadr", "--out", "OUT"), ["unknown reward 'vadr'", "Did you mean vader"]),
        (("--judge", '{"name": ', "--out", "OUT"), ["--judge"]),
        (("--judge", '{"name": "length", "unit": "miles"}', "--out", "OUT"), ["unit", "words"]),
        (("--import", "none.csv", "--out", "OUT"), ["no sheet none.csv", "--export none.csv"]),
        (("--export", "sheet.txt"), [".csv"]),
    ],
)
def test_wrong_requests_to_rank(lab: Lab, options: tuple[str, ...], told: list[str]) -> None:
    answers = lab.root / "answers.jsonl"
    write_rows(answers, (record.as_row() for record in RECORDS))
    filled = [str(lab.root / "out.jsonl") if option == "OUT" else option for option in options]
    code, _, err = lab.run("rank", answers, *filled)
    assert code == 2 and all(word in err for word in told) and "Traceback" not in err, err
    assert [path.name for path in lab.root.iterdir()] == ["answers.jsonl"]


def _read(sheet: Path) -> list[dict[str, Any]]:
    if sheet.suffix == ".jsonl":
        return [json.loads(line) for line in sheet.read_text(encoding="utf-8").split("\n") if line]
    with sheet.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _write(sheet: Path, rows: list[dict[str, Any]]) -> None:
    with sheet.open("w", newline="", encoding="utf-8") as file:
        if sheet.suffix == ".jsonl":
            file.writelines(json.dumps(row) + "\n" for row in rows)
            return
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_columns_of_the_data_travel_with_the_answers(tmp_path: Path) -> None:
    """From a data set through the file to a reward, as a run has them."""
    columns = {"answer": 4, "tags": ["a", None], "solution": "worked"}
    records = [Answered("a", "2 + 2?", ("4", "5"), (True, True), "4", columns), RECORDS[1]]
    write_rows(tmp_path / "a.jsonl", (record.as_row() for record in records))
    again = read_answers(tmp_path / "a.jsonl")
    assert again == records
    answers = as_answers(again)
    assert answers.column("answer") == [4, 4, None, None]
    assert answers.select([1, 3]).column("tags") == [["a", None], None]
    (tmp_path / "b.jsonl").write_text('{"prompt": "Q", "completions": ["A"], "columns": [1]}\n')
    with pytest.raises(DataError, match="its columns are not a JSON object"):
        read_answers(tmp_path / "b.jsonl")
    (tmp_path / "c.jsonl").write_text('{"prompt": "Q \\ud83d", "completions": ["A"]}\n')
    with pytest.raises(DataError, match="half of a character"):
        read_answers(tmp_path / "c.jsonl")
