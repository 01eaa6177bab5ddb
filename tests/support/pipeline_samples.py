"""A pipeline of seven short stages on a tiny model, and what its runs left."""

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mmalign.cli import run
from mmalign.testing.models import tiny_gpt2

_WORDS = "a the photo of and with cat dog bird fish car tree house red green blue black white small large".split()
TRAIN = {"steps": 3, "batch_size": 4, "warmup_steps": 1, "save_every": 1, "log_every": 1, "learning_rate": 1e-3}
DATA = {"num_workers": 0, "max_lost": 1}
EVALUATION = {"max_examples": 4, "samples": 1, "sample_tokens": 3}
STAGES = ("sft", "judge", "samples", "rankings", "reward", "ppo", "report")


@dataclass(frozen=True)
class Words:
    """A model and its data. completions, rankings, prompts: JSONL files."""

    model: Path
    completions: Path
    rankings: Path
    prompts: Path

    def config(self) -> dict[str, Any]:
        """All of InstructGPT, in three steps a stage."""

        def train(objective: str, backbone: str, dataset: Any, **more: Any) -> dict[str, Any]:
            own = {"objective": objective, "backbone": backbone, "dataset": dataset}
            sections = {"train": dict(TRAIN), "data": dict(DATA), "evaluation": dict(EVALUATION)}
            return {"run": "train", **own, **sections, **more}

        rewards = [{"name": "reward-model", "path": "${reward.model}"}, {"name": "length", "weight": 0}]
        prompts = {"name": str(self.prompts), "holdout": 0.2}
        return {
            "name": "tiny",
            "stages": {
                "sft": train("sft", str(self.model), str(self.completions)),
                "judge": train("reward", str(self.model), str(self.rankings)),
                "samples": {
                    "run": "sample", "backbone": "${sft.model}", "dataset": prompts, "k": 3, "limit": 10,
                    "max_tokens": 5,
                },
                "rankings": {
                    "run": "rank", "answers": "${samples.answers}", "tie": 0.001,
                    "judge": {"name": "reward-model", "path": "${judge.model}"},
                },
                "reward": train("reward", "${sft.model}", "${rankings.rankings}"),
                "ppo": train(
                    "ppo", "${sft.model}", prompts,
                    rollout={"samples": 2, "max_tokens": 5, "rewards": rewards, "heldout_answers": 4},
                ),
            },
            "report": {
                "models": {"start": str(self.model), "SFT": "${sft.model}", "PPO": "${ppo.model}"},
                "against": "SFT", "dataset": prompts, "limit": 5, "max_tokens": 5, "show": 2,
                "judges": [{"name": "length"}, {"name": "reward-model", "label": "reward", "path": "${reward.model}"}],
            },
        }  # fmt: skip


def write_words(root: Path) -> Words:
    rng = random.Random(0)

    def text(number: int) -> str:
        return " ".join(rng.choice(_WORDS) for _ in range(number))

    rows = {
        "completions": [{"prompt": text(3), "completion": " " + text(4)} for _ in range(40)],
        "rankings": [
            {"prompt": text(3), "completions": [f" {text(3)}" for _ in range(3)], "ranks": [1, 2, 3]} for _ in range(40)
        ],
        "prompts": [{"prompt": text(2 + n % 3)} for n in range(40)],
    }
    for name, lines in rows.items():
        (root / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Words(tiny_gpt2(root / "model"), *(root / f"{name}.jsonl" for name in rows))


class Lab:
    """Writes pipeline files and runs them as a user does."""

    def __init__(self, root: Path, words: Words, capsys: Any) -> None:
        self.root, self.words, self._capsys = root, words, capsys

    def write(self, change: Callable[[dict[str, Any]], object] = lambda config: None) -> Path:
        config, path = self.words.config(), self.root / "tiny.yaml"
        change(config)
        # Without aliases: the reader counts them.
        path.write_text(yaml.safe_dump(json.loads(json.dumps(config)), sort_keys=False))
        return path

    def run(self, *arguments: object) -> tuple[int, str, str]:
        """(exit code, stdout, stderr) of a command."""
        self._capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = self._capsys.readouterr()
        return code, captured.out, captured.err


def results(folder: Path) -> dict[str, bytes]:
    """What a pipeline made, by path: weights, answers and rankings, figures."""
    patterns = ("*/model/*.safetensors", "*/answers.jsonl", "*/rankings.jsonl")
    found = sorted(path for pattern in patterns for path in folder.glob(pattern))
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def state(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "pipeline.json").read_text())


def cut(whole: Path, stage: str, folder: Path, change: Callable[[dict[str, Any]], object] | None = None) -> Path:
    """A copy of a finished pipeline as it was before a stage. change: of its configuration."""
    later = STAGES[STAGES.index(stage) :]
    shutil.copytree(whole, folder, ignore=shutil.ignore_patterns(*later, ".lock"))
    found = state(folder)
    found["stages"] = {name: entry for name, entry in found["stages"].items() if name not in later}
    if change is not None:
        change(found["config"])
    (folder / "pipeline.json").write_text(json.dumps(found))
    return folder


def hit_in(stage: str, line: str, hit: Callable[[], None], replace: Callable[[Any, str, Any], None]) -> None:
    """Have `hit` called in a stage: behind a step of its training, or in the middle of its work."""
    from mmalign_pipeline import compare, work

    from mmalign.train.progress import Progress

    if line:
        original = Progress.step

        def step(self: Any, index: int, *arguments: Any) -> None:
            original(self, index, *arguments)
            if self._run.folder.name == stage and f"step {index + 1}" == line:
                hit()

        replace(Progress, "step", step)
        return
    places = {"samples": (work, "sample"), "rankings": (work, "judge_scores"), "report": (compare, "distinct_2")}
    module, name = places[stage]
    inner = vars(module)[name]

    def called(*arguments: Any, **options: Any) -> Any:
        found = inner(*arguments, **options)
        hit()
        return found

    replace(module, name, called)
