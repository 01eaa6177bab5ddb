"""Sampling engines: found, checked, told of new weights, named when they fail; continuous batching for real."""

import json
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers.generation.continuous_batching import ContinuousBatchingManager

from mmalign.cli import run
from mmalign.contract.specs import EngineSpec, Entry
from mmalign.errors import EngineError, UsageError
from mmalign.language.sampling import Generated, Sampling
from mmalign.models.references import find_source
from mmalign.rl.engines import Engine, OwnGeneration
from mmalign.rl.environment import Turn
from mmalign.rl.episodes import play
from mmalign.stop import Interrupted
from mmalign.testing.bench import Workbench
from mmalign.testing.subjects import load

pytestmark = pytest.mark.usefixtures("one_thread")

BATCHING = {"name": "continuous-batching"}
PROMPTS = [torch.tensor([5, 6, 7]), torch.tensor([8]), torch.tensor([5, 6, 7, 8, 9, 10])]
SAMPLING = Sampling(max_tokens=6, temperature=0.7)


@pytest.fixture
def policy(bench: Workbench) -> Any:
    return load(find_source(str(bench.model("tiny-llama")), bench.catalog), bench)


def opened(bench: Workbench, policy: Any, options: dict[str, Any] | None = None) -> Engine:
    found = Engine.build(bench.catalog, options or BATCHING, policy, lambda line: None)
    assert found is not None
    return found


class Faulty(OwnGeneration):
    """Draws as the policy does, and then something is done to it."""

    def __init__(self, change: Any) -> None:
        super().__init__(None)
        self.change, self.told = change, []

    def refresh(self, policy: Any) -> None:
        self.told.append("refresh")

    def generate(self, policy: Any, prompts: Sequence[Tensor], sampling: Sampling, seeds: Sequence[int]) -> Any:
        self.told.append("generate")
        return self.change(super().generate(policy, prompts, sampling, seeds))

    def rest(self) -> None:
        self.told.append("rest")


def wrong_first(found: Generated, **changes: Tensor) -> Generated:
    ids, logps = changes.get("ids", found.ids[0]), changes.get("logps", found.logps[0])
    return Generated([ids, *found.ids[1:]], [logps, *found.logps[1:]], found.ended)


FAULTS = {
    "raised ZeroDivisionError": lambda found: 1 / 0,
    "no `mmalign.language.sampling.Generated` of 3 answers": lambda found: Generated(*(part[:2] for part in found)),
    "where 6 tokens are allowed": lambda found: wrong_first(found, ids=found.ids[0].repeat(7)[:7]),
    "an id outside of the vocabulary": lambda found: wrong_first(found, ids=found.ids[0] + 10_000),
    "numbers that are no log-probabilities": lambda found: wrong_first(found, logps=found.logps[0] * float("nan")),
    "although its `ended` is": lambda found: found._replace(ended=[not one for one in found.ended]),
}


@pytest.mark.parametrize("expected", FAULTS)
def test_what_goes_wrong_names_the_engine_and_lets_it_rest(policy: Any, expected: str) -> None:
    own = Faulty(FAULTS[expected])
    engine = Engine(Entry("engines", "odd", EngineSpec(name="odd", summary="", target="odd:Odd")), own)
    with pytest.raises(EngineError, match=r"engine odd \(plugin odd\)") as error, engine.on(policy) as writer:
        writer.generate(PROMPTS, SAMPLING, [0, 1, 2])
    assert expected in error.value.message and "mmalign plugins check odd" in error.value.hint
    assert own.told == ["refresh", "generate", "rest"]


class Tool:
    """An environment that speaks once."""

    def step(self, action: str) -> Turn:
        return Turn(" a red car", 1.0, False)


def test_episodes_of_several_turns_through_continuous_batching(bench: Workbench, policy: Any) -> None:
    """Every action token has the log-probability that the model gives it behind all that was said before."""
    policy.module.get_output_embeddings().weight.data[policy.processor.end_id] += 0.5  # some answers end
    seeds = list(range(8))
    prompts = [PROMPTS[seed % 3] for seed in seeds]
    sampling = replace(SAMPLING, max_tokens=20)
    with opened(bench, policy).on(policy) as writer:
        episodes = play(writer, prompts, [Tool() for _ in prompts], sampling, seeds, max_turns=2)
    assert any(episode.num_turns == 2 for episode in episodes)
    for prompt, episode in zip(prompts, episodes, strict=True):
        row = torch.cat([prompt, episode.ids])
        with torch.no_grad():
            logits = policy.module(input_ids=row[None]).logits[0, len(prompt) - 1 : -1] / 0.7
        own = logits.log_softmax(-1).gather(1, episode.ids[:, None])[:, 0][episode.learn]
        assert torch.allclose(own, episode.logps, atol=1e-5)


