"""Runs that stop and go on: kills, signals, damage, drift, locks, full disks. Final weights are compared in bits."""

import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mmalign.errors import CheckpointError, NonFiniteError, UsageError
from mmalign.stop import Interrupted
from mmalign.train import checkpoint, heldout
from mmalign.train import run as launch
from mmalign.train.finish import Outcome
from mmalign.train.layers import load_layers
from mmalign.train.plan import make_plan
from mmalign.train.run_folder import Run
from tests.support.pictures import write_pairs
from tests.support.project import python_path

OPTIONS = (
    "train.steps=8", "train.batch_size=8", "train.micro_batch_size=4", "train.warmup_steps=2", "train.save_every=2",
    "train.learning_rate=0.003", "train.keep=3", "data.num_workers=0", "backbone.patch_dropout=0.3",
    'evaluation.names=["retrieval"]',
)  # fmt: skip


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs"))


@pytest.fixture
def begin(catalog, tiny_folder, pairs):
    """begin(folder, *options, hook=...) starts a run on the tiny model; returns the outcome."""

    def start(
        folder: Path, *options: str, say=lambda line: None, data: Path = pairs, backbone: Path = tiny_folder
    ) -> Outcome:
        names = {"objective": "contrastive", "backbone": str(backbone), "dataset": str(data)}
        plan = make_plan(catalog, load_layers(sets=[*OPTIONS, *options], names=names))
        return launch.start(plan, catalog, folder=folder, device="cpu", say=say)

    return start


@pytest.fixture
def go_on(catalog):
    def resume(folder: Path, *sets: str, allow_change: bool = False, lines: list[str] | None = None):
        say = (lambda line: None) if lines is None else lines.append
        return launch.resume(folder, catalog, sets=sets, allow_change=allow_change, device="cpu", say=say)

    return resume


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model" / "open_clip_model.safetensors").read_bytes()).hexdigest()


def stop_after(step: int, signum: int = signal.SIGINT):
    """A `say` that sends this process a signal when the loop reports that step."""

    def say(line: str) -> None:
        if line.startswith(f"step {step}/"):
            os.kill(os.getpid(), signum)

    return say


@pytest.fixture(scope="module")
def reference(catalog, tiny_folder, pairs, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("reference") / "run"
    names = {"objective": "contrastive", "backbone": str(tiny_folder), "dataset": str(pairs)}
    plan = make_plan(catalog, load_layers(sets=[*OPTIONS, "train.log_every=1"], names=names))
    launch.start(plan, catalog, folder=folder, device="cpu", say=lambda line: None)
    return digest(folder)


@pytest.mark.parametrize(("step", "signum"), [(1, signal.SIGTERM), (3, signal.SIGINT), (7, signal.SIGINT)])
def test_a_signal_saves_and_the_run_goes_on_to_the_same_weights(
    begin, go_on, reference, tmp_path, step, signum
) -> None:
    with pytest.raises(Interrupted) as stopped:
        begin(tmp_path / "run", "train.log_every=1", say=stop_after(step, signum))
    assert stopped.value.signum == signum
    assert checkpoint.committed(tmp_path / "run" / "checkpoints")[-1].name == f"step-{step:06d}"
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "interrupted"
    outcome = go_on(tmp_path / "run")
    assert digest(outcome.folder) == reference
    steps = [record["step"] for record in map(json.loads, (outcome.folder / "metrics.jsonl").read_text().splitlines())]
    assert sorted(set(steps)) == list(range(9)) and steps == sorted(steps)


def _harm(path: Path, harm: str) -> None:
    content = path.read_bytes()
    middle = len(content) // 2
    if harm == "delete":
        path.unlink()
    elif harm == "truncate":
        path.write_bytes(content[:middle])
    else:
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])


FILES = ("model.safetensors", "optimizer.safetensors", "rng.safetensors", "state.json", "manifest.json")


@pytest.mark.parametrize("harm", ["flip", "truncate", "delete"])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_checkpoint_is_passed_over_and_named(tmp_path, harm, name) -> None:
    import torch

    for step in (1, 2):
        tensors = {"w": torch.full((64,), float(step))}
        saved = checkpoint.Checkpoint(step, tensors, tensors, tensors, {"note": "x" * 50})
        checkpoint.save(tmp_path, saved)
    _harm(tmp_path / "step-000002" / name, harm)
    lines: list[str] = []
    found = checkpoint.newest(tmp_path, lines.append)
    assert found is not None and found.step == 1 and float(found.model["w"][0]) == 1.0
    assert len(lines) == 1 and "step-000002 is damaged" in lines[0]


