"""What a run of an online objective shows and writes while it goes: the table of steps, answers, experience."""

import json
import re
import time

import pyarrow.parquet as pq
import pytest
from mmalign_report import page

from mmalign.testing.bench import Workbench
from mmalign.testing.subjects import single_thread
from mmalign.train import checkpoint, finish, heldout, loop, samples, step_table
from mmalign.train import run as launch
from tests.support.resume_cases import Lab, quick_runs

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
    with quick_runs() as patch:
        patch.setattr(step_table, "HEADER_EVERY", 4)
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
            assert float(cell) == pytest.approx(records[step][name.replace(" ", "_")], rel=6e-3, abs=6e-6), (step, name)


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


@pytest.mark.parametrize("width", [80, 110, 160, 0])
def test_columns_fit_the_terminal_and_those_left_out_are_counted(width: int) -> None:
    """The most important are kept: what is watched, then the rest in order, then shares of time."""
    lines: list[str] = []
    metrics = dict.fromkeys(("length", "score", "ended", "empty", "kl", "entropy", "explained_variance"), 0.5)
    metrics |= {"clipped": 12345678.0, "kl": -0.000284, "entropy": -2.84e-5}  # long numbers keep to their columns
    shares = dict.fromkeys(("rollout", "scoring", "preparing", "learning"), 0.25)
    table = step_table.StepTable(60, ("score", "kl", "length"), lines.append)
    for step in (1, 2):
        table.row(step, metrics, shares, 12.5, "12 min", width)
    header, *others = lines
    shown = [name for name in (*metrics, *shares) if name.replace("_", " ") in header]
    assert {"score", "kl", "length", "left"} <= set(header.split()) and len({len(line) for line in lines[-2:]}) == 1
    if not width:
        assert len(shown) == 12 and len(lines) == 3
        return
    assert max(map(len, lines)) <= width
    left_out = 12 - len(shown)
    counted = [line for line in others if "more columns: see metrics.jsonl" in line]
    assert (counted[0].startswith(f"({left_out} more") if left_out else not counted) and (width > 110 or left_out)
    assert "scoring" not in shown or "entropy" in shown, "shares of time are the first to go"


def test_rates_are_of_steps_alone(tmp_path, monkeypatch) -> None:
    """Held-out measurements, samples and checkpoints take half a second each, a step next to nothing."""
    real = {"measure": heldout.measure, "save": checkpoint.save, "write_samples": samples.write_samples}

    def slow(name):
        def call(*arguments, **named):
            time.sleep(0.5)
            return real[name](*arguments, **named)

        return call

    monkeypatch.setattr(heldout, "measure", slow("measure"))
    monkeypatch.setattr(finish, "measure", slow("measure"))
    monkeypatch.setattr(checkpoint, "save", slow("save"))
    monkeypatch.setattr(loop, "write_samples", slow("write_samples"))
    monkeypatch.setattr(page, "write_page", lambda *arguments: None)
    lines: list[str] = []
    with single_thread():
        lab = Lab(Workbench({}, {}), tmp_path)
        plan = lab.plan("sft", "whole", "train.save_every=1", "train.eval_every=1")
        outcome = launch.start(plan, lab.catalog, folder=tmp_path / "run", device="cpu", say=lines.append)
    summary = outcome.summary
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    took = [4 / record["examples_per_second"] for record in records if "loss" in record]
    assert len(took) == 6 and sum(took) == pytest.approx(summary["training_seconds"], abs=0.06)
    assert summary["seconds"] > summary["training_seconds"] + 15 * 0.5
    assert summary["examples_per_second"] == pytest.approx(24 / sum(took), rel=0.1)
    sitting = checkpoint.newest(tmp_path / "run" / "checkpoints", lines.append).state
    assert sitting["training_seconds"] == pytest.approx(sum(took), abs=0.06)


def test_only_ids_count_as_tokens(seen) -> None:
    """Of prompts and answers, and not again for each number that is said of them."""
    _, folder = seen
    record = json.loads((folder / "metrics.jsonl").read_text().splitlines()[1])
    tokens = record["tokens_per_second"] / record["examples_per_second"] * 4
    assert tokens <= 4 * (32 + 3 * 4)
