"""Trackers get every record of a run once, across kills and resumes, and none of them ends a run."""

import json
import shutil

import pytest
import yaml
from mmalign_report import page

from mmalign.errors import UsageError
from mmalign.testing.bench import Workbench
from tests.support.plugin_sites import write_plugin
from tests.support.project import EXAMPLES
from tests.support.resume_cases import Lab, lab_with_plugin, measurements

SOURCE = """
import json
from mmalign import TrackerSpec, hookimpl
from mmalign.contract.tracker import Tracker, TrackerConfig


@hookimpl
def register_trackers():
    return [
        TrackerSpec(name="lines", summary="Records as lines", target="plug_lines:Lines"),
        TrackerSpec(name="broken", summary="Fails at its third record", target="plug_lines:Broken"),
    ]


class Lines(Tracker):
    class Config(TrackerConfig):
        file: str = "heard.jsonl"

    def record(self, record):
        with (self.run.folder / self.config.file).open("a") as file:
            file.write(json.dumps(record, default=str) + "\\n")


class Broken(Tracker):
    class Config(TrackerConfig):
        pass

    number = 0

    def record(self, record):
        self.number += 1
        if self.number == 3:
            raise ValueError("no more room")
"""


@pytest.fixture(scope="module")
def own_lab(tmp_path_factory):
    with lab_with_plugin(tmp_path_factory.mktemp("own"), "lines", SOURCE) as lab:
        yield lab


def heard(folder, name="heard.jsonl"):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def kinds(records):
    names = ("final", "evaluation", "checkpoint", "summary")
    return sorted((record["step"], next((name for name in names if record.get(name)), "step")) for record in records)


@pytest.mark.parametrize("objective", ["sft", "grpo"])
def test_every_record_is_heard_once_across_a_kill_and_a_resume(own_lab, objective) -> None:
    plan = own_lab.plan(objective, "micro-batches", 'trackers.lines={"file": "heard.jsonl"}')
    whole = own_lab.begin(plan)
    told = heard(whole.folder)
    checkpoints = [record for record in told if "checkpoint" in record]
    assert {2, 4, 6} <= {record["step"] for record in checkpoints}, "and the best on held-out data"
    assert checkpoints[-1]["checkpoint"].endswith("step-000006")
    written = [json.loads(line) for line in (whole.folder / "metrics.jsonl").read_text().splitlines()]
    assert told[-1]["summary"] == json.loads((whole.folder / "run.json").read_text())["summary"], "the last of all"
    assert [record for record in told[:-1] if "checkpoint" not in record] == written, "the very records"
    assert sum("evaluation" in record for record in told) >= 2
    for moment in ("1/6", "3/6", "5/6"):  # each behind a checkpoint: its steps are made again
        run = own_lab.copy(whole.moments[moment])
        own_lab.resume(run)
        assert kinds(heard(run)) == kinds(told) and len(set(kinds(told))) == len(told), moment
        assert measurements(run) == measurements(whole.folder)


def test_one_that_is_added_later_hears_what_was_before(own_lab) -> None:
    whole = own_lab.begin(own_lab.plan("sft", "micro-batches"))
    run = own_lab.copy(whole.moments["3/6"])
    own_lab.resume(run, lambda line: None, 'trackers.lines={"file": "later.jsonl"}')
    steps = [record["step"] for record in heard(run, "later.jsonl") if "loss" in record]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_one_that_fails_is_told_of_and_ends_nothing(own_lab) -> None:
    run = own_lab.begin(own_lab.plan("sft", "micro-batches", "trackers.broken={}", "trackers.lines={}"))
    info = json.loads((run.folder / "run.json").read_text())
    assert info["status"] == "finished"
    assert info["tracker_failures"] == {"broken": "step 2: ValueError: no more room"}
    assert len(heard(run.folder)) > 6, "the other one goes on"


def test_the_page_is_a_tracker_of_every_run_that_says_not_otherwise(own_lab, monkeypatch) -> None:
    pages = []
    monkeypatch.setattr(page, "write_page", lambda run, summary: pages.append((run.folder, summary["steps"])))
    run = own_lab.begin(own_lab.plan("sft", "micro-batches"))
    assert pages == [(run.folder, 6)] and not (run.folder / "trackers.json").exists(), "it hears of no step"
    without = own_lab.begin(own_lab.plan("sft", "micro-batches", "trackers.report=false"))
    assert yaml.safe_load((without.folder / "config.yaml").read_text())["trackers"] == {"report": False}
    own_lab.resume(own_lab.copy(without.moments["3/6"]))
    assert len(pages) == 1, "nor does a resume write one"


def test_what_is_asked_for_is_checked_first(own_lab) -> None:
    for option, words in (
        ("trackers.lanes={}", "lines"),
        ('trackers.lines={"fil": "x"}', "trackers.lines.fil: unknown key. Did you mean file"),
        ("trackers.lines=3", "takes options"),
    ):
        with pytest.raises(UsageError, match=words):
            own_lab.plan("sft", "whole", option)


def test_tensorboard_has_every_figure(own_lab, tmp_path) -> None:
    pytest.importorskip("tensorboard")
    import sys

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    source = EXAMPLES / "mmalign-tensorboard" / "src"
    sys.path.append(str(source))
    site = tmp_path / "site"
    write_plugin(site, "tensorboard", "from mmalign_tensorboard import register_trackers\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        lab = Lab(Workbench({}, {}), tmp_path / "runs")
        run = lab.begin(lab.plan("sft", "micro-batches", "trackers.tensorboard={}"))
    events = EventAccumulator(str(run.folder / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4, 5, 6]
    assert {event.step for event in events.Scalars("heldout/loss")} == {0, 3, 6}
    shutil.rmtree(run.folder / "tensorboard")
