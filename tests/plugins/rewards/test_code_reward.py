"""Programs as answers: what is right, and what they cannot do to this machine."""

import contextlib
import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mmalign_rewards.code import cases_of, source_of
from mmalign_sandbox import sandbox

from mmalign.errors import DataError, RewardError, UsageError
from mmalign.rl.rewards import RewardList
from tests.support.project import SUPPORT

QUICK = sandbox.Limits(cpu_seconds=1, wall_seconds=1.5)
CONFINED = sys.platform == "linux" and os.uname().machine in ("x86_64", "aarch64")


def scores(bench, answers, **options: Any) -> list[float]:
    rewards = RewardList.build(bench.catalog, [{"name": "code", **options}], torch.device("cpu"), print)
    return rewards.score(answers).total.tolist()


def test_output_is_compared(bench, answered) -> None:
    cases = json.dumps([{"input": "3\n", "output": "9\n"}, {"input": "4", "output": "16"}, {"output": "error"}])
    square = "Here:\n```python\nprint(0)\n```\nNo, rather:\n```python\nprint(int(input()) ** 2)\n```\nDone."
    texts = ["print('a  ')\nprint(2)", "print('a')", square, "print('a\\n2')\nraise SystemExit(3)", "", "print('Ä🙂')"]
    answers = answered(texts, ["a\n2\n", "b", cases, "a\n2", "5", "Ä🙂"])
    found = scores(bench, answers)
    assert found == pytest.approx([1, 0, 2 / 3, 0, 0, 1])


def test_tests_are_appended(bench, answered) -> None:
    tests = "assert add(1, 2) == 3\nassert add(-1, 1) == 0"
    texts = [
        "def add(a, b):\n    return a + b",
        "def add(a, b):\n    return 3",
        "import sys\nsys.exit(0)",  # leaves before its tests
        "import os\nos._exit(0)",
        "print('x')\ndef add(a, b): return a + b\nprint('y', end='')",
        "def add(a, b:",
    ]
    assert scores(bench, answered(texts, [tests] * 6), compare="tests", workers=2) == [1, 0, 0, 0, 1, 0]


def test_solutions_are_needed_and_checked(bench, answered) -> None:
    with pytest.raises(RewardError, match=r"(?s)example:0 has no solution.*column solution"):
        scores(bench, answered(["print(1)"], [""]))
    with pytest.raises(RewardError, match=r'(?s)example:0: the solution\'s case .* is not {"input"'):
        scores(bench, answered(["print(1)"], ['{"inputs": "3", "output": "9"}']))
    with pytest.raises(DataError):
        cases_of('[{"output": 3}]', "k")
    assert cases_of("9", "k") == [("", "9")] and cases_of("[1, 2]", "k") == [("", "[1, 2]")]


def test_the_last_fenced_block_is_the_program() -> None:
    assert source_of("print(1)") == "print(1)"
    assert source_of("a\n```python\nx = 1\n```\nb\n```\ny = 2\n```\n") == "y = 2\n"
    assert source_of("```py\nx = 1") == "```py\nx = 1"


@pytest.fixture(scope="module")
def listener() -> Iterator[tuple[int, list[str]]]:
    """A server of ours, and what reached it."""
    reached: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            reached.append(self.path)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server.server_address[1], reached
    server.shutdown()
    server.server_close()
    thread.join()


