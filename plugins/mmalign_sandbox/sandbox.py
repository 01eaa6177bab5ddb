"""Runs a Python program in a separate process, within limits: `run(program, "stdin", Limits(), live)`.

On every system: a fresh folder that is deleted afterwards, an empty environment, no inherited files, limits of CPU and
wall time, memory and file size; at the end the whole process group is killed. On Linux, as far as the kernel allows:

    Landlock        reads only Python's and the system's libraries, writes only in its folder
    seccomp         only the system calls of `system_calls`: no further process, socket, signal or change of metadata
    bubblewrap      where `bwrap` is installed and works: namespaces, and a file system with nothing else in it,
                    read-only except for its folder, which is in memory, is limited, and disappears with the program;
                    otherwise the namespaces of `unshare` (user, network, process, IPC)

`exposed()` tries what programs can do on this machine. bubblewrap is not required: in most containers it cannot run,
and Landlock with seccomp, which need no privilege, block the same there.

This is not a virtual machine. The kernel is shared, and a hole in it is a way out. Processor and disk are shared too: a
program can slow down others for its seconds, and without bubblewrap fill its folder with many small files. A program
sees its own source. For programs of people who mean harm, use a separate machine.
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

from mmalign_sandbox.confine import LIBRARIES
from mmalign_sandbox.remove import remove_folder

_CONFINE = Path(__file__).with_name("confine.py").resolve()
_PYTHON = os.path.realpath(sys.executable)  # a virtual environment's is a link; bubblewrap shows its target
_UNSHARE = ("unshare", "--map-root-user", "--net", "--pid", "--ipc", "--kill-child", "--fork")
_BUBBLEWRAP = ("bwrap", "--unshare-all", "--die-with-parent", "--cap-drop", "ALL", "--dev", "/dev")
_FOLDER_BYTES = 64 * 2**20  # bytes that a program may write in all, inside bubblewrap
# Tries everything that a program should not be able to do, and prints a line for each thing that works.
_PROBE = """
import os, socket
outside = {outside!r}
for name, attempt in (
    ("read files", lambda: open(outside).read()),
    ("change files", lambda: open(outside, "a").close()),
    ("change files' modes", lambda: os.chmod(outside, 0o600)),
    ("change files' times", lambda: os.utime(outside)),
    ("change files' attributes", lambda: os.setxattr(outside, "user.mmalign", b"x")),
    ("change what it may only read", lambda: os.chmod(os.__file__, os.stat(os.__file__).st_mode & 0o7777)),
    ("open sockets", lambda: socket.socket().close()),
    ("send to sockets", lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)),
    ("start processes", lambda: os.fork() or os._exit(0)),
    ("send signals", lambda: os.kill(os.getppid() or 1, 0)),
):
    try:
        attempt()
    except (OSError, AttributeError):  # refused, or no such thing on this system
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
    """output: the printed text; ok: whether the program ended by itself, without error, in time; left: why its folder
    could not be deleted, or an empty text."""

    output: str
    ok: bool
    left: str = ""


def run(program: str, stdin: str, limits: Limits, live: set[subprocess.Popen[bytes]]) -> Ran:
    """live: holds the process while it runs, so that another thread can kill it."""
    name = tempfile.mkdtemp(prefix="mmalign-code-")
    left = ""
    try:
        output, ok = _run_in(Path(name, "work"), program, stdin, limits, live)
    finally:
        left = remove_folder(Path(name))
    return Ran(output, ok, left)


def _run_in(
    folder: Path, program: str, stdin: str, limits: Limits, live: set[subprocess.Popen[bytes]]
) -> tuple[str, bool]:
    folder.mkdir()
    folder = folder.resolve()
    path = folder / "program.py"
    path.write_text(program, encoding="utf-8", errors="replace")
    # Files, not pipes: FSIZE limits the output, and the program never waits for a reader.
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as printed:
        given.write(stdin.encode("utf-8", "replace"))
        given.seek(0)
        process = subprocess.Popen(
            [*_walls(path, folder, limits), *_command(path, folder, limits)],
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
        return printed.read(limits.file_bytes).decode("utf-8", "replace"), code == 0


def kill(process: "subprocess.Popen[bytes]") -> None:
    """Kill the process and its whole group, whether or not it has ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class SandboxError(RuntimeError):
    """No confined program runs on this machine. Its argument: the command that did not run one."""


@cache
def exposed() -> tuple[str, ...]:
    """What programs can do on this machine that they should not be able to; empty where all is blocked.

    Raises SandboxError where no program runs at all.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as outside:
        probe = run(_PROBE.format(outside=outside.name), "", Limits(wall_seconds=20), set())
    *can, last = probe.output.splitlines() or [""]
    if last != "ran":
        raise SandboxError(" ".join(_command(Path("p.py"), Path.cwd(), Limits())))
    return tuple(can)


def _walls(path: Path, folder: Path, limits: Limits) -> tuple[str, ...]:
    """The command that runs a program in bubblewrap, or else in namespaces; empty where neither works."""
    bubblewrap = _bubblewrap()
    if not bubblewrap:
        return _namespaces()
    own, program = str(folder), str(path)
    size = str(max(_FOLDER_BYTES, 2 * limits.file_bytes))
    return (*bubblewrap, "--size", size, "--tmpfs", own, "--ro-bind", program, program, "--chdir", own)


@cache
def _bubblewrap() -> tuple[str, ...]:
    """The command without the program's own folder; empty where bubblewrap is not installed or may not run."""
    where = shutil.which(_BUBBLEWRAP[0])
    if where is None:
        return ()
    python = Path(_PYTHON).parents[1]
    shown = dict.fromkeys((*LIBRARIES, "/etc/ld.so.cache", str(python), sys.base_prefix, str(_CONFINE.parent)))
    command = (where, *_BUBBLEWRAP[1:], *(text for path in shown for text in ("--ro-bind-try", path, path)))
    return command if _works([*command, "--size", "4096", "--tmpfs", "/own", _PYTHON, "-I", "-S", "-c", ""]) else ()


@cache
def _namespaces() -> tuple[str, ...]:
    """The command that puts a program into new namespaces; empty where that does not work."""
    where = shutil.which(_UNSHARE[0])
    command = (where, *_UNSHARE[1:]) if where else ()
    return command if command and _works([*command, "true"]) else ()


def _works(command: list[str]) -> bool:
    return not subprocess.run(command, capture_output=True, check=False, timeout=20).returncode


def _command(path: Path, folder: Path, limits: Limits) -> list[str]:
    numbers = (limits.cpu_seconds, limits.memory, limits.file_bytes)
    # -I, -S, -B: neither the user's settings nor installed packages, and no compiled files beside sources
    return [_PYTHON, "-I", "-S", "-B", str(_CONFINE), str(path), str(folder), *map(str, numbers)]
