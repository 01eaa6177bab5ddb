"""Runs one Python program confined. `code` starts this file in a new process and never imports it:

    python -I -S -B confine.py PROGRAM FOLDER CPU_SECONDS MEMORY FILE_BYTES

It sets limits, then Linux's Landlock (for files) and a seccomp filter (for system calls), each where the kernel has it,
then runs the program in this very process. None of these can be switched off again.
"""

import ctypes
import os
import platform
import resource
import runpy
import struct
import sys

# Loaded by path, not through the package, which would import modules that the program must not see.
filter_program = runpy.run_path(os.path.join(os.path.dirname(os.path.abspath(__file__)), "system_calls.py"))[
    "filter_program"
]

_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446  # the same on every architecture
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}  # by version
LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share/zoneinfo", "/etc/localtime")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
_NO_NEW_PRIVILEGES, _SET_SECCOMP, _SECCOMP_FILTER = 38, 22, 2


def limit(cpu_seconds: int, memory: int, file_bytes: int) -> None:
    for kind, value in (
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 64),
    ):
        resource.setrlimit(kind, (value, value))


def confine_files(libc: ctypes.CDLL, folder: str) -> None:
    """Allow reading Python's library and the system's, and writing in `folder`. Does nothing without Landlock."""
    version = libc.syscall(_LANDLOCK_CREATE, None, 0, 1)
    if version < 1:
        return
    handled = _RIGHTS.get(min(version, 5), 0)
    # Version 4 handles TCP (bind, connect); 6 handles signals and abstract sockets to processes outside.
    attributes = struct.pack("QQQ", handled, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    rules = libc.syscall(_LANDLOCK_CREATE, attributes, size, 0)
    readable = [*LIBRARIES, os.path.dirname(os.__file__), sys.base_prefix + "/lib"]
    readable += [path for path in sys.path if os.path.exists(path)]
    for path, rights in (
        *((path, _READ_FILE | _READ_DIR) for path in readable),
        *((path, _READ_FILE | _WRITE_FILE) for path in _DEVICES),
        (folder, handled & ~_EXECUTE),
    ):
        _allow(libc, rules, path, rights)
    if libc.syscall(_LANDLOCK_RESTRICT, rules, 0):
        raise OSError(ctypes.get_errno(), "landlock_restrict_self")
    os.close(rules)


def _allow(libc: ctypes.CDLL, rules: int, path: str, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # this machine has no such path
    if not os.path.isdir(path):
        rights &= _READ_FILE | _WRITE_FILE
    if libc.syscall(_LANDLOCK_ADD, rules, 1, struct.pack("=Qi", rights, descriptor), 0):
        raise OSError(ctypes.get_errno(), f"landlock_add_rule {path}")
    os.close(descriptor)


def confine_calls(libc: ctypes.CDLL) -> None:
    """Allow only the calls of `system_calls`. Does nothing on an unknown machine, or a kernel without filters."""
    code = filter_program(platform.machine(), os.getpid())
    if code is None:
        return
    lines = ctypes.create_string_buffer(code, len(code))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(code) // 8, ctypes.addressof(lines)))
    libc.prctl(_SET_SECCOMP, _SECCOMP_FILTER, ctypes.c_void_p(ctypes.addressof(header)), 0, 0)


def main(program: str, folder: str, cpu_seconds: str, memory: str, file_bytes: str) -> None:
    os.chdir(folder)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        confine_files(libc, folder)
        limit(int(cpu_seconds), int(memory), int(file_bytes))
        confine_calls(libc)
    else:
        limit(int(cpu_seconds), int(memory), int(file_bytes))
    sys.argv = [program]
    runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