ESCAPES = {
    "connect": "import socket\nsocket.create_connection(('127.0.0.1', {port}), 1).sendall(b'GET /x\\r\\n\\r\\n')",
    "http": "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:{port}/y', timeout=1)",
    "udp": "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))",
    "unix socket": "import socket\nsocket.socket(socket.AF_UNIX).connect({secret!r})",
    "read a secret": "print(open({secret!r}).read())",
    "read by link": "import os\nos.symlink({secret!r}, 'l')\nprint(open('l').read())",
    "read passwords": "print('passed', open('/etc/passwd').read())",
    "read the parent's environment": "import os\nprint('passed', open(f'/proc/{{os.getppid()}}/environ').read())",
    "list a folder": "import os\nprint('passed', os.listdir({folder!r}))",
    "write outside": "open({folder!r} + '/written', 'w').write('x')",
    "append outside": "open({secret!r}, 'a').write('x')",
    "delete outside": "import os\nos.remove({secret!r})",
    "rename outside": "import os\nopen('a', 'w').close()\nos.rename('a', {folder!r} + '/moved')",
    "make a folder outside": "import os\nos.mkdir({folder!r} + '/made')",
    "truncate outside": "import os\nos.truncate({secret!r}, 0)",
    "start a process": "import subprocess\nsubprocess.run(['/bin/sh', '-c', 'echo x > {folder}/started'], check=True)",
    "start by C": "import ctypes\nassert ctypes.CDLL(None).system(b'touch {folder}/started') == 0",
    "become another program": "import os\nos.execv('/bin/sh', ['sh', '-c', 'echo x > {folder}/became'])",
    "fork bomb": "import os\nwhile True:\n    os.fork()",
    "leave the group": "import os\nos.setsid()",
    "stay as a daemon": "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(60)",
    "kill all": "import os\nos.kill(-1, 9)",
    "kill the parent": "import os\nos.kill({pid}, 15)",
    "many threads": "import threading, time\nwhile True:\n    threading.Thread(target=time.sleep, args=(60,)).start()",
    "a gigabyte": "x = bytearray(10**9)",
    "a large file": "with open('f', 'wb') as f:\n    f.write(b'x' * 10**8)",
    "endless output": "while True:\n    print('x' * 1000)",
    "an endless loop": "while True:\n    pass",
    "an endless sleep": "import time\ntime.sleep(60)",
    "mend the limits": "import resource\nresource.setrlimit(resource.RLIMIT_AS, (2**40, 2**40))\nbytearray(10**9)",
    "change a mode outside": "import os\nos.chmod({secret!r}, 0o777)",
    "change a mode by a descriptor": "import os\nos.fchmod(os.open(os.__file__, os.O_RDONLY), 0o777)",
    "a mode by fchmodat2": "import ctypes\nassert not ctypes.CDLL(None).syscall(452, -100, {secret!r}.encode(), 7, 0)",
    "change an owner outside": "import os\nos.chown({secret!r}, 12345, 12345)",
    "change times outside": "import os\nos.utime({secret!r}, (1, 1))",
    "change times of a library": "import os\nos.utime(os.__file__, (1, 1))",
    "set an attribute outside": "import os\nos.setxattr({secret!r}, 'user.x', b'x')",
    "remove an attribute outside": "import os\nos.removexattr({secret!r}, 'user.kept')",
    "link to what is outside": "import os\nos.link({secret!r}, 'l')\nos.link({secret!r}, {folder!r} + '/linked')",
    "flags of an inode": "import fcntl, os\nfcntl.ioctl(open(os.__file__), 0x40086602, b'\\x10' + bytes(7))",
    "signals by ownership": "import fcntl, os\nr, w = os.pipe()\nfcntl.fcntl(r, fcntl.F_SETOWN, {pid})",
    "a thread of another's": "import ctypes\nassert ctypes.CDLL(None).syscall(234, {pid}, {pid}, 15) == 0",
    "another's limits": "import resource\nresource.prlimit({pid}, resource.RLIMIT_CORE)",
    "another's memory": "import ctypes\nassert ctypes.CDLL(None).process_vm_readv({pid}, 0, 0, 0, 0, 0) == 0",
    "trace": "import ctypes\nassert ctypes.CDLL(None).ptrace(16, {pid}, 0, 0) == 0",
    "a ring": "import ctypes\nassert ctypes.CDLL(None).syscall(425, 8, bytes(120)) >= 0",
    "a file in memory": "import os\nos.memfd_create('x')",
    "shared memory": "import ctypes\nassert ctypes.CDLL(None).shmget(4711, 4096, 0o1777) >= 0",
    "a pair to anywhere": "import socket\nsocket.socketpair(type=socket.SOCK_DGRAM)[0].sendto(b'x', {secret!r})",
    "a user's keys": "import ctypes\nassert ctypes.CDLL(None).syscall(248, b'user', b'x', b'y', 1, -5) >= 0",
    "mount": "import ctypes\nassert ctypes.CDLL(None).mount(b'none', {folder!r}.encode(), b'tmpfs', 0, None) == 0",
    "new namespaces": "import ctypes\nassert ctypes.CDLL(None).unshare(0x10000000) == 0",
    "a deep recursion": "import sys\nsys.setrecursionlimit(10**9)\nf = lambda: f()\nf()",
}  # fmt: skip


def metadata(path: Path) -> tuple[Any, ...]:
    found = path.stat()
    names = os.listxattr(path) if sys.platform == "linux" else []
    return (found.st_mode, found.st_uid, found.st_gid, found.st_mtime_ns, found.st_nlink, names)


