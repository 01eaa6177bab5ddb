"""Two processes under gloo give one process's gradients, every parameter, scale and bias included."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import torch
from distributed_worker import CASES, gradients_of
from safetensors.torch import load_file

from mmalign.train.distributed import Processes


def test_two_processes_equal_one(tiny_folder: Path, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    here = Path(__file__).parent
    workers = [
        subprocess.Popen(
            [sys.executable, str(here / "distributed_worker.py"), str(tiny_folder), str(tmp_path / "out")],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank), "PYTHONPATH": _python_path()},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [worker.communicate(timeout=240)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], errors
    found = [load_file(f"{tmp_path}/out-{rank}.safetensors") for rank in range(2)]
    for loss, micro in CASES:
        expected = gradients_of(tiny_folder, Processes("cpu"), loss, 0)
        assert any("logit_scale" in name for name in expected)
        for name, value in expected.items():
            for tensors in found:
                got = tensors[f"{loss}-{micro}/{name}"]
                torch.testing.assert_close(got, value, rtol=1e-10, atol=1e-10, msg=f"{loss} {micro} {name}")


def _python_path() -> str:
    root = Path(__file__).parents[2]
    return os.pathsep.join([str(root), str(root / "plugins"), str(Path(__file__).parent)])
