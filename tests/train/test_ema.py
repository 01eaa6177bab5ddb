"""The moving average of the policy's weights: against a loop, and through a run that is stopped and resumed."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from mmalign.cli import run
from mmalign.testing.bench import Workbench
from mmalign.train.ema import MovingAverage


def test_the_average_forgets_exponentially() -> None:
    weight = nn.Parameter(torch.tensor([1.0, 2.0]))
    average = MovingAverage([("w", weight)], decay=0.9)
    expected = weight.detach().clone()
    for step in range(5):
        with torch.no_grad():
            weight.add_(step)
        average.update()
        expected = 0.9 * expected + 0.1 * weight.detach()
    state = {name: tensor.clone() for name, tensor in average.state().items()}
    assert torch.allclose(state["average/w"], expected)
    other = MovingAverage([("w", nn.Parameter(torch.zeros(2)))], decay=0.9)
    other.load_state(state)
    other.take_over()
    average.take_over()
    assert torch.allclose(weight, expected) and torch.equal(other.state()["average/w"], state["average/w"])


def test_the_saved_model_is_the_average_also_after_a_resume(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": f"a small dog and {n} cats"}) + "\n" for n in range(8)))
    bench = Workbench({}, {})  # its folder goes with it
    model = str(bench.model("tiny-llama"))
    sets = ["train.batch_size=4", "train.ema_decay=0.5", "data.num_workers=0", "train.learning_rate=0.01"]
    sets += ["train.warmup_steps=1", "train.schedule=constant", "dataset.holdout=0", "evaluation.samples=0"]
    options = [part for text in sets for part in ("--set", text)]
    base = ["train", "--objective", "pretrain", "--backbone", model, "--dataset", str(texts), *options]
    saved = {}
    for steps in (1, 2, 3):
        out = tmp_path / str(steps)
        assert run([*base, "--set", f"train.steps={steps}", "--out", str(out)]) == 0
        saved[steps] = load_file(out / "model" / "model.safetensors")
    assert run(["train", "--resume", str(tmp_path / "2"), "--set", "train.steps=3", "--allow-change"]) == 0
    resumed = load_file(tmp_path / "2" / "model" / "model.safetensors")
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in saved[3].items())

    state = load_file(tmp_path / "3" / "checkpoints" / "step-000003" / "model.safetensors")
    name = next(name for name in state if name.startswith("average/") and state[name].ndim == 2)
    live = state[name.removeprefix("average/")]
    assert not torch.equal(state[name], live)
    key = name.removeprefix("average/policy.")
    assert torch.equal(saved[3][key], state[name])


def test_wrong_decay(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "--objective", "dpo", "--set", "train.ema_decay=1"]) == 2
    assert "ema_decay" in capsys.readouterr().err
