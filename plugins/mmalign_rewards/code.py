"""Whether the program in the answer works: `--set rollout.rewards='[{"name": "code"}]'`.

The answer's last fenced block (```python), or the whole answer where it has none, is run by this Python with its
standard library alone. What is right is the example's solution:

    compare: output    what it prints; as JSON {"input": "3\\n", "output": "9\\n"} for what it reads, or a list of them.
                       The score is the share of these cases that come out, white space at the ends of lines aside.
    compare: tests     Python, appended to the program: 1 where all of it runs without error, else 0.

Programs run confined, as `mmalign_rewards.sandbox` says, with what that is not; on a machine that cannot confine them
they do not run, unless told `unsafe: true`. A program sees its own source, tests
included, and can be written to cheat them.
"""

import json
import os
import re
import secrets
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from mmalign.errors import DataError, UsageError
from mmalign_rewards import sandbox

if TYPE_CHECKING:
    import torch

    from mmalign.registry.catalog import Catalog
    from mmalign.rl.answers import Answers

_FENCE = re.compile(r"^[ \t]*```(?:python|py|python3)?[ \t]*\n(.*?)^[ \t]*```", re.MULTILINE | re.DOTALL)
_MIB = 2**20


class CodeConfig(BaseModel):
    """What is right, and the limits of each run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    compare: Literal["output", "tests"] = Field(
        "output", description="the solution is what the program prints (see the module), or test code appended to it"
    )
    cpu_seconds: int = Field(2, ge=1, description="processor time of one run, in seconds")
    wall_seconds: float = Field(4.0, gt=0, description="longest run, in seconds, Python's start included")
    memory_mb: int = Field(512, ge=64, description="address space of one run, in MiB")
    file_kb: int = Field(1024, ge=1, description="largest file that a program may write or print, in KiB")
    unsafe: bool = Field(False, description="run programs even where this machine cannot confine them")
    workers: int = Field(0, ge=0, description="programs that run at once; 0: as many as this machine has cores")


class Code:
    """Of the answer alone, without its prompt."""

    Config: ClassVar[type[BaseModel]] = CodeConfig

    def __init__(self, config: CodeConfig) -> None:
        """Raises UsageError on a system without resource limits."""
        if os.name != "posix":
            raise UsageError("the reward code needs Linux or macOS: there are no resource limits here")
        self.config = config
        self._say: Callable[[str], None] = lambda line: None
        self._left: list[str] = []  # why folders of programs could not be deleted
        self._told = False
        self._limits = sandbox.Limits(
            config.cpu_seconds, config.wall_seconds, config.memory_mb * _MIB, config.file_kb * 1024
        )

    def open(self, catalog: "Catalog", device: "torch.device", say: Callable[[str], None]) -> None:
        """Raises UsageError where programs could do what they should not on this machine, unless told `unsafe`."""
        self._say = say
        if not (found := sandbox.exposed()):
            return
        can = f"programs of the policy can {', '.join(found)} on this machine"
        if not self.config.unsafe:
            raise UsageError(
                can,
                hint="Use Linux 5.13 or later with Landlock and seccomp, and install bubblewrap (apt-get install "
                "bubblewrap); or run in a container of its own, with the reward's option unsafe=true.",
            )
        say(f"{can}; run it in a container of its own")

    def score(self, answers: "Answers") -> Sequence[float]:
        """[M], from 0 to 1. Raises DataError for an example without a solution, or with a broken one."""
        jobs = [
            self._runs(source_of(text), solution, key)
            for text, solution, key in zip(answers.texts, answers.solutions, answers.keys, strict=True)
        ]
        live: set[subprocess.Popen[bytes]] = set()
        pool = ThreadPoolExecutor(self.config.workers or os.cpu_count() or 1)
        try:
            futures = [[pool.submit(self._passes, *run, live) for run in job] for job in jobs]
            scores = [sum(future.result() for future in job) / len(job) for job in futures]
            self._tell_what_is_left()
            return scores
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(live):  # where a signal ended the wait
                sandbox.kill(process)
            pool.shutdown()

    def _tell_what_is_left(self) -> None:
        """Once a run: programs may leave what cannot be deleted, and that is no reason to end it."""
        if self._left and not self._told:
            self._told = True
            num, why = len(self._left), self._left[0]
            self._say(f"{num} folders of programs could not be deleted, and of more nothing is said: {why}")

    def _runs(self, program: str, solution: str, key: str) -> list[tuple[str, str, str]]:
        """(program, standard input, what it is to print) of each run."""
        if not solution:
            raise DataError(
                f"example {key} has no solution, and code checks programs by it",
                hint="Give the prompts a column solution, answer or ground_truth.",
            )
        if self.config.compare == "tests":
            # A program that leaves before its tests prints no such word, and one cannot know it beforehand.
            word = secrets.token_hex(16)
            return [(f"{program}\n\n{solution}\n\nprint()\nprint({word!r})\n", "", word)]
        return [(program, given, wanted) for given, wanted in cases_of(solution, key)]

    def _passes(self, program: str, given: str, wanted: str, live: "set[subprocess.Popen[bytes]]") -> bool:
        ran = sandbox.run(program, given, self._limits, live)
        if ran.left:
            self._left.append(ran.left)
        found = _lines(ran.output)
        return ran.ok and (found[-1:] == [wanted] if self.config.compare == "tests" else found == _lines(wanted))


def source_of(text: str) -> str:
    """The last fenced block of Python, or the whole text."""
    blocks = _FENCE.findall(text)
    return blocks[-1] if blocks else text


def cases_of(solution: str, key: str) -> list[tuple[str, str]]:
    """(standard input, what is to be printed) of each case; raises DataError for JSON that says neither."""
    try:
        parsed: Any = json.loads(solution)
    except ValueError:
        return [("", solution)]
    cases = parsed if isinstance(parsed, list) else [parsed]
    if not any(isinstance(case, dict) for case in cases):
        return [("", solution)]  # the program is to print a number, or a list
    for case in cases:
        if not isinstance(case, dict) or not isinstance(case.get("output"), str) or set(case) - {"input", "output"}:
            raise DataError(
                f'example {key}: the solution\'s case {case!r} is not {{"input": text, "output": text}}',
                hint="Or a list of such cases, or the text that the program is to print.",
            )
    return [(str(case.get("input", "")), case["output"]) for case in cases]


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().splitlines()]
