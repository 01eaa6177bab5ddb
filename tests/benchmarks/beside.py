"""What the comparisons with other trainers share: sides that alternate, each run a process of its own, and a clock of
its steps.

means = alternate([__file__, "--steps", "8", "--one", "{side}", "sft", str(folder)], repeats=2)
means["trl"]["seconds"] / means["mmalign"]["seconds"]
"""

import json
import statistics
import subprocess
import sys
import time
from typing import Any

SIDES = ("mmalign", "trl")


def alternate(command: list[str], repeats: int, sides: tuple[str, ...] = SIDES) -> dict[str, dict[str, float]]:
    """Of each side the medians of what its runs print, a line of JSON with numbers; {side} is filled in."""
    found: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for _ in range(repeats):
        for side, results in found.items():
            filled = [side if part == "{side}" else part for part in command]
            done = subprocess.run([sys.executable, *filled], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr[-3000:]
            results.append(json.loads(done.stdout.splitlines()[-1]))
    return {
        side: {name: statistics.median(result[name] for result in results) for name in results[0]}
        for side, results in found.items()
    }


def clock() -> Any:
    """A callback for transformers' Trainer: `wall` and `cpu` hold the seconds of each step."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        wall: list[float]
        cpu: list[float]

        def __init__(self) -> None:
            self.wall, self.cpu = [], []

        def on_step_begin(self, *arguments: Any, **options: Any) -> None:
            self.wall.append(-time.perf_counter())
            self.cpu.append(-time.process_time())

        def on_step_end(self, *arguments: Any, **options: Any) -> None:
            self.wall[-1] += time.perf_counter()
            self.cpu[-1] += time.process_time()

    return Clock()