def test_a_run_falls_back_past_damage_to_the_same_weights(begin, go_on, reference, tmp_path) -> None:
    with pytest.raises(Interrupted):
        begin(tmp_path / "run", "train.log_every=1", say=stop_after(6))
    _harm(tmp_path / "run" / "checkpoints" / "step-000006" / "model.safetensors", "flip")
    lines: list[str] = []
    outcome = go_on(tmp_path / "run", lines=lines)
    assert any("step-000006 is damaged" in line for line in lines)
    assert any("resuming at step 4" in line for line in lines)
    assert digest(outcome.folder) == reference


def test_kills_at_random_moments_resume_to_the_same_weights(tiny_folder, pairs, tmp_path) -> None:
    result = _kill_server(tiny_folder, pairs, tmp_path, trials=4)
    assert result["identical"] == result["trials"] == 4, result
    assert result["checkpoints_seen"] > 0 and result["checkpoints_broken"] == 0, result


@pytest.mark.slow
def test_twenty_trials_of_three_kills(tiny_folder, pairs, tmp_path) -> None:
    result = _kill_server(tiny_folder, pairs, tmp_path, trials=20, kills=3)
    assert result["identical"] == result["trials"] == 20 and result["checkpoints_broken"] == 0, result


def _kill_server(model: Path, data: Path, out: Path, trials: int, kills: int = 2) -> dict:
    command = [sys.executable, "-m", "tests.support.kill_server", *map(str, (model, data, out, trials, kills, 0))]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": python_path()}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_nan_stops_before_the_update_and_names_the_batch(begin, tmp_path, monkeypatch) -> None:
    import torch
    from mmalign_objectives.contrastive import Contrastive

    sane = Contrastive.loss
    calls, updates = [], []
    update = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, *a: (updates.append(1), update(self, *a))[1])

    def poisoned(self, outputs, batch):
        sums, metrics = sane(self, outputs, batch)
        calls.append(1)
        return (
            ({name: total * torch.nan for name, total in sums.items()}, metrics) if len(calls) == 7 else (sums, metrics)
        )

    monkeypatch.setattr(Contrastive, "loss", poisoned)
    with pytest.raises(NonFiniteError, match=r"the batch holds .*png|the batch holds .*pairs"):
        begin(tmp_path / "run")
    saved = checkpoint.newest(tmp_path / "run" / "checkpoints", lambda line: None)
    assert saved is not None and saved.step >= 2
    assert len(calls) == 7 and len(updates) == 5, "one held-out loss, five good steps, and no update after the sixth"
    assert all(bool(torch.isfinite(tensor).all()) for tensor in saved.model.values())


def test_a_finished_run_is_not_repeated(begin, go_on, tmp_path) -> None:
    before = begin(tmp_path / "run", "train.steps=2")
    stamp = (tmp_path / "run" / "model" / "open_clip_model.safetensors").stat().st_mtime_ns
    lines: list[str] = []
    assert go_on(tmp_path / "run", lines=lines).after == before.after
    assert "finished already" in lines[0]
    assert (tmp_path / "run" / "model" / "open_clip_model.safetensors").stat().st_mtime_ns == stamp


def test_a_folder_in_use_or_taken_is_refused(begin, go_on, tmp_path) -> None:
    with pytest.raises(Interrupted):
        begin(tmp_path / "run", "train.log_every=1", say=stop_after(1))
    with pytest.raises(UsageError, match="not empty") as taken:
        begin(tmp_path / "run")
    assert "--resume" in taken.value.hint
    holder = Run.reopen(tmp_path / "run")
    with pytest.raises(UsageError, match="in use"):
        go_on(tmp_path / "run")
    holder.close()
    with pytest.raises(UsageError, match="holds no run"):
        go_on(tmp_path)


def test_changed_options_are_listed_and_need_leave(begin, go_on, tmp_path) -> None:
    with pytest.raises(Interrupted):
        begin(tmp_path / "run", "train.log_every=1", say=stop_after(2))
    with pytest.raises(UsageError) as drift:
        go_on(tmp_path / "run", "train.learning_rate=0.5", "objective.max_scale=50")
    assert "train.learning_rate: 0.003 -> 0.5" in drift.value.message
    assert "objective.max_scale: 100.0 -> 50.0" in drift.value.message
    assert go_on(tmp_path / "run", "train.steps=4", allow_change=True).summary["steps"] == 4