@pytest.fixture(params=["bubblewrap", "namespaces", "the filter alone"])
def walls(request, monkeypatch) -> str:
    """What stands around programs; where the machine lacks it, there is nothing to test."""
    if request.param != "bubblewrap":
        monkeypatch.setattr(sandbox, "_bubblewrap", lambda: ())
    elif not sandbox._bubblewrap():
        pytest.skip("no bubblewrap here")
    if request.param == "the filter alone":
        monkeypatch.setattr(sandbox, "_namespaces", lambda: ())
    return request.param


@pytest.mark.skipif(not CONFINED, reason="Landlock and seccomp are Linux's")
@pytest.mark.parametrize("name", ESCAPES)
def test_an_escape_has_no_effect(name: str, tmp_path: Path, listener, monkeypatch) -> None:
    check_escape(name, tmp_path, listener, monkeypatch)


@pytest.mark.slow
@pytest.mark.skipif(not CONFINED, reason="Landlock and seccomp are Linux's")
@pytest.mark.parametrize("name", ESCAPES)
def test_an_escape_has_no_effect_behind_each_wall(name: str, walls, tmp_path: Path, listener, monkeypatch) -> None:
    check_escape(name, tmp_path, listener, monkeypatch)


def check_escape(name: str, tmp_path: Path, listener, monkeypatch) -> None:
    if sandbox.exposed():
        pytest.skip(f"this machine leaves open: {', '.join(sandbox.exposed())}")
    port, reached = listener
    secret = tmp_path / "id_rsa"
    secret.write_text("passed: the key")
    monkeypatch.setenv("SECRET_TOKEN", "passed")
    program = ESCAPES[name].format(port=port, secret=str(secret), folder=str(tmp_path), pid=os.getpid())
    with contextlib.suppress(OSError):  # a file system without attributes
        os.setxattr(secret, "user.kept", b"kept")
    before = metadata(secret), metadata(Path(os.__file__))
    began = time.perf_counter()
    ran = sandbox.run(program, "", QUICK, set())
    assert time.perf_counter() - began < 5
    assert not ran.ok and "passed" not in ran.output and "SECRET" not in ran.output
    assert secret.read_text() == "passed: the key" and sorted(tmp_path.iterdir()) == [secret]
    assert metadata(secret) == before[0] and metadata(Path(os.__file__)) == before[1]
    assert reached == []


def test_nothing_is_left_behind_or_handed_over(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "x")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    program = (
        "import os, sys\nopen('own', 'w').write('x')\n"
        "print(sorted(os.listdir('.')), 'SECRET_TOKEN' in os.environ, sys.stdin.read(), len(sys.argv))\n"
        "print([n for n in range(3, 64) if os.path.exists(f'/dev/fd/{n}')])"
    )
    with open(tmp_path / "handle", "w") as handle:
        os.set_inheritable(handle.fileno(), True)
        ran = sandbox.run(program, "given", QUICK, set())
    assert ran == sandbox.Ran("['own', 'program.py'] False given 1\n[]\n", True)
    assert [path.name for path in tmp_path.iterdir()] == ["handle"]


NESTS = """
import os
for _ in range(3000):
    os.mkdir("a")
    os.chdir("a")
open("deepest", "w").close()
os.mkdir("unreadable", 0)
"""


def test_what_is_hard_to_delete_is_deleted(tmp_path: Path, walls, monkeypatch) -> None:
    """Nests deeper than a path may be long, folders that cannot be read; links are not followed."""
    memory = Path("/dev/shm")  # a disk may take milliseconds for each folder
    own = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(own))
    (tmp_path / "kept").mkdir(mode=0o750)
    links = f"os.symlink({str(tmp_path / 'kept')!r}, 'link')\nprint('made')"
    ran = sandbox.run(NESTS + links, "", sandbox.Limits(), set())
    assert ran == sandbox.Ran("made\n", True) and not list(own.iterdir())
    own.rmdir()
    assert (tmp_path / "kept").stat().st_mode & 0o777 == 0o750


def test_what_cannot_be_deleted_is_told_once(bench, answered, monkeypatch) -> None:
    monkeypatch.setattr(sandbox, "remove_folder", lambda folder: shutil.rmtree(folder) or "Operation not permitted")
    said: list[str] = []
    rewards = RewardList.build(bench.catalog, [{"name": "code"}], torch.device("cpu"), said.append)
    for _ in range(2):
        assert rewards.score(answered(["print(1)"] * 2, ["1", "2"])).total.tolist() == [1, 0]
    assert [line for line in said if "could not be deleted" in line] == [said[-1]] and "2 folders" in said[-1]


