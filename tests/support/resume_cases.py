"""Runs of any objective of the catalog on a tiny model, stopped and resumed in every way, and compared in bits.

One uninterrupted run gives the answer; copies of its folder, made while it runs, are what a SIGKILL at that moment
leaves on the disk.
"""

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from mmalign_report import page

from mmalign.contract.specs import Entry
from mmalign.registry.compat import check
from mmalign.stop import Interrupted
from mmalign.testing.bench import Workbench
from mmalign.testing.subjects import TEXTS, single_thread, source_of
from mmalign.train import checkpoint, finish, preview
from mmalign.train import run as launch
from mmalign.train.layers import load_layers
from mmalign.train.plan import Plan, make_plan
from tests.support.plugin_sites import write_plugin

STEPS = 6
OPTIONS = (
    f"train.steps={STEPS}", "train.batch_size=4", "train.warmup_steps=1", "train.save_every=2", "train.eval_every=3",
    "train.log_every=1", "train.learning_rate=0.003", "train.keep=3", "data.num_workers=0", "data.max_lost=1",
    "evaluation.max_examples=4", "evaluation.samples=1", "evaluation.sample_tokens=3",
)  # fmt: skip
VARIANTS = {
    "micro-batches": ("train.micro_batch_size=2",),
    "whole": (),
    "lora": ("train.micro_batch_size=2", "backbone.lora.rank=2", "backbone.lora.dropout=0.2"),
    "copy": ("train.micro_batch_size=2", "train.frozen_roles=copy"),
    "bf16": ("train.micro_batch_size=2", "train.precision=bf16"),
}
# Of objectives that sample: several updates a step, a second stream, and all that PPO keeps between steps.
REWARD = f"{Path(__file__).with_name('even_share.py')}:even"
ONLINE = (
    f'rollout.rewards=[{{"name": "function", "function": "{REWARD}"}}]',
    "rollout.samples=3", "rollout.max_tokens=4", "rollout.heldout_answers=8", "rollout.keep_experience=2",
    "objective.epochs=2", "objective.minibatches=2",
)  # fmt: skip
OWN = {
    "ppo": (
        "objective.kl_target=0.5", "objective.scale_scores=true",
        "objective.ptx_coef=0.5", "objective.ptx_batch_size=4",
    ),
}  # fmt: skip
PROMPTS = [f"{text} {number}" for number in range(5) for text in TEXTS]
_RANDOM = {"dropout": 0.2, "patch_dropout": 0.3, "neftune_alpha": 5}  # where a backbone has such an option
_SPEEDS = ("examples_per_second", "tokens_per_second", "peak_memory_mb")


def quiet(line: str) -> None:
    """A `say`."""


@dataclass
class Whole:
    """A run that nothing stopped. moments: line of progress -> the folder as it was then."""

    folder: Path
    moments: dict[str, Path]


