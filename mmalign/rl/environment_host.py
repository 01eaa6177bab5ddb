"""Where a run's environments live: a process beside it, in which each reply has a time limit that holds.

    with EnvironmentHost.open(catalog, {"name": "calculator", "max_calls": 2}, timeout=10) as host:
        started = host.begin(examples, seeds)          # one environment each, reset
        started[0].prompt                              # what the policy reads
        started[0].step("<<12*34>>").observation       # "\\n408\\n"

Why a process: an alarm in this one (signal.setitimer) interrupts only Python code of the main thread, not a regular
expression, an arithmetic operation or a library that does not return, and any `except BaseException` eats it; a thread
cannot be ended at all. A process can be killed, whatever it does, and one that crashes takes nothing with it. It is
started once a run, as a fresh interpreter (a copy of a process with threads or a GPU is not safe), imports no torch
unless the environment does, and a reply costs less than a millisecond. All environments of a run share it.

Whatever goes wrong in an environment stops the run with `EnvironmentFailure`, which names it, its plugin and the
example. What a tool does wrong is for the environment to tell the policy.
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

from mmalign.contract.examples import Prompt, Turns
from mmalign.contract.specs import Entry
from mmalign.errors import EnvironmentFailure
from mmalign.rl.environment import Turn
from mmalign.rl.environment_worker import as_json, turns_of
from mmalign.rl.named import find_named

if TYPE_CHECKING:
    from pydantic import BaseModel

    from mmalign.registry.catalog import Catalog

START_SECONDS = 60.0  # for the process to start and import the environment
_GRACE = 5.0  # until the process, left alone, ends itself


def find(catalog: "Catalog", options: Mapping[str, Any]) -> "tuple[Entry, BaseModel]":
    """The environment that `rollout.environment` names, and its validated options; raises UsageError, PluginError."""
    return find_named(catalog, "environment", options, such='rollout.environment={"name":"calculator"}')


class EnvironmentHost:
    """Runs one environment for many examples. It starts its process when it is needed, and again after a failure."""

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
        """An environment for each example, reset; those begun before are gone. Raises EnvironmentFailure, also where
        two resets with the same example and seed differ."""
        if self._connection is not None:
            self._ask("", "forgetting", {"do": "clear"})
        started, prompts = [], {}
        for example, seed in zip(examples, seeds, strict=True):
            number, self._num_started = self._num_started, self._num_started + 1
            content = [example.key, as_json(example.prompt), example.solution, dict(example.columns)]
            request = {"do": "reset", "number": number, "example": content, "seed": seed}
            prompt = turns_of(self._ask(example.key, "reset", request)["prompt"])
            if prompts.setdefault(json.dumps([content, seed]), prompt) != prompt:
                raise self._failure(example.key, f"reset gives different prompts for the same seed, {seed}")
            started.append(Started(self, number, example.key, prompt))
        return started

    def step(self, number: int, key: str, action: str) -> Turn:
        """What environment `number`, of the example `key`, says to an action; raises EnvironmentFailure."""
        reply = self._ask(key, "step", {"do": "step", "number": number, "action": action})
        return Turn(*reply["turn"])

    def close(self) -> None:
        """End the process; a next `begin` starts another."""
        if self._stop is not None:
            self._stop()
        self._connection = self._stop = self._process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _ask(self, key: str, doing: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """The reply; the process does not outlive a failure, or an exception from a signal, after which what it sends
        next would be the reply to something else."""
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
        # In a session of its own: Ctrl-C is for the run alone, and what the environment starts can be ended with it.
        # What it prints goes to stderr.
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
        found = _ended(self._process, _GRACE)
        if found is None:
            return "hung up"
        if found.si_code == os.CLD_EXITED:
            return f"ended with exit code {found.si_status}"
        return f"was killed by {signal.Signals(found.si_status).name}"

    def _failure(self, key: str, what: str, hint: str = "") -> EnvironmentFailure:
        where = f"environment {self.entry.spec.name} (plugin {self.entry.plugin}), example {key}"
        hint = hint or f"The last checkpoint stands. Try: mmalign plugins check {self.entry.plugin}"
        return EnvironmentFailure(f"{where}: {what}", hint=hint)


@dataclass(frozen=True)
class Started:
    """An environment that has been reset. prompt: what the policy reads first; key: of its example."""

    host: EnvironmentHost
    number: int
    key: str
    prompt: Turns

    def step(self, action: str) -> Turn:
        """Raises EnvironmentFailure."""
        return self.host.step(self.number, self.key, action)


def _end(process: "subprocess.Popen[bytes]", connection: Connection) -> None:
    """Hang up, wait a moment for an orderly end, then kill it with all that it started."""
    connection.close()
    _ended(process, 0.5)
    os.killpg(process.pid, signal.SIGKILL)  # the number is still its own, for nobody has waited for it yet
    process.wait()


def _ended(process: "subprocess.Popen[bytes]", seconds: float) -> "os.waitid_result | None":
    """How the process ended, None where it does not within that time. It stays to be waited for."""
    until = time.monotonic() + seconds
    while True:
        found = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is not None or time.monotonic() > until:
            return found
        time.sleep(0.005)