def test_common_programs_work(walls) -> None:
    program = (
        "import asyncio, concurrent.futures, pathlib, shutil, sqlite3, tempfile, time, zipfile\n"
        "async def f():\n    await asyncio.sleep(0.01)\n    return 3\n"
        "with concurrent.futures.ThreadPoolExecutor(2) as pool:\n    print(list(pool.map(abs, [-1, 2])))\n"
        "pathlib.Path('a').write_text('x')\nshutil.copyfile('a', 'b')\nshutil.move('b', 'c')\n"
        "pathlib.Path('d').touch()\n"
        "with zipfile.ZipFile('z', 'w') as file:\n    file.write('a')\nzipfile.ZipFile('z').extract('a', 'out')\n"
        "with tempfile.TemporaryDirectory(dir='.') as own:\n    print(pathlib.Path(own).is_dir())\n"
        "rows = sqlite3.connect('base')\nrows.execute('create table t(x)')\nrows.commit()\n"
        "print(asyncio.run(f()), pathlib.Path('out/a').read_text())\n"
    )
    assert sandbox.run(program, "", sandbox.Limits(), set()) == sandbox.Ran("[1, 2]\nTrue\n3 x\n", True)


def test_threads_and_asyncio_work() -> None:
    program = (
        "import asyncio, concurrent.futures, decimal, hashlib, json, math, random, re\n"
        "with concurrent.futures.ThreadPoolExecutor(2) as pool:\n    print(list(pool.map(abs, [-1, 2])))\n"
        "async def f():\n    await asyncio.sleep(0)\n    return 3\n"
    )
    assert sandbox.run(program, "", sandbox.Limits(), set()) == sandbox.Ran("[1, 2]\n", True)


def test_a_signal_ends_running_programs(bench, answered) -> None:
    """What a trainer's interruption does: the wait is left at once, and with it what runs."""
    answers = answered(["import time\ntime.sleep(30)"] * 6, ["x"] * 6)
    rewards = RewardList.build(
        bench.catalog, [{"name": "code", "wall_seconds": 30, "workers": 2}], torch.device("cpu"), print
    )

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    import signal

    before = signal.signal(signal.SIGALRM, interrupt)
    began = time.perf_counter()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.4)
        with pytest.raises(KeyboardInterrupt):
            rewards.score(answers)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.perf_counter() - began < 3


def test_a_machine_that_leaves_things_open_runs_nothing_unless_told(bench, answered, monkeypatch) -> None:
    """Without seccomp, Landlock and namespaces."""
    monkeypatch.setattr(sandbox, "_bubblewrap", lambda: ())
    monkeypatch.setattr(sandbox, "_namespaces", lambda: ())
    monkeypatch.setattr(sandbox, "_CONFINE", SUPPORT / "unconfined.py")
    sandbox.exposed.cache_clear()
    said: list[str] = []
    try:
        with pytest.raises(UsageError, match=r"can read files, .*on this machine") as refused:
            RewardList.build(bench.catalog, [{"name": "code"}], torch.device("cpu"), said.append)
        assert "bubblewrap" in refused.value.hint and "unsafe=true" in refused.value.hint and not said
        rewards = RewardList.build(bench.catalog, [{"name": "code", "unsafe": True}], torch.device("cpu"), said.append)
    finally:
        sandbox.exposed.cache_clear()
    for door in ("read files", "change files' modes", "change files' times", "open sockets", "start processes"):
        assert door in said[0], door
    assert rewards.score(answered(["print(1)"], ["1"])).total.tolist() == [1]
    monkeypatch.setattr(sandbox, "_CONFINE", SUPPORT / "nowhere.py")
    with pytest.raises(RewardError, match="no confined program runs") as failed:
        RewardList.build(bench.catalog, [{"name": "code"}], torch.device("cpu"), said.append)
    assert "nowhere.py" in failed.value.hint
    sandbox.exposed.cache_clear()


@pytest.mark.skipif(shutil.which("unshare") is None, reason="no unshare here")
def test_namespaces_are_used_where_they_work() -> None:
    works = subprocess.run(["unshare", "-rn", "true"], capture_output=True, check=False).returncode == 0
    assert bool(sandbox._namespaces()) == works


def test_the_filter_alone_closes_the_network_and_processes(monkeypatch) -> None:
    """In a container that has no user namespaces."""
    if not CONFINED:
        pytest.skip("Linux's")
    monkeypatch.setattr(sandbox, "_bubblewrap", lambda: ())
    monkeypatch.setattr(sandbox, "_namespaces", lambda: ())
    sandbox.exposed.cache_clear()
    with contextlib.closing(socket.socket()):
        assert sandbox.exposed() == ()
    sandbox.exposed.cache_clear()
