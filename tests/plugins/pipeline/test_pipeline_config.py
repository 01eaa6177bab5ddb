"""A pipeline's file: everything that is wrong with it is said before the first stage runs, with its line."""

from collections.abc import Callable
from typing import Any

import pytest
from mmalign_pipeline.compare import ReportConfig
from mmalign_pipeline.config import read_pipeline
from mmalign_pipeline.rank import RankConfig

from mmalign.cli import run
from mmalign.train.layers import recipe_path
from tests.support.pipeline_samples import Lab

Change = Callable[[dict[str, Any]], object]


def _set(*path: str, value: Any) -> Change:
    def change(config: dict[str, Any]) -> None:
        for part in path[:-1]:
            config = config[part]
        config[path[-1]] = value

    return change


MISTAKES: dict[str, tuple[Change, list[str]]] = {
    "unknown key": (_set("stage", value={}), ["unknown key 'stage'", "Did you mean stages"]),
    "no stages": (_set("stages", value={}), ["holds no stages"]),
    "unknown kind": (_set("stages", "samples", "run", value="smple"), ["run: 'smple'", "Did you mean sample"]),
    "no kind": (lambda config: config["stages"]["samples"].pop("run"), ["samples", "train, sample, rank"]),
    "unknown section": (_set("stages", "sft", "objectiv", value="sft"), ["'objectiv'", "Did you mean objective"]),
    "unknown option": (
        _set("stages", "ppo", "train", "step", value=3), ["stage ppo: train.step: unknown key", "Did you mean steps"],
    ),
    "unknown option of sample": (_set("stages", "samples", "tempertaure", value=1), ["samples.tempertaure"]),
    "unknown objective": (_set("stages", "sft", "objective", value="stf"), ["stage sft", "unknown objective 'stf'"]),
    "unknown stage": (
        _set("stages", "ppo", "backbone", value="${sftt.model}"), ["stage ppo: ${sftt.model} names no stage", "sft"],
    ),
    "unknown output": (
        _set("stages", "reward", "dataset", value="${rankings.ranking}"),
        ["stage reward: ${rankings.ranking} names no output of rankings", "Did you mean rankings"],
    ),
    "later stage": (_set("stages", "sft", "backbone", value="${reward.model}"), ["${reward.model} comes later"]),
    "itself": (_set("stages", "sft", "backbone", value="${sft.model}"), ["comes later or is the stage itself"]),
    "reward model where a language model is needed": (
        _set("stages", "ppo", "backbone", value="${reward.model}"),
        ["stage ppo: ppo needs", "${reward.model} (reward-model) provides score_sequences"],
    ),
    "sampling from a reward model": (
        _set("stages", "samples", "backbone", value="${judge.model}"), ["stage samples: sample needs generate"],
    ),
    "rankings where answers to copy are needed": (
        lambda config: config["stages"].update(more={**config["stages"]["sft"], "dataset": {"name": "emoji"}}),
        ["stage more: emoji holds pictures with texts as answers", "learns from texts with texts"],
    ),
    "reward without options": (
        _set("stages", "ppo", "rollout", "rewards", value=[{"name": "reward-model"}]),
        ["stage ppo", "rollout.rewards[0].path: is required"],
    ),
    "unknown judge": (_set("stages", "rankings", "judge", value={"name": "vdaer"}), ["stage rankings", "'vdaer'"]),
    "unknown judge by name": (_set("stages", "rankings", "judge", value="vdaer"), ["stage rankings", "'vdaer'"]),
    "no judge": (_set("stages", "rankings", "judge", value=3), ["3 is no reward; give a name, or options"]),
    "unknown judge of the report": (_set("report", "judges", value="vdaer"), ["stage report", "'vdaer'"]),
    "judge and people": (_set("stages", "rankings", "sheet", value="x.csv"), ["give either a judge or a sheet"]),
    "one answer each": (_set("stages", "samples", "k", value=1), ["rankings: ${samples.answers}: no prompt has two"]),
    "equal answers": (_set("stages", "samples", "temperature", value=0), ["no prompt has two", "a higher temperature"]),
    "no answers": (_set("stages", "rankings", "answers", value="none.jsonl"), ["stage rankings", "no file none.jsonl"]),
    "report of a reward model": (
        _set("report", "models", "SFT", value="${reward.model}"), ["stage report: the report needs generate"],
    ),
    "report against a stranger": (
        _set("report", "against", value="RLHF"), ["against: 'RLHF' is not one of the models"],
    ),
    "report without prompts": (lambda config: config["report"].pop("dataset"), ["need a dataset with prompts"]),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_anywhere_stops_before_the_first_stage(lab: Lab, mistake: str) -> None:
    change, told = MISTAKES[mistake]
    code, _, err = lab.run("pipeline", lab.write(change), "--out", lab.root / "out")
    assert code in (2, 3) and all(word in err for word in told), err
    assert "Traceback" not in err and "mmalign-" not in err  # no stand-in's path
    assert not (lab.root / "out").exists()


def test_mistakes_come_with_their_lines(lab: Lab) -> None:
    path = lab.write(_set("stages", "ppo", "train", "step", value=3))
    line = next(n for n, text in enumerate(path.read_text().splitlines(), start=1) if text.strip() == "step: 3")
    _, _, err = lab.run("pipeline", path, "--out", lab.root / "out")
    assert f"({path}:{line})" in err
    path = lab.write(_set("stages", "ppo", "backbone", value="${nobody.model}"))
    line = next(n for n, text in enumerate(path.read_text().splitlines(), start=1) if "nobody" in text)
    _, _, err = lab.run("pipeline", path, "--out", lab.root / "out")
    assert f"{path}:{line}: stage ppo" in err


def test_set_reaches_any_option(lab: Lab) -> None:
    pipeline = read_pipeline(lab.write(), ["ppo.train.steps=9", "sft.backbone.dropout=0.1", "report.limit=3"])
    assert pipeline.stages["ppo"].options["train"]["steps"] == 9 and pipeline.report.options["limit"] == 3
    assert pipeline.stages["sft"].options["backbone"] == {"name": str(lab.words.model), "dropout": 0.1}
    for wrong, told in (("ppo", "not stage.section.key=value"), ("pp.train.steps=1", "no stage 'pp'")):
        code, _, err = lab.run("pipeline", lab.write(), "--set", wrong, "--out", lab.root / "out")
        assert code == 2 and told in err
    code, _, err = lab.run("pipeline", lab.write(), "--set", "samples.k=0", "--out", lab.root / "out")
    assert code == 2 and "samples.k: Input should be greater than or equal to 1, got 0 (command line)" in err


def test_judges_may_stand_as_names() -> None:
    rank = RankConfig.model_validate({"answers": "a", "judge": "vader"})
    report = ReportConfig.model_validate({"judges": ["vader", "length=0"]})
    assert list(rank.judge) == [{"name": "vader"}]
    assert list(report.judges) == [{"name": "vader"}, {"name": "length", "weight": 0}]


def test_a_runs_file_and_a_pipelines_point_at_each_other(lab: Lab) -> None:
    code, _, err = lab.run("pipeline", "ppo", "--out", lab.root / "out")
    assert code == 2 and "holds no stages" in err and "mmalign train -c " in err
    path = lab.write()
    code, _, err = lab.run("train", "-c", path)
    assert code == 2 and f"mmalign pipeline {path}" in err


def test_references_are_replaced_wherever_they_stand(lab: Lab) -> None:
    pipeline = read_pipeline(lab.write(_set("stages", "ppo", "backbone", value="${sft.run}/model")))
    outputs = {name: {"model": f"/{name}/m", "run": f"/{name}"} for name in ("sft", "reward")}
    filled = pipeline.filled("ppo", outputs)
    assert filled["backbone"] == "/sft/model" and filled["rollout"]["rewards"][0]["path"] == "/reward/m"
    assert pipeline.stages["ppo"].reads == ["sft.run", "reward.model"]


def test_the_packaged_pipeline_is_found_by_its_name(capsys, tmp_path) -> None:
    assert recipe_path("instructgpt") is not None
    assert run(["pipeline", "instructgpt", "--dry-run", "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert all(stage in out for stage in ("sft", "samples", "rankings", "reward", "ppo", "report"))
    assert run(["pipeline", "instructgtp"]) == 2
    assert "no pipeline 'instructgtp'" in capsys.readouterr().err


def test_a_folder_with_something_else_is_left_alone(lab: Lab) -> None:
    (lab.root / "out").mkdir()
    (lab.root / "out" / "letter.txt").write_text("mine")
    code, _, err = lab.run("pipeline", lab.write(), "--out", lab.root / "out")
    assert code == 2 and "holds no pipeline" in err and len(list((lab.root / "out").iterdir())) == 1
