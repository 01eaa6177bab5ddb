"""Run a Python program in a process of its own, within limits: `run(program, "stdin", Limits(), live)`.

Everywhere: a fresh folder that is deleted afterwards, an empty environment, no inherited files, limits of CPU and wall
time, memory and file size; at the end the whole process group is killed. On Linux, as far as the kernel allows: its own
user, network, process and IPC namespaces (`unshare`), Landlock (reads only Python's and the system's libraries, writes
only in its folder) and a seccomp filter (no further process, no socket, no signal). See `confine`.

It is not a virtual machine. One kernel is shared, and a hole in it is a way out; the processor and the disk are shared,
too: a program can slow down others for its seconds, and fill its folder with many small files. A program sees its own
source. Where `exposed()` names something, that is open. For programs of people who mean harm, use a machine of its own.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

from mmalign.errors import RewardError

_CONFINE = Path(__file__).with_name("confine.py")
_UNSHARE = ("unshare", "--map-root-user", "--net", "--pid", "--ipc", "--kill-child", "--fork")
# What a program can do here that it should not, each told by a line of its own.
_PROBE = """
import os, socket
for name, attempt in (
    ("read files", lambda: open({outside!r}).read()),
    ("open sockets", lambda: socket.socket().close()),
    ("start processes", lambda: os.fork() or os._exit(0)),
):
    try:
        attempt()
    except OSError:
        continue
    print(name, flush=True)
print("ran")
"""


@dataclass(frozen=True)
class Limits:
    """cpu_seconds, wall_seconds: of one run; memory, file_bytes: in bytes, of the address space and of each file."""

    cpu_seconds: int = 2
    wall_seconds: float = 4.0
    memory: int = 512 * 2**20
    file_bytes: int = 2**20


class Ran(NamedTuple):
    """output: what it printed, as text; ok: it ended by itself, without error, in time."""

    output: str
    ok: bool


def run(program: str, stdin: str, limits: Limits, live: set[subprocess.Popen[bytes]]) -> Ran:
    """live: holds the process while it runs, so that another thread can kill it."""
    with tempfile.TemporaryDirectory(prefix="mmalign-code-", ignore_cleanup_errors=True) as name:
        folder, path = Path(name, "work").resolve(), Path(name, "work", "program.py").resolve()
        folder.mkdir()
        path.write_text(program, encoding="utf-8", errors="replace")
        # Files, not pipes: FSIZE limits what is printed, and nothing here waits for a reader.
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as printed:
            given.write(stdin.encode("utf-8", "replace"))
            given.seek(0)
            process = subprocess.Popen(
                [*_namespaces(), *_command(path, folder, limits)],
                stdin=given,
                stdout=printed,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env={},
                start_new_session=True,
            )
            live.add(process)
            try:
                code = process.wait(limits.wall_seconds)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                kill(process)
                live.discard(process)
            printed.seek(0)
            return Ran(printed.read(limits.file_bytes).decode("utf-8", "replace"), code == 0)


def kill(process: "subprocess.Popen[bytes]") -> None:
    """The process with its whole group, whether or not it has ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@cache
def exposed() -> tuple[str, ...]:
    """What programs can do on this machine that they should not, found by trying; empty where all is closed.

    Raises RewardError where no program runs at all: every answer would be wrong.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as outside:
        found = run(_PROBE.format(outside=outside.name), "", Limits(wall_seconds=20), set())
    *can, last = found.output.splitlines() or [""]
    if last != "ran":
        raise RewardError(
            "no confined program runs on this machine",
            hint=f"Try it by hand, in an empty folder: {' '.join(_command(Path('p.py'), Path.cwd(), Limits()))}",
        )
    return tuple(can)


@cache
def _namespaces() -> tuple[str, ...]:
    """The command that puts a program into namespaces of its own, empty where that does not work."""
    where = shutil.which("unshare")
    command = (where, *_UNSHARE[1:]) if where else ()
    works = where and not subprocess.run([*command, "true"], capture_output=True, check=False, timeout=20).returncode
    return tuple(map(str, command)) if works else ()


def _command(path: Path, folder: Path, limits: Limits) -> list[str]:
    numbers = (limits.cpu_seconds, limits.memory, limits.file_bytes)
    # -I, -S, -B: neither the user's settings nor installed packages, and no compiled files beside sources
    return [sys.executable, "-I", "-S", "-B", str(_CONFINE), str(path), str(folder), *map(str, numbers)]
