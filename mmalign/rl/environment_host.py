"""Run environments in a process of their own, with an enforced time limit for each reply.

    with EnvironmentHost.open(catalog, {"name": "calculator", "max_calls": 2}, timeout=10) as host:
        started = host.begin(examples, seeds)          # one environment each, reset
        started[0].prompt                              # the policy's prompt
        started[0].step("<<12*34>>").observation       # "\\n408\\n"

Why a process: an alarm (signal.setitimer) interrupts only Python code of the main thread, not a regular expression, an
arithmetic operation or a library that does not return, and any `except BaseException` swallows it; a thread cannot be
ended at all. A process can be killed, and its crash does not end the run. All environments of a run share one process.
It starts once per run, as a fresh interpreter (forking a process with threads or a GPU is not safe), and imports torch
only if the environment does. A reply costs less than a millisecond.

Any error in an environment stops the run with `EnvironmentFailure`, which names the environment, its plugin and the
example.
"""

import json
import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from typing import TYPE_CHECKING, Any, Self

from mmalign.contract.examples import ImageRef, Prompt, Turns
from mmalign.contract.specs import Entry
from mmalign.errors import EnvironmentFailure, UsageError
from mmalign.language.messages import require_text
from mmalign.rl.environment import Turn
from mmalign.rl.environment_worker import as_json, turns_of
from mmalign.rl.named import find_named

if TYPE_CHECKING:
    from pydantic import BaseModel

    from mmalign.registry.catalog import Catalog

START_SECONDS = 60.0  # for the process to start and import the environment
_GRACE = 5.0  # seconds beyond the limit after which an orphaned process ends itself


def find(catalog: "Catalog", options: Mapping[str, Any]) -> "tuple[Entry, BaseModel]":
    """The environment that `rollout.environment` names, and its validated options; raises UsageError, PluginError."""
    return find_named(catalog, "environment", options, such='rollout.environment={"name":"calculator"}')