class Lab:
    """Plans and runs by (objective, variant); whole runs are made once."""

    def __init__(self, bench: Workbench, root: Path, device: str = "cpu") -> None:
        self.bench, self.catalog, self._root, self._device = bench, bench.catalog, root, device
        self._wholes: dict[tuple[str, str], Whole] = {}
        self._copies = 0

    def plan(self, objective: str, variant: str, *options: str, dataset: str = "") -> Plan:
        """On the first tiny model that fits, with all its randomness, and the default data of the objective's kind;
        prompts are the kit's texts."""
        entry = self.catalog.find("objectives", objective)
        source = source_of(self._model(entry), self.bench)
        fields = self.catalog.load_config(source.entry).model_fields
        noise = tuple(f"backbone.{name}={value}" for name, value in _RANDOM.items() if name in fields)
        names = {"objective": objective, "backbone": str(source.path)}
        own = (*(ONLINE if entry.spec.online else ()), *OWN.get(entry.spec.name, ()))
        if entry.spec.online or dataset:
            names["dataset"] = dataset or write_prompts(self._root / "prompts.jsonl", *PROMPTS)
        sets = [*OPTIONS, *noise, *VARIANTS[variant], *own, *options]
        return make_plan(self.catalog, load_layers(sets=sets, names=names))

    def _model(self, entry: Entry) -> str:
        for name in self.bench.model_names:
            verdict = check(entry.spec, source_of(name, self.bench).family, self.catalog)
            if verdict.ok and verdict.view is None:
                return name
        raise LookupError(f"the kit has no model for {entry.spec.name}")

    def whole(self, objective: str, variant: str) -> Whole:
        if (objective, variant) not in self._wholes:
            self._wholes[objective, variant] = self.begin(self.plan(objective, variant))
        return self._wholes[objective, variant]

    def begin(self, plan: Plan) -> Whole:
        """A run from the start to the end, with a copy of its folder at every line of progress."""
        run = Whole(self._new(), {})

        def say(line: str) -> None:
            line = as_line(line)
            if line.startswith("step "):
                run.moments[line.partition(" ")[2].partition(" ")[0]] = shutil.copytree(run.folder, self._new())

        launch.start(plan, self.catalog, folder=run.folder, device=self._device, say=say)
        return run

    def copy(self, folder: Path) -> Path:
        return shutil.copytree(folder, self._new())

    def resume(self, folder: Path, say: Callable[[str], None] = quiet, *sets: str) -> None:
        launch.resume(folder, self.catalog, sets=sets, allow_change=bool(sets), device=self._device, say=say)

    def resume_until(self, folder: Path, line: str, signum: int = signal.SIGTERM) -> list[str]:
        """Go on until a line of progress begins so, and get a signal there; returns the lines."""
        lines: list[str] = []

        def say(text: str) -> None:
            lines.append(text)
            if as_line(text).startswith(line):
                os.kill(os.getpid(), signum)

        try:
            self.resume(folder, say)
        except Interrupted as interruption:
            assert interruption.signum == signum
            return lines
        raise AssertionError(f"the run ended without {line!r}: {lines}")

    def _new(self) -> Path:
        self._copies += 1
        return self._root / f"run-{self._copies}"


def write_prompts(path: Path, *prompts: str) -> str:
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    return str(path)


def as_line(text: str) -> str:
    """A row of the table of an online objective as the line of progress that other objectives have."""
    first = text.split()[0] if text.strip() else ""
    return f"step {first}/{STEPS}" if first.isdigit() else text


def harm(path: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def newest(folder: Path) -> Path:
    return checkpoint.committed(folder / "checkpoints")[-1]


def assert_same_run(found: Path, expected: Path) -> None:
    """The last checkpoint (weights, optimiser, generators, counts), the saved model and every measurement."""
    runs = [checkpoint.load(newest(folder)) for folder in (found, expected)]
    assert [run.step for run in runs] == [runs[1].step] * 2
    for part in ("model", "optimizer", "rng"):
        assert_same_tensors(*(getattr(run, part) for run in runs))
    states = [{name: value for name, value in run.state.items() if not name.endswith("seconds")} for run in runs]
    assert states[0] == states[1]
    saved = sorted(path.relative_to(expected) for path in (expected / "model").rglob("*.safetensors"))
    assert saved, "a run saves a model"
    for path in saved:
        assert (found / path).read_bytes() == (expected / path).read_bytes(), path
    assert measurements(found) == measurements(expected)


def assert_same_tensors(found: Any, expected: Any) -> None:
    assert list(found) == list(expected) and expected
    changed = [name for name, tensor in expected.items() if not torch.equal(found[name], tensor)]
    assert not changed, changed


def measurements(folder: Path) -> list[dict[str, Any]]:
    records = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    timed = (*_SPEEDS, "seconds_")
    return [{name: value for name, value in r.items() if not name.startswith(timed)} for r in records]


@contextmanager
def quick_runs() -> Iterator[pytest.MonkeyPatch]:
    """Within, reports are not drawn and few examples surveyed: nothing of it touches what is compared, and both take
    most of the time of a run this small."""
    with pytest.MonkeyPatch.context() as patch, single_thread():
        patch.setattr(page, "write_page", lambda *arguments: None)
        patch.setattr(finish, "SURVEYED", 8)
        patch.setattr(preview, "SURVEYED", 8)
        yield patch


@contextmanager
def lab_with_plugin(root: Path, name: str, source: str) -> Iterator[Lab]:
    """A lab whose catalog has a plugin with this source, too."""
    write_plugin(root / "site", name, source)
    with pytest.MonkeyPatch.context() as patch, quick_runs():
        patch.syspath_prepend(str(root / "site"))
        yield Lab(Workbench({}, {}), root / "runs")
