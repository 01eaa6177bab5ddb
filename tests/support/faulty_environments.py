"""An environment for each thing that can go wrong, imported by the environments' process."""

import os
import random
import re
import subprocess
import sys
import time
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from mmalign.contract.examples import Message, Prompt, Turns
from mmalign.errors import DataError
from mmalign.rl.environment import Turn

Fault = Literal[
    "", "raises", "raises-ours", "hangs", "hangs-in-c", "exits", "segfault", "not-a-turn", "nan", "text-reward",
    "done-is-1", "observation-none", "counts", "reset-none", "reset-list", "reset-raises", "reset-random", "child",
    "step-random", "endless", "speaks-after-the-end",
]  # fmt: skip


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    fault: Fault = Field("", description="what goes wrong")
    turns: int = Field(2, description="turns of an episode")


class Faulty:
    """Says how many characters it was told, until `turns` are over; the last pays the number of the turn."""

    Config: ClassVar[type[BaseModel]] = Config

    def __init__(self, config: Config) -> None:
        self.config, self.turn = config, 0

    def reset(self, example: Prompt, seed: int) -> Turns:
        fault: Any = self.config.fault
        wrong = {"reset-none": None, "reset-list": [Message("user", "x")], "reset-random": str(time.perf_counter_ns())}
        if fault == "reset-raises":
            raise KeyError("no such tool")
        print("a print of the environment's goes to stderr")
        return wrong[fault] if fault in wrong else example.prompt

    def step(self, action: str) -> Turn:
        self.turn += 1
        if self.config.fault in MISDEEDS:
            return MISDEEDS[self.config.fault]()
        if self.turn >= self.config.turns and self.config.fault != "endless":
            return Turn("and?" if self.config.fault == "speaks-after-the-end" else "", float(self.turn), True)
        return Turn(f" {len(action)} ", 0.5, False, {"long": int(len(action) > 10)})


def _by_default(name: Fault) -> type:
    """A class for the conformance kit, which takes default options."""
    config = create_model("Config", __base__=Config, fault=(Fault, Field(name, description="what goes wrong")))
    return type("Faulty", (Faulty,), {"Config": config})


Sound, Raises, Endless = _by_default(""), _by_default("raises"), _by_default("endless")
StepRandom, SpeaksAfterTheEnd = _by_default("step-random"), _by_default("speaks-after-the-end")


def _raise() -> Any:
    raise ZeroDivisionError("tool divides by zero")


def _raise_ours() -> Any:
    raise DataError("the table of answers is empty", hint="Make it first.")


def _segfault() -> Any:
    sys.stderr.flush()
    os.kill(os.getpid(), 11)
    time.sleep(60)


def _child() -> Turn:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    return Turn(str(child.pid), 0.0, False)


MISDEEDS: dict[str, Any] = {
    "raises": _raise,
    "raises-ours": _raise_ours,
    "hangs": lambda: time.sleep(300),
    "hangs-in-c": lambda: re.match(r"(a+)+$", "a" * 60 + "b"),
    "exits": lambda: sys.exit(3),
    "segfault": _segfault,
    "not-a-turn": lambda: ("", 0.0, True),
    "nan": lambda: Turn("", float("nan"), True),
    "text-reward": lambda: Turn("", "1", True),  # type: ignore[arg-type]
    "done-is-1": lambda: Turn("", 0.0, 1),  # type: ignore[arg-type]
    "observation-none": lambda: Turn(None, 0.0, True),  # type: ignore[arg-type]
    "counts": lambda: Turn("", 0.0, True, {"calls": 0.5}),  # type: ignore[dict-item]
    "child": _child,
    "step-random": lambda: Turn("", random.random(), True),
}
