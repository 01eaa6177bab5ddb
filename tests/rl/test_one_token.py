"""The smoke test of reinforcement learning: a reward that counts one token takes a model from chance to always.

python -m mmalign train --objective ppo ... with a function as the reward, on a tiny model with random weights.
"""

import json
from pathlib import Path

import pytest

from mmalign.cli import run
from mmalign.testing.bench import Workbench
from mmalign.testing.subjects import TEXTS, single_thread

TOKEN = 42
REWARD = f"def share(completion_ids):\n    return [ids.count({TOKEN}) / len(ids) for ids in completion_ids]\n"
OPTIONS = {
    "train.steps": 22, "train.batch_size": 16, "train.learning_rate": 0.03, "train.warmup_steps": 2,
    "train.schedule": "constant", "optimizer.weight_decay": 0, "train.save_every": 0, "data.num_workers": 0,
    "data.max_lost": 1, "rollout.samples": 8, "rollout.max_tokens": 6, "rollout.keep_experience": 0,
    "evaluation.samples": 0,
}  # fmt: skip
OWN = {
    "ppo": {"objective.kl_coef": 0, "objective.epochs": 2},
    "grpo": {"objective.beta": 0},
}


@pytest.mark.parametrize("objective", OWN)
def test_from_chance_to_always(objective: str, bench: Workbench, tmp_path: Path) -> None:
    (tmp_path / "count.py").write_text(REWARD)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"{text} {i}"}) + "\n" for i in range(4) for text in TEXTS))
    reward = json.dumps([{"name": "function", "function": f"{tmp_path / 'count.py'}:share"}])
    sets = {**OPTIONS, **OWN[objective], "rollout.rewards": reward}
    command = ["train", "--objective", objective, "--backbone", str(bench.model("tiny-gpt2"))]
    command += ["--dataset", str(prompts), "--device", "cpu", "--out", str(tmp_path / "run")]
    with single_thread():
        assert run([*command, *(part for key, value in sets.items() for part in ("--set", f"{key}={value}"))]) == 0
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    scores = [record["score"] for record in records if "score" in record]
    assert scores[0] < 0.02 and scores[-1] >= 0.95, scores
