"""PPO on two and on four processes has one process's advantages, KL coefficient and weights.

python -m pytest tests/train/test_online_distributed.py             # two
python -m pytest -m slow tests/train/test_online_distributed.py     # four
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support.project import python_path


@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_many_processes_learn_what_one_does(world: int, tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": python_path(), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.support.online_worker", str(tmp_path), "1", str(world)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    alone = load_file(tmp_path / "1-0.safetensors")
    assert float(alone["beta"]) != 0.2
    found = [load_file(tmp_path / f"{world}-{rank}.safetensors") for rank in range(world)]
    assert all(("failed" in tensors) == (world == 2) for tensors in found)
    for step in range(2):
        whole = torch.cat([tensors[f"advantages-{step}"] for tensors in found])
        torch.testing.assert_close(whole, alone[f"advantages-{step}"], rtol=0, atol=1e-9)
    for name in alone:
        for tensors in found if not name.startswith("advantages") else ():
            torch.testing.assert_close(tensors[name], alone[name], rtol=0, atol=1e-9, msg=f"{world}: {name}")
