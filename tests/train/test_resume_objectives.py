"""Every objective of the catalog, stopped in every way, goes on to the same bits; a plugin's objective as well.

python -m pytest tests/train/test_resume_objectives.py             # all ways in one path, for each objective
python -m pytest -m slow tests/train/test_resume_objectives.py     # each way from each moment, in each variant
"""

import functools
import importlib
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import numpy
import pyarrow.parquet as pq
import pytest
import torch
from mmalign_data import reviews
from mmalign_objectives.ppo import ProximalPolicyOptimization
from mmalign_objectives.sft import SupervisedFineTuning

from mmalign.registry.catalog import Catalog
from mmalign.registry.plugins import load_plugins
from mmalign.rl.rollout import Sampler
from mmalign.stop import Interrupted
from mmalign.testing.bench import Workbench
from mmalign.train import checkpoint, finish, heldout, rng
from mmalign.train.reference_cache import FrozenCache
from tests.support.resume_cases import (
    STEPS,
    VARIANTS,
    Lab,
    assert_same_run,
    assert_same_tensors,
    harm,
    newest,
    quick_runs,
)

OBJECTIVES = [entry.qualified for entry in Catalog(load_plugins()).entries("objectives")]
KILLED = f"{STEPS - 1}/{STEPS}"  # in the last step but one: the newest checkpoint is one step old


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Few film reviews are read, too."""
    read = reviews.read
    with quick_runs() as patch:
        patch.setattr(reviews, "read", functools.cache(lambda split: read(split)[:200]))
        yield Lab(Workbench({}, {}), tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_killed_damaged_and_stopped_twice(lab, objective) -> None:
    """Killed; the newest checkpoint and what the reference said are damaged; stopped by a signal on the way."""
    all_ways(lab, objective, "micro-batches")


@pytest.mark.parametrize(("objective", "variant"), [("dpo", "lora"), ("ppo", "lora")])
def test_an_adapter_goes_on_as_well(lab, objective, variant) -> None:
    pytest.importorskip("peft", reason="adapters need peft")
    all_ways(lab, objective, variant)


def all_ways(lab: Lab, objective: str, variant: str) -> None:
    whole = lab.whole(objective, variant)
    run = lab.copy(whole.moments[KILLED])
    damaged = newest(run)
    harm(damaged / "optimizer.safetensors")
    for cache in run.glob("frozen-*/*"):
        harm(cache)
    lines = lab.resume_until(run, f"step {KILLED}", signal.SIGINT)
    assert any(f"{damaged.name} is damaged" in line for line in lines), lines
    assert newest(run).name == f"step-{STEPS - 1:06d}"
    lab.resume(run)
    assert_same_run(run, whole.folder)


@pytest.mark.parametrize("part", ["optimizer", "rng", "model"])
def test_each_part_of_a_checkpoint_is_needed(lab, part, monkeypatch) -> None:
    """Without it the weights differ: what is compared here depends on all that a checkpoint holds."""
    whole = lab.whole("sft", "micro-batches")
    run = lab.copy(whole.moments[KILLED])
    if part == "optimizer":
        monkeypatch.setattr("mmalign.train.optim.OptimizerState.restore", lambda *arguments: None)
    elif part == "rng":
        monkeypatch.setattr(rng, "restore", lambda *arguments: None)
    else:
        monkeypatch.setattr("mmalign.train.roles.Models.load_state", lambda *arguments: None)
    lab.resume(run)
    with pytest.raises(AssertionError):
        assert_same_tensors(*(checkpoint.load(newest(folder)).model for folder in (run, whole.folder)))


@pytest.mark.parametrize("part", ["beta", "moments"])
def test_what_ppo_keeps_between_steps_is_needed(lab, part, monkeypatch) -> None:
    whole = lab.whole("ppo", "micro-batches")
    run = lab.copy(whole.moments[KILLED])
    fresh = {"beta": 0.05, "moments": [0.0, 0.0, 0.0]}
    forgetful = property(
        lambda self: vars(self)["state"], lambda self, state: vars(self).update(state={**state, part: fresh[part]})
    )
    monkeypatch.setattr(ProximalPolicyOptimization, "state", forgetful, raising=False)
    lab.resume(run)
    with pytest.raises(AssertionError):
        assert_same_tensors(*(checkpoint.load(newest(folder)).model for folder in (run, whole.folder)))


def test_a_finished_run_is_extended_as_if_it_had_been_longer(lab) -> None:
    """At a constant rate: a cosine that ends later is another one. What the reference said grows with it."""
    constant = "train.schedule=constant"
    longer = lab.begin(lab.plan("dpo", "micro-batches", constant, "train.steps=8"))
    run = lab.begin(lab.plan("dpo", "micro-batches", constant)).folder
    lab.resume(run, lambda line: None, "train.steps=8")
    assert_same_run(run, longer.folder)


@pytest.mark.parametrize("line", ["step 2/", "step 3/"])
def test_what_an_objective_keeps_and_draws_goes_on_as_well(lab, line, monkeypatch) -> None:
    """A running mean, and random numbers of torch, Python and numpy. An evaluation that a signal cuts short, and that
    is made up for, leaves neither of them twice; and the best checkpoint is known to whoever comes after it."""
    make_restless(monkeypatch)
    whole = lab.begin(lab.plan("sft", "micro-batches"))
    assert checkpoint.load(newest(whole.folder)).state["best"]["step"] == 3
    run = lab.copy(whole.moments[f"1/{STEPS}"])
    interrupt_evaluation(lab, run)  # before the first step
    lab.resume_until(run, line)
    interrupt_evaluation(lab, run)  # after the third
    killed: list[Path] = []
    lab.resume(run, lambda text: killed.append(lab.copy(run)) if text.startswith("step 4/") else None)
    assert_same_run(run, whole.folder)
    lab.resume(killed[0])
    assert_same_run(killed[0], whole.folder)


@pytest.mark.parametrize("unsaved", [True, False])
def test_a_signal_in_a_rollout_discards_it_and_a_resume_repeats_it(lab, unsaved, monkeypatch) -> None:
    """Between two tokens: the state before the step is saved within seconds, unless it was saved just then."""
    whole = lab.whole("ppo", "micro-batches")
    run = lab.copy(whole.moments["3/6"])  # its checkpoint is of step 2
    index, began = 3 if unsaved else 2, list[float]()
    rollout = Sampler.answered

    def interrupted(self, policy, batch, ctx, answers):
        if ctx.step == index:
            monkeypatch.setattr("mmalign_lm.generation.draw", kill)
        return rollout(self, policy, batch, ctx, answers)

    def kill(*arguments):
        began.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Sampler, "answered", interrupted)
    stamp = (newest(run) / "state.json").stat().st_mtime_ns
    with pytest.raises(Interrupted):
        lab.resume(run)
    assert time.perf_counter() - began[0] < 5 and len(began) == 1
    assert newest(run).name == f"step-{index:06d}"
    if not unsaved:
        assert (newest(run) / "state.json").stat().st_mtime_ns == stamp, "what stands is not written again"
    monkeypatch.undo()
    lab.resume(run)
    assert_same_run(run, whole.folder)
    compare_experience(run, whole.folder)


@pytest.mark.parametrize(
    "place", ["mmalign.rl.rollout_batch.per_prompt", "mmalign.ops.policy_gradient.clipped_policy_loss"]
)
def test_a_signal_behind_a_rollout_discards_the_step_too(lab, place, monkeypatch) -> None:
    """In what the reference says, and in the passes of the first update, when the KL controller has moved already."""
    whole = lab.whole("ppo", "micro-batches")
    run = lab.copy(whole.moments["3/6"])
    module, _, name = place.rpartition(".")
    original, rollout = getattr(importlib.import_module(module), name), Sampler.answered
    sent: list[None] = []

    def kill(*arguments):
        if not sent:  # a second signal would end the process
            sent.append(os.kill(os.getpid(), signal.SIGTERM))
        return original(*arguments)

    def rolled(self, policy, batch, ctx, answers):
        found = rollout(self, policy, batch, ctx, answers)
        if ctx.step == 3:
            monkeypatch.setattr(place, kill)
        return found

    monkeypatch.setattr(Sampler, "answered", rolled)
    with pytest.raises(Interrupted):
        lab.resume(run)
    assert newest(run).name == "step-000003"
    monkeypatch.undo()
    lab.resume(run)
    assert_same_run(run, whole.folder)


def compare_experience(found: Path, expected: Path) -> None:
    names = sorted(path.name for path in (expected / "experience").iterdir())
    assert names == ["step-00001.parquet", "step-00002.parquet", "step-00004.parquet", "step-00006.parquet"]
    for name in names:
        tables = [pq.read_table(folder / "experience" / name) for folder in (found, expected)]
        assert tables[0].equals(tables[1]), name


def make_restless(monkeypatch) -> None:
    """Give `sft` a state that each batch moves, and draws from every generator, on which its loss depends."""
    sane = SupervisedFineTuning.loss

    def prepare(self, models, batch, ctx):
        noise = random.random() + float(numpy.random.rand()) + float(torch.rand(()))
        self.state["mean"] = 0.9 * self.state.get("mean", 0.0) + 0.1 * noise
        return batch.with_columns(weight=torch.full((len(batch),), self.state["mean"]))

    def loss(self, outputs, batch):
        terms, metrics = sane(self, outputs, batch)
        return {name: total * batch["weight"].mean() for name, total in terms.items()}, metrics

    monkeypatch.setattr(SupervisedFineTuning, "prepare", prepare)
    monkeypatch.setattr(SupervisedFineTuning, "loss", loss)


def interrupt_evaluation(lab: Lab, run: Path) -> None:
    """Resume, and send a signal once the held-out loss was worked out, before anything is written of it."""
    real = heldout._heldout_loss

    def interrupted(*arguments):
        real(*arguments)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.MonkeyPatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr(heldout, "_heldout_loss", interrupted)
        lab.resume(run)


def test_a_signal_ends_the_reference_pass_and_the_last_measurements_at_once(lab) -> None:
    whole = lab.whole("dpo", "micro-batches")
    run = lab.copy(whole.moments[f"1/{STEPS}"])
    shutil.rmtree(run / "frozen-0")
    with pytest.MonkeyPatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr(FrozenCache, "_add", lambda *arguments: os.kill(os.getpid(), signal.SIGTERM))
        lab.resume(run)
    assert not (run / "frozen-0").exists()
    with pytest.MonkeyPatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr(finish, "write_samples", lambda job: os.kill(os.getpid(), signal.SIGTERM))
        lab.resume(run)
    assert newest(run).name == f"step-{STEPS:06d}" and not (run / "model").exists()
    lab.resume(run)
    assert_same_run(run, whole.folder)


def test_another_version_of_a_library_is_named(lab) -> None:
    run = lab.copy(lab.whole("sft", "micro-batches").moments[KILLED])
    info = json.loads((run / "run.json").read_text())
    info["versions"]["torch"] = "2.0.0"
    (run / "run.json").write_text(json.dumps(info))
    lines: list[str] = []
    lab.resume(run, lines.append)
    assert any("torch 2.0.0 -> " in line and "its last digits may differ" in line for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_each_way_from_each_moment(lab, objective, variant) -> None:
    """Killed at every line of progress: goes on as it is; without the newest checkpoint; without what a reference said;
    stopped by a signal at each later step."""
    whole = lab.whole(objective, variant)
    for moment, folder in whole.moments.items():
        for change in (lambda run: True, damage_newest, drop_cache):
            run = lab.copy(folder)
            if change(run):
                lab.resume(run)
                assert_same_run(run, whole.folder)
                shutil.rmtree(run)
        for step in range(int(moment.rstrip(":").partition("/")[0]) + 1, STEPS + 1):
            run = lab.copy(folder)
            lab.resume_until(run, f"step {step}/", signal.SIGINT if step % 2 else signal.SIGTERM)
            lab.resume(run)
            assert_same_run(run, whole.folder)
            shutil.rmtree(run)


def damage_newest(run: Path) -> bool:
    found = checkpoint.committed(run / "checkpoints")
    for path in found[-1].iterdir() if found else ():
        harm(path)
    return bool(found)


def drop_cache(run: Path) -> bool:
    found = list(run.glob("frozen-*"))
    for folder in found:
        shutil.rmtree(folder)
    return bool(found)
