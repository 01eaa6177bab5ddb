"""Two processes under gloo give one process's gradients, every parameter, scale and bias included, and its run."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mmalign.cli import run
from mmalign.testing.bench import Workbench
from mmalign.train import checkpoint
from mmalign.train.distributed import Processes
from tests.support.distributed_worker import CASES, gradients_of
from tests.support.pictures import write_pairs
from tests.support.project import python_path
from tests.support.resume_cases import Lab, assert_same_run, newest


def test_two_processes_equal_one(tiny_folder: Path, tmp_path: Path) -> None:
    launch_two(["-m", "tests.support.distributed_worker", str(tiny_folder), str(tmp_path / "out")])
    found = [load_file(f"{tmp_path}/out-{rank}.safetensors") for rank in range(2)]
    for loss, micro in CASES:
        expected = gradients_of(tiny_folder, Processes("cpu"), loss, 0)
        assert any("logit_scale" in name for name in expected)
        for name, value in expected.items():
            for tensors in found:
                got = tensors[f"{loss}-{micro}/{name}"]
                torch.testing.assert_close(got, value, rtol=1e-10, atol=1e-10, msg=f"{loss} {micro} {name}")


def test_a_run_of_two_processes_is_the_run_of_one(tiny_folder: Path, tmp_path: Path, capsys) -> None:
    pairs = write_pairs(tmp_path / "pairs")
    sets = ("train.steps=4", "train.batch_size=8", "train.learning_rate=0.01", "data.num_workers=0", "train.keep=9")
    sets += (
        "train.warmup_steps=20",
        "train.eval_every=1",
        "train.save_every=0",
    )  # the best is known to one process, and saved by both
    command = ["-m", "mmalign", "train", "--objective", "contrastive", "--backbone", str(tiny_folder)]
    command += ["--dataset", str(pairs), "--device", "cpu", *(part for value in sets for part in ("--set", value))]
    launch_two([*command, "--out", str(tmp_path / "two")])
    assert run([*command[2:], "--out", str(tmp_path / "one")]) == 0
    models = [load_file(tmp_path / name / "model" / "open_clip_model.safetensors") for name in ("one", "two")]
    for name, value in models[0].items():
        torch.testing.assert_close(models[1][name], value, rtol=1e-4, atol=1e-5, msg=name)
    texts = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("one", "two")]
    lines = [[json.loads(line) for line in text.splitlines()] for text in texts]
    assert [record["step"] for record in lines[1]] == [record["step"] for record in lines[0]]
    losses = [[record["loss"] for record in found if "loss" in record] for found in lines]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    best = [
        checkpoint.load(checkpoint.committed(tmp_path / name / "checkpoints")[-1]).state["best"]
        for name in ("one", "two")
    ]
    assert best[0] is not None and best[0]["step"] == best[1]["step"]
    # It goes on where it stopped only with as many processes.
    shutil.rmtree(tmp_path / "two" / "model")
    info = json.loads((tmp_path / "two" / "run.json").read_text())
    (tmp_path / "two" / "run.json").write_text(json.dumps({**info, "status": "interrupted"}))
    assert run(["train", "--resume", str(tmp_path / "two")]) == 1
    assert "2 processes saved the checkpoint, this run has 1" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["contrastive", "dpo"])
def test_two_processes_go_on_to_the_same_bits(objective: str, tmp_path: Path) -> None:
    lab = Lab(Workbench({}, {}), tmp_path)
    plan = lab.plan(objective, "micro-batches")
    (tmp_path / "config.yaml").write_text(plan.to_yaml())
    command = ["-m", "mmalign", "train", "--device", "cpu", "--config", str(tmp_path / "config.yaml")]
    launch_two([*command, "--out", str(tmp_path / "whole")])
    run = lab.copy(tmp_path / "whole")
    shutil.rmtree(run / "model")
    shutil.rmtree(newest(run))
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**info, "status": "running"}))
    launch_two(["-m", "mmalign", "train", "--resume", str(run)])
    assert_same_run(run, tmp_path / "whole")


def launch_two(command: list[str]) -> None:
    """Run a command as two processes of one group, as torchrun would; both must succeed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen(
            [sys.executable, *command],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank), "PYTHONPATH": python_path()},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [worker.communicate(timeout=240)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], errors
