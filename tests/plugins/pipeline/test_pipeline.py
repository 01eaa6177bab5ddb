"""`mmalign pipeline` as a user types it: whole, in parts, again, and stopped in the middle."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmalign_pipeline import stages as running

from tests.support.pipeline_samples import STAGES, Lab, cut, hit_in, results, state
from tests.support.project import python_path


@pytest.fixture(scope="module")
def whole(tmp_path_factory, words) -> Path:
    """A pipeline that nothing stopped; its folder."""
    from mmalign.cli import run

    root = tmp_path_factory.mktemp("whole")
    path = Lab(root, words, None).write()
    assert run(["pipeline", str(path), "--out", str(root / "out")]) == 0
    return root / "out"


def test_every_stage_leaves_what_it_is_for(whole: Path) -> None:
    found = state(whole)["stages"]
    assert list(found) == list(STAGES) and {entry["status"] for entry in found.values()} == {"finished"}
    assert len(results(whole)) == 4 + 3  # models; answers of samples and of the report; rankings
    answers = [json.loads(line) for line in (whole / "samples" / "answers.jsonl").read_text().splitlines()]
    assert len(answers) == 10 and all(len(row["completions"]) == 3 for row in answers)
    assert found["samples"]["counts"]["answers"] == 30
    rankings = [json.loads(line) for line in (whole / "rankings" / "rankings.jsonl").read_text().splitlines()]
    assert found["rankings"]["counts"]["prompts"] == len(rankings) > 0
    for row in rankings:
        ordered = sorted(zip(row["ranks"], row["scores"], strict=True))
        assert [score for _, score in ordered] == sorted((s for _, s in ordered), key=lambda s: -s) or len(
            set(row["ranks"])
        ) < len(row["ranks"])


def test_the_report_has_the_models_side_by_side(whole: Path) -> None:
    figures = json.loads((whole / "report" / "report.json").read_text())
    assert [stage["name"] for stage in figures["stages"]] == list(STAGES[:-1])
    rows = {row["name"]: row for row in figures["models"]}
    assert list(rows) == ["start", "SFT", "PPO"] and figures["against"] == "SFT"
    assert rows["SFT"]["wins"]["length"]["share"] == 0.5 and rows["SFT"]["kl"] == 0
    assert 0 <= rows["PPO"]["wins"]["length"]["share_low"] < rows["PPO"]["wins"]["length"]["share_high"] <= 1
    answers = [json.loads(line) for line in (whole / "report" / "answers.jsonl").read_text().splitlines()]
    for name, row in rows.items():
        lengths = [len(line["answers"][name].split()) for line in answers]
        assert row["words"] == row["scores"]["length"] == sum(lengths) / len(lengths)
    page = (whole / "report" / "report.html").read_text()
    assert "http://" not in page and "https://" not in page
    assert page.count("data:image/png;base64") == 4 + 1  # four that train, and reward against KL
    assert "reward was also the reward of a stage" in page and "length was also" not in page


def test_finished_stages_are_passed_over(lab: Lab, whole: Path) -> None:
    before = results(whole)
    code, out, err = lab.run("pipeline", lab.write(), "--out", whole, "--json")
    assert code == 0, err
    assert err.count("finished before") == len(STAGES)
    assert json.loads(out)["done"] == list(STAGES) and results(whole) == before


def test_until_and_from(lab: Lab, whole: Path) -> None:
    """One stage after the other; then the last ones again, with other options."""
    path, out = lab.write(), cut(whole, "samples", lab.root / "out")
    code, _, err = lab.run("pipeline", path, "--out", out, "--until", "samples")
    assert code == 0 and "finished: sft, judge, samples" in err, err
    assert not (out / "rankings").exists() and not (out / "report").exists()
    code, _, err = lab.run("pipeline", path, "--out", out, "--from", "rankings", "--until", "rankings")
    assert code == 0, err  # nothing of it was there, so nothing is replaced
    made = results(out)
    assert made == {name: content for name, content in results(whole).items() if name in made}
    assert set(made) == set(results(cut(whole, "reward", lab.root / "expected")))
    assert not (out / "replaced").exists()
    code, _, err = lab.run(
        "pipeline", path, "--out", out, "--from", "samples", "--until", "samples", "--set=samples.k=2"
    )
    assert code == 0, err
    assert (
        state(out)["config"]["stages"]["samples"]["k"] == 2 and state(out)["stages"]["samples"]["status"] == "finished"
    )
    kept = out / "replaced"
    assert (kept / "samples-1" / "answers.jsonl").read_bytes() == made["samples/answers.jsonl"]
    assert (kept / "rankings-1").is_dir() and not (out / "rankings").exists()
    code, _, err = lab.run("pipeline", path, "--out", out, "--until", "samples")
    assert code == 2 and "stages.samples.k: 2 -> 3" in err  # that is what the folder holds now


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--from", "reward", "--until", "sft"), ["is after --until"]),
        (("--from", "judge"), ["the earlier stage sft is not finished"]),
        (("--until", "rewards"), ["no stage 'rewards'", "Did you mean reward"]),
        (("--device", "nowhere"), ["unknown device 'nowhere'"]),
        (("--device", "mps" if torch.cuda.is_available() else "cuda"), ["is not available", "Available: "]),
    ],
)
def test_parts_that_cannot_be(lab: Lab, arguments: tuple[str, ...], told: list[str]) -> None:
    code, _, err = lab.run("pipeline", lab.write(), "--out", lab.root / "out", *arguments)
    assert code == 2 and all(word in err for word in told), err
    assert not (lab.root / "out").exists()


def test_a_folder_of_another_pipeline_shows_the_differences(lab: Lab, whole: Path) -> None:
    def change(config) -> None:
        config["stages"]["samples"]["k"] = 4
        del config["stages"]["ppo"]["rollout"]["rewards"][1]

    before = state(whole)
    code, _, err = lab.run("pipeline", lab.write(change), "--out", whole)
    assert code == 2 and "stages.samples.k: 3 -> 4" in err and "stages.ppo.rollout.rewards" in err, err
    assert "--from samples" in err and state(whole) == before


def test_a_changed_report_is_only_made_anew(lab: Lab, whole: Path, tmp_path: Path) -> None:
    out = shutil.copytree(whole, tmp_path / "copy")
    code, _, err = lab.run("pipeline", lab.write(), "--out", out, "--set", "report.limit=3")
    assert code == 0 and err.count("finished before") == len(STAGES) - 1, err
    assert len((out / "report" / "answers.jsonl").read_text().splitlines()) == 3
    assert (out / "replaced" / "report-1" / "report.html").read_bytes() == (
        whole / "report" / "report.html"
    ).read_bytes()


def test_what_is_gone_is_missed(lab: Lab, whole: Path, tmp_path: Path) -> None:
    out = shutil.copytree(whole, tmp_path / "copy")
    (out / "samples" / "answers.jsonl").unlink()
    code, _, err = lab.run("pipeline", lab.write(), "--out", out)
    assert code == 1 and "answers.jsonl is missing" in err and "--from samples" in err


def test_dry_run_shows_and_writes_nothing(lab: Lab, whole: Path) -> None:
    out = lab.root / "none"
    code, text, err = lab.run("pipeline", lab.write(), "--out", out, "--dry-run")
    assert code == 0 and not out.exists(), err
    assert "samples.answers, judge.model" in text and text.count("to do") == len(STAGES)
    code, text, _ = lab.run("pipeline", lab.write(), "--out", whole, "--dry-run", "--json", "--from", "ppo")
    rows = {row["stage"]: row for row in json.loads(text)["stages"]}
    assert rows["reward"]["status"] == "finished" and rows["ppo"]["status"] == "runs anew"
    assert rows["ppo"]["reads"] == ["sft.model", "reward.model"]


@pytest.mark.parametrize("place", ["ppo step 2", "samples", "report"])
def test_a_signal_stops_and_the_same_command_goes_on(lab: Lab, whole: Path, place: str, monkeypatch) -> None:
    """SIGTERM in a stage; what is made in the end has the same bits."""
    stage, _, line = place.partition(" ")
    path, out, sent = lab.write(), cut(whole, stage, lab.root / "out"), []

    def hit() -> None:
        if not sent:
            sent.append(place)
            os.kill(os.getpid(), signal.SIGTERM)

    hit_in(stage, line, hit, monkeypatch.setattr)
    code, _, err = lab.run("pipeline", path, "--out", out, "--until", stage)
    assert sent and code == 128 + signal.SIGTERM, err
    assert "stopped; go on: mmalign pipeline" in err
    assert state(out)["stages"][stage]["status"] == "begun"
    code, _, err = lab.run("pipeline", path, "--out", out, "--until", stage)
    assert code == 0, err
    assert err.count("finished before") == STAGES.index(stage)
    found = results(out)
    assert any(name.startswith(stage) for name in found)
    assert found == {name: content for name, content in results(whole).items() if name in found}


def test_ctrl_c_while_a_stage_loads_says_how_to_go_on(lab: Lab, monkeypatch) -> None:
    def loading(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mmalign.train.run.start", loading)
    code, _, err = lab.run("pipeline", lab.write(), "--out", lab.root / "out")
    assert code == 130 and f"stopped; go on: mmalign pipeline {lab.write()} --out {lab.root / 'out'}" in err


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_once_in_each_stage_and_by_a_signal_too(lab: Lab, whole: Path) -> None:
    """Another process runs it, and dies by SIGKILL, then by SIGTERM, in every stage; the same bits in the end."""
    path, out = lab.write(), lab.root / "out"
    command, env = (
        [sys.executable, "-m", "tests.support.dying", str(path), str(out)],
        {**os.environ, "PYTHONPATH": python_path()},
    )
    for stage in STAGES:
        for signum in (signal.SIGKILL, signal.SIGTERM):
            done = subprocess.run(
                [*command, stage, str(int(signum))], env=env, capture_output=True, text=True, check=False
            )
            expected = -signal.SIGKILL if signum == signal.SIGKILL else 128 + signal.SIGTERM
            assert done.returncode == expected, done.stderr
            assert state(out)["stages"].get(stage, {}).get("status") != "finished"
    code, _, err = lab.run("pipeline", path, "--out", out)
    assert code == 0, err
    assert results(out) == results(whole)


def test_people_rank(lab: Lab, whole: Path) -> None:
    """A stage with a sheet waits, and the same command goes on with what people wrote."""
    sheet = lab.root / "sheet.jsonl"

    def change(config) -> None:
        stage = config["stages"]["rankings"]
        del stage["judge"], stage["tie"]
        stage["sheet"] = str(sheet)

    path, out = lab.write(change), cut(whole, "rankings", lab.root / "out", change)
    code, _, err = lab.run("pipeline", path, "--out", out, "--until", "reward")
    assert code == 0 and f"fill in `rank` in {sheet}" in err, err
    assert state(out)["stages"]["rankings"]["status"] == "begun" and not (out / "reward").exists()
    rows = [json.loads(line) for line in sheet.read_text().splitlines()]
    for row in rows:
        row["rank"] = len(row["answer"]) // 4  # ties among them
    sheet.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, _, err = lab.run("pipeline", path, "--out", out, "--until", "reward")
    assert code == 0 and (out / "reward" / "model").is_dir(), err


def test_several_processes_are_refused(lab: Lab, monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, err = lab.run("pipeline", lab.write(), "--out", lab.root / "out")
    assert code == 2 and "one process" in err


def test_stages_between_is_about_all_names(lab: Lab) -> None:
    from mmalign_pipeline.config import read_pipeline

    pipeline = read_pipeline(lab.write())
    assert running.stages_between(pipeline, "", "") == (list(STAGES), [])
    assert running.stages_between(pipeline, "reward", "ppo") == (list(STAGES[:6]), ["reward", "ppo", "report"])
