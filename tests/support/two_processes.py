"""A command of mmalign on two processes of this machine, as torchrun starts it."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence

from tests.support.project import python_path


def run_on_two(arguments: Sequence[str]) -> list[int]:
    """The exit codes of `mmalign ARGUMENTS` on both."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launched = []
    for rank in range(2):
        ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = {**os.environ, "PYTHONPATH": python_path(), **{name: str(value) for name, value in ranks.items()}}
        launched.append(subprocess.Popen([sys.executable, "-m", "mmalign", *arguments], env=environment))
    return [process.wait(200) for process in launched]
