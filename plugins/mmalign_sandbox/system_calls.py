"""The system calls that a confined program may make: all others are refused.

    lines = filter_program(platform.machine(), os.getpid())     # BPF, or None for an unknown machine

The list says what is allowed, not what is refused, so a call that nobody thought of, or that a later kernel adds, is
blocked. Allowed are the calls by which one process computes, reads and writes files, waits and starts threads. So there
are no processes, no sockets but connected pairs, no signals to others, no namespaces, and no changes to a file's mode,
owner, times, attributes or links, not even in the program's own folder, because a filter cannot see paths
(`shutil.copyfile` works, `shutil.copy` does not). `confine` runs this file alone, without its package.
"""

import struct

_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_EPERM, _ENOSYS, _CLONE_THREAD, _SOCK_STREAM = 1, 38, 0x00010000, 1
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # AUDIT_ARCH
_NEW = 424  # from here on numbers are the same everywhere, and C libraries have fallbacks
# Numbers on x86_64 and on aarch64, where each has them.
_X86_64 = {
    "memory": (9, 10, 11, 12, 25, 26, 27, 28),
    "files": (
        *(0, 1, 2, 3, 4, 5, 6, 8, 17, 18, 19, 20, 21, 40, 73, 74, 75, 77, 78, 79, 80, 81, 82, 83, 84, 85, 87, 88, 89),
        *(95, 137, 138, 217, 221, 257, 258, 262, 263, 264, 266, 267, 269, 275, 285, 295, 296, 316, 326, 327, 328, 332),
    ),
    "descriptors": (7, 22, 23, 32, 33, 213, 232, 233, 270, 271, 281, 284, 290, 291, 292, 293),
    "connected pairs": (44, 45, 46, 47, 48, 51, 52, 54, 55),
    "time": (35, 36, 37, 38, 96, 100, 201, 228, 229, 230),
    "own signals": (13, 14, 15, 34, 127, 128, 130, 131, 219),
    "what it is": (
        *(39, 63, 97, 98, 99, 102, 104, 107, 108, 110, 111, 115, 118, 120, 121, 124, 143, 145, 158, 160, 186, 204, 309),
    ),
    "threads": (24, 202, 218, 273, 274, 318, 324, 334),
    "end": (60, 231),
}
_AARCH64 = {
    "memory": (222, 226, 215, 214, 216, 227, 232, 233),
    "files": (
        *(63, 64, 56, 57, 80, 62, 67, 68, 65, 66, 71, 32, 82, 83, 46, 61, 17, 49, 50, 34, 35, 36, 38, 78, 48, 79, 166),
        *(43, 44, 223, 76, 47, 69, 70, 276, 285, 286, 287, 291),
    ),
    "descriptors": (23, 24, 19, 20, 21, 22, 59, 72, 73),
    "connected pairs": (206, 207, 211, 212, 210, 204, 205, 208, 209),
    "time": (101, 102, 103, 169, 153, 113, 114, 115),
    "own signals": (134, 135, 139, 136, 137, 133, 132, 128),
    "what it is": (
        *(172, 160, 163, 164, 165, 179, 174, 175, 176, 177, 173, 158, 148, 150, 155, 156, 121, 120, 178, 123, 168),
    ),
    "threads": (124, 98, 96, 99, 100, 278, 283, 293),
    "end": (93, 94),
}
_EVERYWHERE = (436, 437, 439, 441)  # close_range, openat2, faccessat2, epoll_pwait2
# Allowed for some values of one argument: the number by machine, then the argument's index and its values.
_IOCTL, _FCNTL, _TGKILL, _PRLIMIT, _CLONE, _SOCKETPAIR = (
    {"x86_64": x86_64, "aarch64": aarch64}
    for x86_64, aarch64 in ((16, 29), (72, 25), (234, 131), (302, 261), (56, 220), (53, 199))
)
# Whether it is a terminal, and its width; close-on-exec, non-blocking, bytes available. Not: inode flags, owners.
_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
# Duplicates, flags, locks. Not: owners (who get signals), leases, notices.
_FCNTLS = (0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030, 1032)


def filter_program(machine: str, pid: int) -> bytes | None:
    """Instructions of 8 bytes each. pid: the process's own; it may signal, and set limits of, only this process."""
    if machine not in _ARCHITECTURES:
        return None
    groups = _X86_64 if machine == "x86_64" else _AARCH64
    program = [_load(4), _equal(_ARCHITECTURES[machine], 1, 0), _give(_KILL), _load(0)]
    program += [_at_least(0x40000000, 0, 1), _give(_ERRNO | _ENOSYS)]  # x86's second table
    for number in (*(number for group in groups.values() for number in group), *_EVERYWHERE):
        program += [_equal(number, 0, 1), _give(_ALLOW)]
    for numbers, index, values in (
        (_IOCTL, 1, _IOCTLS),
        (_FCNTL, 1, _FCNTLS),
        (_TGKILL, 0, (pid,)),  # abort()
        (_PRLIMIT, 0, (0, pid)),
    ):
        program += _where(numbers[machine], [_argument(index)], [_equal(value, 0, 1) for value in values])
    program += _where(_CLONE[machine], [_argument(0)], [_any_bit(_CLONE_THREAD, 0, 1)])
    # Stream sockets only: a pair of datagram sockets could send to any address.
    program += _where(_SOCKETPAIR[machine], [_argument(1), _and(0xF)], [_equal(_SOCK_STREAM, 0, 1)])
    program += [_at_least(_NEW, 0, 1), _give(_ERRNO | _ENOSYS), _give(_ERRNO | _EPERM)]
    return b"".join(program)


def _where(number: int, load: list[bytes], tests: list[bytes]) -> list[bytes]:
    """Allow the call if one of the tests holds; a test that fails skips one instruction."""
    body = [*load, *(line for test in tests for line in (test, _give(_ALLOW))), _give(_ERRNO | _EPERM)]
    return [_equal(number, 0, len(body)), *body]


def _load(offset: int) -> bytes:
    return struct.pack("HBBI", 0x20, 0, 0, offset)


def _argument(index: int) -> bytes:
    """Loads the argument's lower half, all that the kernel reads of an int. Machines here are little-endian."""
    return _load(16 + 8 * index)


def _and(value: int) -> bytes:
    return struct.pack("HBBI", 0x54, 0, 0, value)


def _give(value: int) -> bytes:
    return struct.pack("HBBI", 0x06, 0, 0, value)


def _equal(value: int, yes: int, no: int) -> bytes:
    return struct.pack("HBBI", 0x15, yes, no, value)


def _at_least(value: int, yes: int, no: int) -> bytes:
    return struct.pack("HBBI", 0x35, yes, no, value)


def _any_bit(value: int, yes: int, no: int) -> bytes:
    return struct.pack("HBBI", 0x45, yes, no, value)
