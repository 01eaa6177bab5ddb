"""A command on a terminal of its own, of any width, with the standard library alone."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time

CONTROL = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")


def on_terminal(
    command: list[str], columns: int, *, interrupt_at: bytes = b"", **environment: str
) -> tuple[int, bytes]:
    """(exit code, all bytes written) of a command on a terminal of that width. interrupt_at: Ctrl-C is typed once this
    was written."""
    pid, terminal = pty.fork()
    if not pid:
        os.execve(sys.executable, command, {**os.environ, "TERM": "xterm-256color"})
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    written, end = b"", time.monotonic() + 200
    while time.monotonic() < end:
        if select.select([terminal], [], [], 1.0)[0]:
            try:
                written += os.read(terminal, 65536)
            except OSError:  # the other side is closed
                break
        if interrupt_at and interrupt_at in written:
            os.write(terminal, b"\x03")
            interrupt_at = b""
    else:
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), written