class EnvironmentHost:
    """Runs one environment for many examples. Starts its process when first needed, and again after a failure."""

    def __init__(self, entry: Entry, config: "BaseModel", timeout: float) -> None:
        """timeout: seconds for one reply."""
        self.entry, self.config, self.timeout = entry, config, timeout
        self._connection: Connection | None = None
        self._stop: Any = None
        self._process: subprocess.Popen[bytes] | None = None
        self._num_started = 0

    @classmethod
    def open(cls, catalog: "Catalog", options: Mapping[str, Any], timeout: float = 10.0) -> Self:
        """options: {"name": ..., and the environment's own}; raises as `find`."""
        return cls(*find(catalog, options), timeout)

    def begin(self, examples: Sequence[Prompt], seeds: Sequence[int]) -> "list[Started]":
        """Reset an environment for each example, and drop earlier ones. Raises EnvironmentFailure, also if two resets
        with the same example and seed differ."""
        picture = next((example.key for example in examples if isinstance(example.prompt, ImageRef)), "")
        if picture:
            raise UsageError(
                f"rollout.environment: an environment reads texts, and the prompt of {picture} is a picture",
                hint="Leave the environment out; rewards score answers to pictures.",
            )
        if self._connection is not None:
            self._ask("", "forgetting", {"do": "clear"})
        started, prompts = [], {}
        for example, seed in zip(examples, seeds, strict=True):
            number, self._num_started = self._num_started, self._num_started + 1
            content = [example.key, as_json(require_text(example.prompt)), example.solution, dict(example.columns)]
            request = {"do": "reset", "number": number, "example": content, "seed": seed}
            prompt = turns_of(self._ask(example.key, "reset", request)["prompt"])
            if prompts.setdefault(json.dumps([content, seed]), prompt) != prompt:
                raise self._failure(example.key, f"reset gives different prompts for the same seed, {seed}")
            started.append(Started(self, number, example.key, prompt))
        return started

    def step(self, number: int, key: str, action: str) -> Turn:
        """The reply of environment `number`, of the example `key`, to an action; raises EnvironmentFailure."""
        reply = self._ask(key, "step", {"do": "step", "number": number, "action": action})
        return Turn(*reply["turn"])

    def close(self) -> None:
        """End the process; a later `begin` starts another."""
        if self._stop is not None:
            self._stop()
        self._connection = self._stop = self._process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _ask(self, key: str, doing: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """The reply to a request. An exception, even a signal's, ends the process, whose next reply would otherwise be
        taken for that to another request."""
        try:
            if self._connection is None:
                self._start(key)
            reply = self._exchange(key, doing, request, self.timeout)
        except BaseException:
            self.close()
            raise
        if "error" in reply:
            raise self._failure(key, f"{doing} {reply['error']}", reply["hint"])
        return reply

    def _exchange(self, key: str, doing: str, request: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        assert self._connection is not None
        try:
            self._connection.send_bytes(json.dumps(request).encode())
            if not self._connection.poll(seconds):
                hint = "Its limit: --set rollout.environment_timeout=SECONDS"
                raise self._failure(key, f"{doing} gave no reply within {seconds:g} s", hint)
            return json.loads(self._connection.recv_bytes())
        except (EOFError, OSError) as error:
            raise self._failure(key, f"its process {self._fate()} in {doing}") from error

    def _start(self, key: str) -> None:
        ours, theirs = Pipe()
        paths = os.pathsep.join(path for path in sys.path if path)
        command = [sys.executable, "-P", "-m", "mmalign.rl.environment_worker"]
        limit = max(self.timeout, START_SECONDS) + _GRACE
        # In a session of its own: Ctrl-C reaches only the run, and the environment's children can be killed with it.
        # Its output goes to stderr.
        process = subprocess.Popen(
            [*command, str(theirs.fileno()), str(limit)],
            env={**os.environ, "PYTHONPATH": paths},
            stdin=subprocess.DEVNULL,
            stdout=2,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
        )
        theirs.close()
        self._process, self._connection = process, ours
        self._stop = weakref.finalize(self, _end, process, ours)
        request = {"do": "load", "target": self.entry.spec.target, "config": self.config.model_dump(mode="json")}
        reply = self._exchange(key, "loading", request, max(self.timeout, START_SECONDS))
        if "error" in reply:
            raise self._failure(key, f"loading {reply['error']}", reply["hint"])

    def _fate(self) -> str:
        assert self._process is not None
        end = _ended(self._process, _GRACE)
        if end is None:
            return "closed the connection"
        if end.si_code == os.CLD_EXITED:
            return f"ended with exit code {end.si_status}"
        return f"was killed by {signal.Signals(end.si_status).name}"

    def _failure(self, key: str, problem: str, hint: str = "") -> EnvironmentFailure:
        where = f"environment {self.entry.spec.name} (plugin {self.entry.plugin}), example {key}"
        hint = hint or f"The last checkpoint is intact. Try: mmalign plugins check {self.entry.plugin}"
        return EnvironmentFailure(f"{where}: {problem}", hint=hint)


@dataclass(frozen=True)
class Started:
    """An environment that has been reset. prompt: the policy's; key: the example's."""

    host: EnvironmentHost
    number: int
    key: str
    prompt: Turns

    def step(self, action: str) -> Turn:
        """Raises EnvironmentFailure."""
        return self.host.step(self.number, self.key, action)


def _end(process: "subprocess.Popen[bytes]", connection: Connection) -> None:
    """Close the connection, wait a moment for the process to end, then kill it with all that it started."""
    connection.close()
    _ended(process, 0.5)
    os.killpg(process.pid, signal.SIGKILL)  # the pid is still its own, since nobody has waited for it yet
    process.wait()


def _ended(process: "subprocess.Popen[bytes]", seconds: float) -> "os.waitid_result | None":
    """How the process ended, or None if it still runs after that time. Leaves it to be waited for."""
    until = time.monotonic() + seconds
    while True:
        end = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if end is not None or time.monotonic() > until:
            return end
        time.sleep(0.005)
