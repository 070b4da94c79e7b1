"""What a program asks of the system and of its limits: kernel/sys.c, kernel/sched/syscalls.c.

See uname(2), getrlimit(2), sched_getaffinity(2), getrandom(2), getuid(2), prctl(2). The answers
follow from the process's options alone.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from emulator.linux.errno import Errno
from emulator.linux.uaccess import copy_from_user, copy_to_user

if TYPE_CHECKING:
    from emulator.linux.process import Process
    from emulator.linux.threads import Thread

_UTSNAME: Final = ("Linux", "pushcall", "6.1.0", "#1 SMP", "x86_64", "(none)")
_UTSNAME_FIELD: Final = 65
RLIM_INFINITY: Final = 2**64 - 1
# RLIMIT_ numbers: STACK, CORE, NPROC, NOFILE, AS; the others are infinite.
_LIMITS: Final = {3: (8 << 20, RLIM_INFINITY), 4: (0, 0), 7: (1024, 1024)}


def uname(process: Process, thread: Thread, name: int) -> int:
    """A Linux 6.1 named pushcall."""
    del thread
    fields = (text.encode().ljust(_UTSNAME_FIELD, b"\0") for text in _UTSNAME)
    copy_to_user(process.memory, name, b"".join(fields))
    return 0


def sched_getaffinity(process: Process, thread: Thread, pid: int, length: int, mask: int) -> int:
    """The first `Process.cpus` processors; how many bytes of the mask were written."""
    if pid and pid not in process.threads:
        return -Errno.ESRCH
    del thread
    size = 8 * -(-process.cpus // 64)
    if length % 8 or length < size:
        return -Errno.EINVAL
    copy_to_user(process.memory, mask, ((1 << process.cpus) - 1).to_bytes(size, "little"))
    return size


def getrlimit(process: Process, thread: Thread, resource: int, rlim: int) -> int:
    """Soft and hard limit."""
    del thread
    if resource > 15:
        return -Errno.EINVAL
    limits = _LIMITS.get(resource, (RLIM_INFINITY, RLIM_INFINITY))
    copy_to_user(process.memory, rlim, struct.pack("<QQ", *limits))
    return 0


def setrlimit(process: Process, thread: Thread, resource: int, rlim: int) -> int:
    """Limits that stay what they are; raising the hard one is EPERM."""
    del thread
    if resource > 15:
        return -Errno.EINVAL
    soft, hard = struct.unpack("<QQ", copy_from_user(process.memory, rlim, 16))
    if soft > hard:
        return -Errno.EINVAL
    known = _LIMITS.get(resource, (RLIM_INFINITY, RLIM_INFINITY))
    return 0 if hard <= known[1] else -Errno.EPERM


def prlimit64(process: Process, thread: Thread, pid: int, resource: int, new: int, old: int) -> int:
    """Of the process itself."""
    if pid not in (0, process.pid):
        return -Errno.ESRCH
    if old:
        error = getrlimit(process, thread, resource, old)
        if error:
            return error
    return setrlimit(process, thread, resource, new) if new else 0


def getrandom(process: Process, thread: Thread, buf: int, count: int, _flags: int) -> int:
    """Bytes of the process's own seeded generator."""
    del thread
    count = min(count, 1 << 20)
    copy_to_user(process.memory, buf, process.random.randbytes(count))
    return count


def getuid(process: Process, thread: Thread) -> int:
    """The user."""
    del thread
    return process.uid


def getgid(process: Process, thread: Thread) -> int:
    """The group, which has the user's number."""
    del thread
    return process.uid


def geteuid(process: Process, thread: Thread) -> int:
    """The user."""
    return getuid(process, thread)


def getegid(process: Process, thread: Thread) -> int:
    """The group."""
    return getgid(process, thread)


def getppid(process: Process, thread: Thread) -> int:
    """Nobody's child: as of a process whose parent is in another namespace."""
    del process, thread
    return 0


def prctl(process: Process, thread: Thread, option: int, _arg2: int) -> int:
    """EINVAL, as of a kernel without the option; names of threads and mappings change nothing."""
    del process, thread
    return 0 if option == 15 else -Errno.EINVAL  # PR_SET_NAME


def sysinfo(process: Process, thread: Thread, info: int) -> int:
    """Memory as large as the limit, one process."""
    del thread
    memory = process.memory_limit or 1 << 34
    copy_to_user(
        process.memory,
        info,
        struct.pack("<q3Q6QHHIQQI4x", 1, 0, 0, 0, memory, memory, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1),
    )
    return 0
