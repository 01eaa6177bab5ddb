"""`mmalign train` of online objectives as a user types it: rewards named, mistyped and shared; what a run leaves."""

import importlib.util
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from mmalign.cli import run
from mmalign.rl.config import RolloutConfig
from mmalign.testing.bench import Workbench
from mmalign.train.layers import load_layers

needs_peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="mmalign[lora] is not installed")
PROMPTS = ("a red car", "the photo of a small black cat", "tree", "two dogs")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS), encoding="utf-8")
    return path


@pytest.fixture
def train(bench: Workbench, prompts: Path, capsys: pytest.CaptureFixture[str]):
    """train(objective, *arguments) -> (exit code, stdout, stderr) on the tiny Llama, two steps."""

    def call(objective: str, *arguments: str) -> tuple[int, str, str]:
        options = {
            "train.steps": 2, "train.batch_size": 4, "data.num_workers": 0, "train.warmup_steps": 1,
            "rollout.max_tokens": 6, "rollout.samples": 3, "rollout.heldout_answers": 4, "evaluation.samples": 1,
            "dataset.holdout": 0, "evaluation.sample_tokens": 3,
        }  # fmt: skip
        sets = [part for key, value in options.items() for part in ("--set", f"{key}={value}")]
        model = str(bench.model("tiny-llama"))
        code = run(
            ["train", "--objective", objective, "--backbone", model, "--dataset", str(prompts), *sets, *arguments]
        )
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def records(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_rewards_by_name_and_weight(train, curves, tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, _, err = train("rloo", "--reward", "length=-0.5", "--reward", "vader=0", "--out", str(out))
    assert code == 0, err
    assert "rollout" in err and "learning" in err  # columns of the table
    steps = [record for record in records(out) if "loss" in record]
    assert len(steps) == 2
    for step in steps:
        assert step["score"] == pytest.approx(-0.5 * step["reward length"], abs=1e-5)
        assert {"seconds_rollout", "seconds_scoring", "seconds_learning", "kl", "entropy"} <= set(step)
    table = pq.read_table(out / "experience" / "step-00001.parquet")
    assert table.num_rows == 12
    assert {"prompt", "answer", "score", "ids", "old", "reward length"} <= set(table.column_names)
    lengths = [len(ids) for ids in table.column("ids").to_pylist()]
    assert [len(row) for row in table.column("old").to_pylist()] == lengths


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--reward", "vade"), "Did you mean vader?"),
        (("--reward", "length=much"), "'much' is no weight"),
        (("--reward", "length=nan"), "'nan' is no weight"),
        (("--reward", "vader", "--set", "rollout.rewards=length"), "--reward and --set rollout.rewards are both given"),
        (("--reward", "vader", "--set", 'rollout={"rewards": "length"}'), "are both given"),
        (("--environment", "calculator", "--set", "rollout.environment=reflection"), "are both given"),
        (("--seed", "1", "--set", "train.seed=2"), "--seed and --set train.seed are both given"),
        (("--reward", '{"name": "length"'), "delimiter: line 1"),
        (("--reward", '["vader"]'), "repeat it for several"),
        (("--reward", '{"name": "regex"}'), "pattern: is required and missing"),
        (("--set", 'rollout.rewards=[{"name": "length"]'), "cannot be read as JSON"),
        (("--reward", "vader", "--set", 'rollout.engine={"name": "policy"'), "cannot be read as JSON"),
        (("--set", "rollout.engine=policy", "--set", "rollout.engine.x=1"), "--set rollout.engine.name=..."),
        ((), "no reward to learn from"),
        (("--reward", "vader=0"), "every reward has weight 0"),
        (("--reward", ""), "names no reward"),
        (("--reward", "calculator"), "no reward 'calculator': it is one of the environments"),
        (("--reward", "mine.py:score"), '"function": "mine.py:score"'),
        (("--set", "rollout.rewards=vade"), "Did you mean vader?"),
        (("--set", "rollout.rewards=[3]"), "3 is no reward; give a name, or options"),
        (("--environment", "calculater"), "Did you mean calculator?"),
        (("--set", "rollout.environment=3"), "3 is no environment; give a name, or options"),
        (("--set", "rollout.engine=3"), "3 is no engine; give a name, or options"),
        (("--reward", "vader", "--set", "rollout.engine=continuous-batch"), "Did you mean continuous-batching"),
        (("--reward", "vader", "--set", "rollout.max_tokens=4000"), "leaves no room for a prompt"),
        (("--reward", "vader", "--set", "objective.minibatches=9"), "with 4 prompts per step"),
        (("--reward", "vader", "--set", "streams.ptx=movie-reviews"), "reads no such stream"),
    ],
)
def test_mistakes_are_told_before_anything_runs(train, tmp_path: Path, arguments, expected: str) -> None:
    code, _, err = train("grpo", *arguments, "--out", str(tmp_path / "run"))
    assert code == 2, err
    assert expected in err and "Traceback" not in err


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [
        ("length", [{"name": "length"}]),
        ("length=-1", [{"name": "length", "weight": -1.0}]),
        ('["vader", "length=0", {"name": "regex", "pattern": "a"}]',
         [{"name": "vader"}, {"name": "length", "weight": 0.0}, {"name": "regex", "pattern": "a"}]),
        ('{"name": "length"}', [{"name": "length"}]),
    ],
)  # fmt: skip
def test_rewards_environments_and_engines_may_stand_as_names(rewards: str, expected: list) -> None:
    sets = [f"rollout.rewards={rewards}", "rollout.environment=calculator", "rollout.engine=policy"]
    section = load_layers(sets=sets)["rollout"]
    config = RolloutConfig.model_validate(dict(section))
    assert list(config.rewards) == expected
    assert (config.environment, config.engine) == ({"name": "calculator"}, {"name": "policy"})


