"""Environments in their process: what they say comes back; what goes wrong names them, within the limit."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmalign.contract.examples import Message, Prompt
from mmalign.contract.specs import Entry, EnvironmentSpec
from mmalign.errors import EnvironmentFailure, UsageError
from mmalign.registry.catalog import Catalog
from mmalign.registry.plugins import load_plugins
from mmalign.rl.environment import Turn
from mmalign.rl.environment_host import EnvironmentHost, find
from tests.support.faulty_environments import Config

ENTRY = Entry(
    "environments",
    "my-plugin",
    EnvironmentSpec(name="faulty", summary="s", target="tests.support.faulty_environments:Faulty"),
)
EXAMPLE = Prompt("table.csv:7", "a red car", "4")


def make_host(timeout: float = 20.0, **options: object) -> EnvironmentHost:
    return EnvironmentHost(ENTRY, Config(**options), timeout)


def test_replies_come_back_as_they_were_given() -> None:
    chat = Prompt("chat:1", (Message("system", "be \ud800 kind"), Message("user", "hi")))
    with make_host(turns=2) as host:
        first, second = host.begin([EXAMPLE, chat], [1, 2])
        assert first.prompt == "a red car" and second.prompt == chat.prompt
        assert first.step("four") == Turn(" 4 ", 0.5, False, {"long": 0})
        assert second.step("twelve chars\ud83d") == Turn(" 13 ", 0.5, False, {"long": 1})
        assert first.step("") == Turn("", 2.0, True, {}) and second.step("") == Turn("", 2.0, True, {})
        again = host.begin([EXAMPLE], [1])[0]
        assert again.step("").done is False
        with pytest.raises(EnvironmentFailure, match="KeyError"):
            first.step("of an earlier batch")


FAULTS = {
    "raises": "step raised ZeroDivisionError: tool divides by zero (faulty_environments.py:",
    "raises-ours": "step the table of answers is empty\nMake it first.",
    "exits": "its process ended with exit code 3 in step",
    "segfault": "its process was killed by SIGSEGV in step",
    "not-a-turn": "step returned tuple, not a Turn",
    "nan": "step returned the reward nan, not a finite number",
    "text-reward": "step returned the reward str, not a finite number",
    "done-is-1": "step returned int as `done`, not True or False",
    "observation-none": "step returned None as its observation, not text",
    "counts": "step returned the counts {'calls': 0.5}, not whole numbers by name",
    "reset-none": "reset returned None, not text or a tuple of Message",
    "reset-list": "reset returned list, not text or a tuple of Message",
    "reset-raises": "reset raised KeyError: 'no such tool' (faulty_environments.py:",
    "reset-random": "reset gives different prompts for the same seed, 0",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_stops_with_the_culprits_name(fault: str) -> None:
    with make_host(fault=fault) as host, pytest.raises(EnvironmentFailure) as caught:
        for started in host.begin([EXAMPLE, EXAMPLE], [0, 0]):
            started.step("x")
    message = str(caught.value)
    assert message.startswith("environment faulty (plugin my-plugin), example table.csv:7: ")
    assert FAULTS[fault] in message


@pytest.mark.parametrize("fault", ["hangs", "hangs-in-c"])
def test_what_hangs_is_stopped_within_its_limit_and_killed(fault: str) -> None:
    with make_host(timeout=0.3, fault=fault) as host:
        started = host.begin([EXAMPLE], [0])[0]
        assert host._process is not None
        pid, began = host._process.pid, time.monotonic()
        with pytest.raises(EnvironmentFailure, match=r"table\.csv:7: step gave no reply within 0\.3 s"):
            started.step("x")
        assert time.monotonic() - began < 5
        assert not exists(pid)
        assert host.begin([EXAMPLE], [0])[0].prompt == "a red car", "a new process takes over"


def test_what_an_environment_started_ends_with_it() -> None:
    with make_host(fault="child") as host:
        child = int(host.begin([EXAMPLE], [0])[0].step("x").observation)
        assert exists(child)
    assert eventually_gone(child)


def test_an_exception_from_a_signal_leaves_no_reply_for_the_next_question() -> None:
    class Interrupted(Exception):
        pass

    def interrupt(*_: object) -> None:
        raise Interrupted

    with make_host(fault="hangs") as host:
        started = host.begin([EXAMPLE], [0])[0]
        previous = signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        try:
            with pytest.raises(Interrupted):
                started.step("x")
        finally:
            signal.signal(signal.SIGALRM, previous)
        assert host._process is None and host.begin([EXAMPLE], [0])[0].prompt == "a red car"


RUN = """
import os, sys
from tests.rl.test_environment_host import EXAMPLE, make_host
host = make_host()
host.begin([EXAMPLE], [0])
print(host._process.pid, flush=True)
os.kill(os.getpid(), 9)
"""


def test_no_process_outlives_a_run_that_was_killed() -> None:
    paths = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
        check=False,
    )
    assert done.returncode == -9, done.stderr
    assert eventually_gone(int(done.stdout))


def test_names_and_options_are_checked_without_starting_anything() -> None:
    catalog = Catalog(load_plugins())
    entry, config = find(catalog, {"name": "calculator", "max_calls": 5})
    assert entry.qualified == "mmalign_environments/calculator" and config.model_dump()["max_calls"] == 5
    with pytest.raises(UsageError, match="Did you mean calculator"):
        find(catalog, {"name": "calculater"})
    with pytest.raises(UsageError, match=r"rollout\.environment\.max_cals: unknown key\. Did you mean max_calls"):
        find(catalog, {"name": "calculator", "max_cals": 5})
    with pytest.raises(UsageError, match="names no environment"):
        find(catalog, {"max_calls": 5})


def test_a_target_that_cannot_be_imported_is_named() -> None:
    spec = EnvironmentSpec(name="gone", summary="s", target="tests.support.faulty_environments:Gone")
    host = EnvironmentHost(Entry("environments", "my-plugin", spec), Config(), 5.0)
    with pytest.raises(EnvironmentFailure, match=r"environment gone .*loading raised AttributeError"):
        host.begin([EXAMPLE], [0])


def exists(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def eventually_gone(pid: int) -> bool:
    until = time.monotonic() + 5
    while exists(pid) and time.monotonic() < until:
        time.sleep(0.02)
    return not exists(pid)
