"""What a run of an online objective shows and writes while it goes: the table of steps, answers, experience."""

import json
import re

import pyarrow.parquet as pq
import pytest
from resume_cases import Lab

from mmalign.testing.bench import Workbench
from mmalign.testing.subjects import single_thread
from mmalign.train import finish, launch, preview, progress

COLUMNS = (
    "score",
    "length",
    "ended",
    "kl",
    "entropy",
    "clipped",
    "explained variance",
    "rollout",
    "scoring",
    "learning",
)


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """(lines, folder) of six steps, a table at every second; the header again after four rows."""
    lines: list[str] = []
    folder = tmp_path_factory.mktemp("progress")
    with pytest.MonkeyPatch.context() as patch, single_thread():
        patch.setattr(finish, "write_reports", lambda *arguments: None)
        patch.setattr(finish, "SURVEYED", 8)
        patch.setattr(preview, "SURVEYED", 8)
        patch.setattr(progress, "_HEADER_EVERY", 4)
        lab = Lab(Workbench({}, {}), folder)
        launch.start(lab.plan("ppo", "whole"), lab.catalog, folder=folder / "run", device="cpu", say=lines.append)
    return lines, folder / "run"


def test_each_step_is_a_row_under_its_header(seen) -> None:
    lines, folder = seen
    headers = [number for number, line in enumerate(lines) if line.startswith("step/6")]
    rows = {int(line.split()[0]): line for line in lines if re.match(r" +\d+  ", line)}
    assert list(rows) == [1, 2, 3, 4, 5, 6] and len(headers) == 2
    header = lines[headers[0]]
    assert all(name in header for name in COLUMNS)
    records = {
        r["step"]: r for r in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()) if "loss" in r
    }
    for step, row in rows.items():
        assert len(row) == len(header), "cells stand under their names"
        for name in ("score", "kl", "explained variance"):
            end = header.index(name) + len(name)
            cell = row[: max(end, header.index(name) + 7) if len(name) < 7 else end].split()[-1]
            assert float(cell) == pytest.approx(records[step][name.replace(" ", "_")], rel=6e-3), (step, name)


def test_shares_of_time_are_of_the_step_alone(seen) -> None:
    """Held-out answers are sampled before the first step and after the third: no part of a step."""
    _, folder = seen
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for record in records:
        if "loss" in record:
            parts = sum(record[f"seconds_{name}"] for name in ("rollout", "scoring", "preparing", "learning"))
            assert 0 < parts <= 4 / record["examples_per_second"] * 1.001


def test_tables_of_experience_hold_what_was_learnt_from(seen) -> None:
    _, folder = seen
    names = sorted(path.name for path in (folder / "experience").iterdir())
    assert names == [f"step-{step:05d}.parquet" for step in (1, 2, 4, 6)]
    record = json.loads((folder / "metrics.jsonl").read_text().splitlines()[1])
    table = pq.read_table(folder / "experience" / "step-00001.parquet").to_pylist()
    assert len(table) == 4 * 3 and record["step"] == 1
    assert sum(row["score"] for row in table) / 12 == pytest.approx(record["score"], rel=1e-5)
    for row in table:
        assert row["score"] == pytest.approx(sum(token % 2 == 0 for token in row["ids"]) / len(row["ids"]), abs=1e-6)
        lists = ("old", "values", "advantages", "returns", "token_rewards", "sampler_logps")
        assert all(len(row[name]) == len(row["ids"]) for name in lists)
        assert row["old"] == pytest.approx(row["sampler_logps"], abs=1e-5)
        assert row["prompt"] and isinstance(row["answer"], str) and row["key"] and isinstance(row["ended"], bool)
    assert len({row["key"] for row in table}) == 4


def test_answers_are_shown_with_their_scores(seen) -> None:
    lines, folder = seen
    starts = [number for number, line in enumerate(lines) if line.strip() == "score  prompt | answer"]
    assert len(starts) == 4
    table = pq.read_table(folder / "experience" / "step-00001.parquet").to_pylist()
    for place, row in enumerate(table[:9:3]):  # of 3 answers each, those to different prompts first
        score, rest = lines[starts[0] + 1 + place].split(maxsplit=1)
        before, _, after = rest.partition(" | ")
        assert float(score) == pytest.approx(row["score"], abs=5e-4)
        answer = " ".join(row["answer"].split()) or "(empty)"
        assert answer[:20] == after[:20]
        whole = " ".join(row["prompt"].split())
        assert before == whole or (before[0] == "…" and before[1:] and whole.endswith(before[1:]))


def test_a_narrow_terminal_gets_the_whole_table(tmp_path, monkeypatch) -> None:
    """In lines of 80 columns, each cell still under its name; nothing is left out."""
    lines: list[str] = []
    monkeypatch.setattr(finish, "write_reports", lambda *arguments: None)
    monkeypatch.setattr(preview, "SURVEYED", 8)
    monkeypatch.setattr(progress, "terminal_width", lambda: 80)
    with single_thread():
        lab = Lab(Workbench({}, {}), tmp_path)
        launch.start(
            lab.plan("ppo", "whole", "train.steps=2", "train.eval_every=0"), lab.catalog, folder=tmp_path / "run",
            device="cpu", say=lines.append,
        )  # fmt: skip
    start = next(number for number, line in enumerate(lines) if line.startswith("step/2"))
    answers = next(number for number, line in enumerate(lines) if line.strip() == "score  prompt | answer")
    table = lines[start:answers]
    header, row = table[: len(table) // 2], table[len(table) // 2 :]
    assert len(header) == len(row) > 1 and max(map(len, lines[start:])) <= 80
    assert all(name in " ".join(header) for name in (*COLUMNS, "preparing", "left")), header
    assert [len(line) for line in header] == [len(line) for line in row]


def test_only_ids_count_as_tokens(seen) -> None:
    """Of prompts and answers, and not again for each number that is said of them."""
    _, folder = seen
    record = json.loads((folder / "metrics.jsonl").read_text().splitlines()[1])
    tokens = record["tokens_per_second"] / record["examples_per_second"] * 4
    assert tokens <= 4 * (32 + 3 * 4)