def test_a_reward_with_options_may_print(train, tmp_path: Path) -> None:
    """What a function prints stands beside the document on stdout, not in it."""
    (tmp_path / "mine.py").write_text("def score(answers):\n    print('scoring')\n    return [0.5 for _ in answers]\n")
    reward = json.dumps({"name": "function", "function": f"{tmp_path / 'mine.py'}:score", "weight": 2})
    code, printed, err = train("rloo", "--reward", reward, "--json", "--out", str(tmp_path / "run"))
    assert code == 0, err
    assert json.loads(printed)["steps"] == 2 and "scoring" in err
    assert records(tmp_path / "run")[1]["score"] == 1.0


def test_an_environment_by_name_takes_options_and_is_counted(train, tmp_path: Path) -> None:
    out = tmp_path / "run"
    more = ("--environment", "reflection", "--set", "rollout.environment.critique=?", "--reward", "length")
    code, printed, err = train("rloo", *more, "--out", str(out))
    assert code == 0, err
    assert "critique: '?'" in (out / "config.yaml").read_text()
    assert "8 prompts with 24 answers in " in err and " of 24 answers cut at rollout.max_tokens" in err
    assert "4 of 4 prompts looked at" in err and "to be learnt" not in err
    assert "held-out" not in printed, "nothing is held out"
    page = (out / "report.html").read_text()
    assert "Counted in training" in page and "Reward against KL" in page


def test_an_objective_that_samples_nothing_takes_no_rewards(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "--objective", "dpo", "--reward", "vader"]) == 2
    assert "samples nothing" in capsys.readouterr().err


def test_without_beta_grpo_holds_no_reference(train, tmp_path: Path) -> None:
    for beta, there in ((0.0, False), (0.1, True)):
        out = tmp_path / str(beta)
        code, _, err = train("grpo", "--reward", "length", "--set", f"objective.beta={beta}", "--out", str(out))
        assert code == 0, err
        assert all(("kl" in record) == there for record in records(out) if "loss" in record)


