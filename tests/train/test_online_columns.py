"""Columns of the data on their way to a reward function through a whole run, and through a run that was stopped."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mmalign.errors import UsageError
from mmalign.rl.counts import worth_telling
from mmalign.testing.subjects import TEXTS
from mmalign.train import run as launch
from tests.support.resume_cases import STEPS, assert_same_run

SOURCE = """
import json
from pathlib import Path

def score(completions, completion_ids, level, tags, answer, solution, **kwargs):
    with Path(__file__).with_name("seen.jsonl").open("a") as file:
        file.writelines(json.dumps([*row]) + "\\n" for row in zip(level, tags, answer, solution))
    return [
        None if sum(ids) % 3 == 0 else float(sum(token % (2 + l) == 0 for token in ids)) / len(ids)
        for ids, l in zip(completion_ids, level)
    ]

def needs(completions, difficulty):
    return [0.0 for _ in completions]
"""


@pytest.fixture(scope="module")
def rows(lab, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("columns")
    (folder / "mine.py").write_text(SOURCE)
    with (folder / "prompts.jsonl").open("w") as file:
        for number, text in enumerate(TEXTS * 3):
            row = {"prompt": f"{text} {number}", "level": number, "tags": [str(number)], "answer": str(number)}
            file.write(json.dumps({**row, "solution": f"worked {number}"}) + "\n")
    return folder


def plan(lab, rows: Path, *options: str, function: str = "score"):
    reward = json.dumps([{"name": "function", "function": f"{rows / 'mine.py'}:{function}"}])
    dataset = str(rows / "prompts.jsonl")
    return lab.plan("grpo", "micro-batches", f"rollout.rewards={reward}", *options, dataset=dataset)


def test_they_arrive_are_kept_and_go_on_after_a_stop(lab, rows: Path) -> None:
    whole = lab.begin(plan(lab, rows))
    seen = [json.loads(line) for line in (rows / "seen.jsonl").read_text().splitlines()]
    assert seen and all(row == [n, [str(n)], str(n), f"worked {n}"] for row in seen for n in [row[0]])
    experience = pq.read_table(newest_experience(whole.folder)).to_pylist()
    for row in experience:
        columns = json.loads(row["columns"])
        assert columns["solution"] == f"worked {columns['level']}" and row["prompt"].endswith(f" {columns['level']}")
        assert (row["reward function"] is None) == (sum(row["ids"]) % 3 == 0)

    stopped = lab.copy(next(folder for line, folder in whole.moments.items() if line.startswith("3")))
    lab.resume(stopped)
    assert_same_run(stopped, whole.folder)

    records = [json.loads(line) for line in (whole.folder / "metrics.jsonl").read_text().splitlines()]
    unscored = sum(record.get("num_answers_unscored", 0) for record in records)
    counts = {"answers": 12 * STEPS, "answers_unscored": unscored, "answers_without_function": unscored}
    assert unscored > 0 and worth_telling(counts)[1] == (
        f"{unscored} of {12 * STEPS} answers that the reward function did not score"
    )


def newest_experience(folder: Path) -> Path:
    return max((folder / "experience").glob("*.parquet"))


def test_a_missing_column_is_told_before_the_first_step(lab, rows: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    with pytest.raises(UsageError, match="'difficulty', and the data have no such column; they have level, tags"):
        launch.start(
            plan(lab, rows, function="needs"), lab.catalog, folder=tmp_path / "run", device="cpu", say=lines.append
        )
    assert not any(line.startswith("step") for line in lines)


def test_the_log_says_which_column_is_right(lab, rows: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    launch.start(plan(lab, rows, "train.steps=1"), lab.catalog, folder=tmp_path / "run", device="cpu", say=lines.append)
    assert any(line.startswith("right answers are in the column answer (solution is there, too") for line in lines)
