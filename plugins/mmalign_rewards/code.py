r"""Whether the program in the answer works: `--set rollout.rewards='[{"name": "code"}]'`.

The program is the answer's last fenced block (```python), or the whole answer where it has none. It is run by this
Python with the standard library alone. The example's solution says what is right:

    compare: output    what the program prints; as JSON {"input": "3\\n", "output": "9\\n"} with its standard input, or
    a
                       list of such cases. The score is the share of cases that come out right; white space at the ends
                       of lines is ignored.
    compare: tests     Python code appended to the program: 1 where all of it runs without error, else 0.

Programs run confined; `mmalign_sandbox.sandbox` states how, and the limits of that. On a machine that cannot confine
them they do not run, unless `unsafe: true` is set. A program sees its own source, tests included, and can be written to
cheat them.
"""

import json
import os
import re
import secrets
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from mmalign_sandbox import sandbox
from pydantic import BaseModel, ConfigDict, Field

from mmalign.errors import DataError, RewardError, UsageError

if TYPE_CHECKING:
    import torch

    from mmalign.registry.catalog import Catalog
    from mmalign.rl.answers import Answers

_FENCE = re.compile(r"^[ \t]*```(?:python|py|python3)?[ \t]*\n(.*?)^[ \t]*```", re.MULTILINE | re.DOTALL)
_MIB = 2**20


class CodeConfig(BaseModel):
    """How answers are checked, and the limits of each run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    compare: Literal["output", "tests"] = Field(
        "output",
        description="output: the solution is the program's output, or cases as JSON; tests: test code to append",
    )
    cpu_seconds: int = Field(2, ge=1, description="processor time of one run, in seconds")
    wall_seconds: float = Field(4.0, gt=0, description="longest run, in seconds, Python's start included")
    memory_mb: int = Field(512, ge=64, description="address space of one run, in MiB")
    file_kb: int = Field(1024, ge=1, description="largest file that a program may write or print, in KiB")
    unsafe: bool = Field(False, description="run programs even where this machine cannot confine them")
    workers: int = Field(0, ge=0, description="programs that run at once; 0: as many as this machine has cores")


class Code:
    """Scores the answer alone, without its prompt."""

    Config: ClassVar[type[BaseModel]] = CodeConfig

    def __init__(self, config: CodeConfig) -> None:
        """Raises UsageError on a system without resource limits."""
        if os.name != "posix":
            raise UsageError("the reward code needs Linux or macOS: there are no resource limits here")
        self.config = config
        self._say: Callable[[str], None] = lambda line: None
        self._left: list[str] = []  # reasons why folders of programs could not be deleted
        self._told = False
        self._limits = sandbox.Limits(
            config.cpu_seconds, config.wall_seconds, config.memory_mb * _MIB, config.file_kb * 1024
        )

    def open(self, catalog: "Catalog", device: "torch.device", say: Callable[[str], None]) -> None:
        """Raises UsageError where this machine cannot confine programs, unless `unsafe` is set, and RewardError where
        no confined program runs."""
        self._say = say
        try:
            exposed = sandbox.exposed()
        except sandbox.SandboxError as error:  # every answer would be wrong
            hint = f"Try it by hand, in an empty folder: {error}"
            raise RewardError("no confined program runs on this machine", hint=hint) from error
        if not exposed:
            return
        can = f"programs of the policy can {', '.join(exposed)} on this machine"
        if not self.config.unsafe:
            raise UsageError(
                can,
                hint="Use Linux 5.13 or later with Landlock and seccomp, and install bubblewrap (apt-get install "
                "bubblewrap); or run in a dedicated container, with the reward's option unsafe=true.",
            )
        say(f"{can}; run it in a dedicated container")

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
            for process in list(live):  # still running where a signal ended the wait
                sandbox.kill(process)
            pool.shutdown()

    def _tell_what_is_left(self) -> None:
        """Reports once a run: programs may leave files that cannot be deleted, but that is no reason to end the run."""
        if self._left and not self._told:
            self._told = True
            num, why = len(self._left), self._left[0]
            self._say(f"{num} folders of programs could not be deleted (reported once): {why}")

    def _runs(self, program: str, solution: str, key: str) -> list[tuple[str, str, str]]:
        """(program, standard input, expected output) of each run."""
        if not solution:
            raise DataError(
                f"example {key} has no solution, which the reward code checks programs against",
                hint="Give the prompts a column solution, answer or ground_truth.",
            )
        if self.config.compare == "tests":
            # A program that exits before its tests does not print this word, and cannot know it beforehand.
            word = secrets.token_hex(16)
            return [(f"{program}\n\n{solution}\n\nprint()\nprint({word!r})\n", "", word)]
        return [(program, given, wanted) for given, wanted in cases_of(solution, key)]

    def _passes(self, program: str, given: str, wanted: str, live: "set[subprocess.Popen[bytes]]") -> bool:
        ran = sandbox.run(program, given, self._limits, live)
        if ran.left:
            self._left.append(ran.left)
        printed = _lines(ran.output)
        return ran.ok and (printed[-1:] == [wanted] if self.config.compare == "tests" else printed == _lines(wanted))


def source_of(text: str) -> str:
    """The last fenced block of Python, or the whole text."""
    blocks = _FENCE.findall(text)
    return blocks[-1] if blocks else text


def cases_of(solution: str, key: str) -> list[tuple[str, str]]:
    """(standard input, expected output) of each case; raises DataError for JSON that is not such cases."""
    try:
        parsed: Any = json.loads(solution)
    except ValueError:
        return [("", solution)]
    cases = parsed if isinstance(parsed, list) else [parsed]
    if not any(isinstance(case, dict) for case in cases):
        return [("", solution)]  # the expected output is itself JSON: a number, or a list
    for case in cases:
        if not isinstance(case, dict) or not isinstance(case.get("output"), str) or set(case) - {"input", "output"}:
            raise DataError(
                f'example {key}: the solution\'s case {case!r} is not {{"input": text, "output": text}}',
                hint="It may also be a list of such cases, or the text that the program should print.",
            )
    return [(str(case.get("input", "")), case["output"]) for case in cases]


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().splitlines()]