@needs_peft
def test_four_roles_on_one_trunk_score_as_a_reward_model_of_its_own(train, bench: Workbench, tmp_path: Path) -> None:
    """The reward model is an adapter on the policy's weights, and the scores are those of a model of its own."""
    pairs = tmp_path / "pairs.jsonl"
    rows = [{"prompt": p, "chosen": " a dog", "rejected": " the house"} for p in PROMPTS]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    sets = ("train.steps=3", "train.batch_size=4", "data.num_workers=0", "backbone.lora.rank=2", "dataset.holdout=0")
    options = [part for text in sets for part in ("--set", text)]
    named = ["--backbone", str(bench.model("tiny-llama")), "--dataset", str(pairs)]
    assert run(["train", "--objective", "reward", *named, *options, "--out", str(tmp_path / "reward")]) == 0
    path = tmp_path / "reward" / "model"
    reward = json.dumps([{"name": "reward-model", "path": str(path)}])
    found = {}
    for name, sets in {
        "one": ("backbone.lora.rank=2", f"objective.critic.source={path}"),
        "own": ("objective.critic.kind=copy", f"objective.critic.source={path}"),
    }.items():
        options = [part for text in sets for part in ("--set", text)]
        code, _, err = train("ppo", "--set", f"rollout.rewards={reward}", *options, "--out", str(tmp_path / name))
        assert code == 0, err
        assert ("an adapter on the policy's weights" in err) == (name == "one")
        found[name] = pq.read_table(tmp_path / name / "experience" / "step-00001.parquet")
    assert found["one"].column("ids") == found["own"].column("ids")  # no update was made before
    for column in ("score", "values"):
        one, own = (torch.tensor(_flat(table.column(column).to_pylist())) for table in found.values())
        assert torch.allclose(one, own, atol=1e-5), column


def _flat(values: list) -> list[float]:
    return [x for row in values for x in (row if isinstance(row, list) else [row])]


def test_a_reward_that_fails_leaves_the_state_before_its_step(train, tmp_path: Path) -> None:
    """Mended, the run goes on from there; a changed reward must be accepted by hand."""
    mine, out = tmp_path / "mine.py", tmp_path / "run"
    body = "\ndef score(answers):\n    calls.append(1)\n    {fail}\n    return [float(len(a)) for a in answers]\n"
    mine.write_text("calls = []\n" + body.format(fail="assert len(calls) < 2, 'the service is down'"), encoding="utf-8")
    reward = json.dumps([{"name": "function", "function": f"{mine}:score"}])
    code, _, err = train("grpo", "--set", f"rollout.rewards={reward}", "--set", "train.save_every=0", "--out", str(out))
    assert code == 1 and "the service is down (mine.py:5)" in err, err
    assert err.index("the service is down") < err.index(f"then: mmalign train --resume {out}"), "error first"
    assert "--allow-change" in err
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-000001"]
    mine.write_text("calls = []\n" + body.format(fail="pass"), encoding="utf-8")
    assert run(["train", "--resume", str(out)]) == 1  # it is not the reward that the run began with
    assert run(["train", "--resume", str(out), "--allow-change"]) == 0
    assert [record["step"] for record in records(out) if "loss" in record] == [1, 2]


@pytest.mark.parametrize("change", ["objective.critic.kind=copy", "objective.critic.kind=adapter"])
def test_changed_options_that_do_not_fit_leave_the_run_as_it_was(train, tmp_path: Path, capsys, change: str) -> None:
    out = tmp_path / "run"
    assert train("ppo", "--reward", "length", "--set", "objective.critic.kind=head", "--out", str(out))[0] == 0
    before = (out / "config.yaml").read_text()
    more = ["--set", change, "--set", "train.steps=3", "--allow-change"]
    assert run(["train", "--resume", str(out), *more]) in (1, 2)
    assert "Traceback" not in (err := capsys.readouterr().err) and "internal error" not in err
    assert (out / "config.yaml").read_text() == before
    assert run(["train", "--resume", str(out), "--set", "train.steps=3", "--allow-change"]) == 0