def test_changed_data_is_refused(begin, go_on, tmp_path) -> None:
    own = write_pairs(tmp_path / "own", copies=4)
    with pytest.raises(Interrupted):
        begin(tmp_path / "run", "train.log_every=1", say=stop_after(2), data=own)
    own.write_text(own.read_text() + own.read_text().splitlines()[1] + "\n")
    with pytest.raises(CheckpointError, match="data changed"):
        go_on(tmp_path / "run")


def test_changed_starting_weights_are_refused(begin, go_on, tiny_folder, tmp_path) -> None:
    own = shutil.copytree(tiny_folder, tmp_path / "own")
    with pytest.raises(Interrupted):
        begin(tmp_path / "run", "train.log_every=1", say=stop_after(2), backbone=own)
    (own / "open_clip_config.json").write_text((own / "open_clip_config.json").read_text() + "\n")
    with pytest.raises(CheckpointError, match="changed since the run started"):
        go_on(tmp_path / "run")
    assert go_on(tmp_path / "run", allow_change=True).summary["steps"] == 8


def test_an_evaluation_that_was_cut_short_is_made_up_for(begin, go_on, tmp_path, monkeypatch) -> None:
    real = heldout.measure

    def interrupted(job, *others):
        if any(group["lr"] for group in job.optimizer.param_groups if job.optimizer.state):
            os.kill(os.getpid(), signal.SIGINT)
        return real(job, *others)

    monkeypatch.setattr(heldout, "measure", interrupted)
    with pytest.raises(Interrupted):
        begin(tmp_path / "run", "train.eval_every=3")
    assert checkpoint.committed(tmp_path / "run" / "checkpoints")[-1].name == "step-000003"
    monkeypatch.setattr(heldout, "measure", real)
    outcome = go_on(tmp_path / "run")
    records = [json.loads(line) for line in (outcome.folder / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if "evaluation" in record] == [0, 3, 6, 8]


def test_a_skipped_update_leaves_no_running_statistics(begin, tiny_bn_folder, tmp_path, monkeypatch) -> None:
    import torch
    from mmalign_clip.open_clip_backbone import OpenClipBackbone

    sane, calls = OpenClipBackbone.encode_image, []

    def poisoned(self, images):
        calls.append(self.module.training)
        return sane(self, images * (torch.nan if sum(calls) == 2 and calls[-1] else 1.0))

    monkeypatch.setattr(OpenClipBackbone, "encode_image", poisoned)
    options = ("train.on_nonfinite=skip", "train.micro_batch_size=0", "backbone.patch_dropout=0", "train.steps=4")
    outcome = begin(tmp_path / "run", *options, backbone=tiny_bn_folder)
    assert outcome.summary["skipped_updates"] == 1
    saved = checkpoint.newest(outcome.folder / "checkpoints", lambda line: None)
    assert saved is not None and any("running_mean" in name for name in saved.model)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in saved.model.values())


def test_a_full_disk_leaves_the_older_checkpoint_and_says_what_is_needed(begin, go_on, reference, tmp_path) -> None:
    with pytest.raises(Interrupted):
        begin(tmp_path / "run", "train.log_every=1", say=stop_after(4))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(CheckpointError, match=r"needs \d+ MB, and \d+ MB are free"):
            go_on(tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    checkpoint.verify(checkpoint.committed(tmp_path / "run" / "checkpoints")[-1])
    assert not list((tmp_path / "run" / "checkpoints").glob(".*partial"))
    assert digest(go_on(tmp_path / "run").folder) == reference


def test_rotation_after_a_fall_back_drops_what_was_damaged(tmp_path) -> None:
    import torch

    tensors = {"w": torch.ones(2)}
    for step in (4, 6):
        checkpoint.save(tmp_path, checkpoint.Checkpoint(step, tensors, tensors, tensors, {}))
    _harm(tmp_path / "step-000006" / "model.safetensors", "flip")
    (tmp_path / ".step-000002.deleted").mkdir()
    checkpoint.save(tmp_path, checkpoint.Checkpoint(5, tensors, tensors, tensors, {}))
    checkpoint.rotate(tmp_path, keep=1, best=None, newest=5)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000005"]


def test_rotation_keeps_the_newest_and_the_best(tmp_path) -> None:
    import torch

    for step in range(1, 8):
        tensors = {"w": torch.ones(2)}
        checkpoint.save(tmp_path, checkpoint.Checkpoint(step, tensors, tensors, tensors, {}))
        checkpoint.rotate(tmp_path, 2, best=2 if step >= 2 else None, newest=step)
        left = [int(path.name[5:]) for path in checkpoint.committed(tmp_path)]
        assert len(left) >= min(2, step) and (step < 2 or 2 in left)
    assert left == [2, 6, 7]
