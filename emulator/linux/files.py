"""File descriptors: for now standard output and standard error; see write(2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emulator.linux.errno import Errno
from emulator.linux.uaccess import copy_from_user

if TYPE_CHECKING:
    from emulator.linux.process import Process
    from emulator.linux.threads import Thread


def write(process: Process, thread: Thread, fd: int, buf: int, count: int) -> int:
    """Collects the bytes in Process.output and hands them to Process.sink."""
    del thread
    fd &= 0xFFFF_FFFF
    if fd not in process.output:
        return -Errno.EBADF
    data = copy_from_user(process.memory, buf, count)
    process.output[fd] += data
    if process.sink is not None:
        process.sink(fd, data)
    return len(data)