def test_a_signal_ends_a_batch_and_the_next_is_whole(
    bench: Workbench, policy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = opened(bench, policy)
    with engine.on(policy) as writer:
        expected = writer.generate(PROMPTS, SAMPLING, [0, 1, 2])
    attention, threads = policy.module.config._attn_implementation, set(threading.enumerate())
    with monkeypatch.context() as patch:

        def signalled(self: Any, *args: Any, **kwargs: Any) -> Any:
            raise Interrupted(2)

        patch.setattr(ContinuousBatchingManager, "get_result", signalled)
        with pytest.raises(Interrupted), engine.on(policy) as writer:
            writer.generate(PROMPTS, SAMPLING, [0, 1, 2])
    assert set(threading.enumerate()) <= threads and policy.module.config._attn_implementation == attention
    with engine.on(policy) as writer:
        again = writer.generate(PROMPTS, SAMPLING, [0, 1, 2])
    assert all(torch.equal(a, b) for a, b in zip(expected.ids, again.ids, strict=True))


def test_a_small_cache_makes_answers_wait(bench: Workbench, policy: Any) -> None:
    engine = opened(bench, policy, {**BATCHING, "cache_tokens": 256, "page_tokens": 16, "batch_tokens": 32})
    prompts = [torch.arange(5, 25)] * 24  # 26 tokens each: not all at once
    with engine.on(policy) as writer:
        found = writer.generate(prompts, SAMPLING, list(range(24)))
    assert all(len(ids) == 6 or ended for ids, ended in zip(found.ids, found.ended, strict=True))
    assert len({tuple(ids.tolist()) for ids in found.ids}) > 20


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_greedy_is_the_policys_greedy(bench: Workbench, policy: Any, device: str) -> None:
    """Whatever the weights have become since it was opened."""
    policy.module.to(device)
    engine = opened(bench, policy)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in policy.module.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    greedy = replace(SAMPLING, temperature=0.0)
    with engine.on(policy) as writer:
        found = writer.generate(PROMPTS, greedy, [0, 1, 2])
    own = policy.generate(PROMPTS, greedy, [0, 1, 2])
    assert all(torch.equal(a, b) for a, b in zip(found.ids, own.ids, strict=True))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found.logps, own.logps, strict=True))


def test_a_family_that_it_would_silently_get_wrong_is_refused(bench: Workbench) -> None:
    bloom = load(find_source(str(bench.model("tiny-bloom")), bench.catalog), bench)
    with pytest.raises(UsageError, match="cannot draw from a BloomForCausalLM") as error:
        opened(bench, bloom)
    assert "rollout.engine" in error.value.hint


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in ("a red car", "tree", "two dogs", "cat")))
    return path


def train(
    bench: Workbench, prompts: Path, out: Path, engine: dict[str, Any], objective: str = "grpo", *more: str
) -> int:
    options = {
        "train.steps": 2, "train.batch_size": 4, "data.num_workers": 0, "rollout.max_tokens": 6, "rollout.samples": 3,
        "rollout.heldout_answers": 4, "evaluation.samples": 0, "dataset.holdout": 0,
        "rollout.engine": json.dumps(engine),
    }  # fmt: skip
    texts = [*(f"{key}={value}" for key, value in options.items()), *more]
    sets = [part for text in texts for part in ("--set", text)]
    model = ["--backbone", str(bench.model("tiny-llama")), "--dataset", str(prompts), "--reward", "length"]
    return run(["train", "--objective", objective, *model, *sets, "--out", str(out)])


def weights(out: Path) -> dict[str, Tensor]:
    return load_file(out / "model" / "model.safetensors")


def test_a_run_by_continuous_batching_is_corrected_and_repeats(
    bench: Workbench, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        assert train(bench, prompts, tmp_path / name, BATCHING) == 0, capsys.readouterr().err
    assert "sampler weight" in capsys.readouterr().err  # a column of the table
    steps = [json.loads(line) for line in (tmp_path / "one" / "metrics.jsonl").read_text().splitlines()]
    steps = [record for record in steps if "loss" in record]
    assert len(steps) == 2
    for step in steps:
        assert step["sampler_gap"] < 1e-5
        assert step["sampler_weight"] == pytest.approx(1, abs=1e-5) and step["sampler_truncated"] == 0
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_engine_policy_is_what_none_is(
    bench: Workbench, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, engine in (("none", {}), ("policy", {"name": "policy"})):
        assert train(bench, prompts, tmp_path / name, engine, "rloo") == 0, capsys.readouterr().err
    none, policy = weights(tmp_path / "none"), weights(tmp_path / "policy")
    assert all(torch.equal(none[name], policy[name]) for name in none)


@pytest.mark.parametrize(
    ("engine", "more", "told"),
    [
        (BATCHING, ("rollout.top_p=0.5",), True),
        (BATCHING, ("rollout.top_p=0.5", "objective.sampler_clip=0"), False),
        (BATCHING, (), False),
        ({"name": "policy"}, ("rollout.top_p=0.5",), False),
    ],
)
def test_weights_of_what_top_p_leaves_out_are_told(
    bench: Workbench,
    prompts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    engine: Any,
    more: Any,
    told: bool,
) -> None:
    """Drawn from half of the probability, each token weighs half, and answers of several tokens next to nothing."""
    out = tmp_path / "run"
    assert train(bench, prompts, out, engine, "rloo", *more) == 0
    assert ("weakens learning" in capsys.readouterr().err) == told
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    found = [step["sampler_weight"] for step in steps if "sampler_weight" in step]
    assert all((weight < 0.5) == told for weight in found) and bool(found) == (engine == BATCHING and len(more) < 2)


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        ({"name": "continuous-batch"}, "Did you mean continuous-batching"),
        ({"page_tokens": 8}, "names no engine"),
        ({**BATCHING, "page_tokens": 1}, "greater than or equal to 4"),
        ({**BATCHING, "pages": 1}, "rollout.engine.pages"),
    ],
)
def test_mistakes(
    bench: Workbench, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], engine: Any, expected: str
) -> None:
    assert train(bench, prompts, tmp_path / "run", engine) == 2
    err = capsys.readouterr().err
    assert expected in err and "Traceback" not in err


def test_engines_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["list", "engines", "--json"]) == 0
    found = {item["name"]: item for item in json.loads(capsys.readouterr().out)["items"]}
    assert found["policy"]["exact"] and not found["continuous-batching"]["exact"]
    assert run(["show", "continuous-batching", "--options"]) == 0
    assert "cache_tokens" in capsys.readouterr().out
