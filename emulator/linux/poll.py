"""Waiting for files: fs/eventpoll.c, and the waits of read and write; see epoll(7).

A thread that waits makes its system call again when any file has changed, as a kernel thread that
is woken looks again; only its deadline stays.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from emulator.fault import NotModelled
from emulator.linux.errno import Errno
from emulator.linux.open_file import O_NONBLOCK, EventPoll, FileError, Interest, OpenFile
from emulator.linux.threads import Thread, ThreadState, Wait
from emulator.linux.uaccess import check_writable, copy_from_user, copy_to_user

if TYPE_CHECKING:
    from emulator.linux.process import Process

EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD = 1, 2, 3
_EVENT: Final = struct.Struct("<IQ")  # struct epoll_event is packed on x86-64
MILLISECOND: Final = 1_000_000
SYS_EPOLL_WAIT, SYS_EPOLL_PWAIT = 232, 281


def block(thread: Thread, file: OpenFile, name: str, number: int) -> int | None:
    """EAGAIN under O_NONBLOCK; else the thread waits until some file has changed."""
    if file.flags & O_NONBLOCK:
        return -Errno.EAGAIN
    thread.wait = Wait(name, restarts=True, number=number)
    thread.state = ThreadState.POLL
    return None


def wake_pollers(process: Process, thread: Thread) -> None:
    """Something became readable or writable: who waits looks again."""
    for other in process.threads.values():
        if other.state is ThreadState.POLL:
            wait = other.wait
            assert wait is not None
            other.again_until = other.wake_at
            other.wake(thread.time, wait.number)
            other.registers["RIP"] -= 2


def epoll_create1(process: Process, thread: Thread, _flags: int) -> int:
    """An empty set."""
    del thread
    return process.install(EventPoll(0o600))


def epoll_create(process: Process, thread: Thread, size: int) -> int:
    """As epoll_create1; the size says nothing but that it is positive."""
    return epoll_create1(process, thread, 0) if size & 0xFFFF_FFFF else -Errno.EINVAL


def _set(process: Process, epfd: int) -> EventPoll:
    file = process.files.get(epfd & 0xFFFF_FFFF)
    if file is None:
        raise FileError(Errno.EBADF)
    if not isinstance(file, EventPoll):
        raise FileError(Errno.EINVAL)
    return file


def epoll_ctl(process: Process, thread: Thread, epfd: int, op: int, fd: int, event: int) -> int:
    """Adds, changes or takes out a descriptor. Regular files cannot be waited for: EPERM."""
    interests = _set(process, epfd).interests
    fd &= 0xFFFF_FFFF
    file = process.files.get(fd)
    if file is None:
        return -Errno.EBADF
    if not file.pollable:
        return -Errno.EPERM
    if op == EPOLL_CTL_DEL:
        return 0 if interests.pop(fd, None) is not None else -Errno.ENOENT
    if op not in (EPOLL_CTL_ADD, EPOLL_CTL_MOD):
        return -Errno.EINVAL
    if (fd in interests) != (op == EPOLL_CTL_MOD):
        return -Errno.EEXIST if op == EPOLL_CTL_ADD else -Errno.ENOENT
    events, data = _EVENT.unpack(copy_from_user(process.memory, event, _EVENT.size))
    interests[fd] = Interest(file, events, data)
    wake_pollers(process, thread)
    return 0


def _wait(
    process: Process, thread: Thread, epfd: int, events: int, most: int, timeout: int, number: int
) -> int | None:
    limit = most - (most >> 31 << 32) if most < 1 << 32 else 0
    if limit <= 0:
        return -Errno.EINVAL
    waited = _set(process, epfd)
    check_writable(process.memory, events, _EVENT.size)
    found = waited.ready(limit)
    deadline, thread.again_until = thread.again_until, None
    if found:
        copy_to_user(process.memory, events, b"".join(_EVENT.pack(*each) for each in found))
        return len(found)
    ms = timeout & 0xFFFF_FFFF
    if ms == 0:
        return 0
    if deadline is None and not ms >> 31:
        deadline = thread.time + ms * MILLISECOND
    if deadline is not None and deadline <= thread.time:
        return 0
    thread.wait = Wait("epoll_wait", number=number)
    thread.wake_at = deadline
    thread.state = ThreadState.POLL
    return None


def epoll_wait(
    process: Process, thread: Thread, epfd: int, events: int, maxevents: int, timeout: int
) -> int | None:
    """What is ready, or what becomes so within `timeout` ms; negative is for ever."""
    return _wait(process, thread, epfd, events, maxevents, timeout, SYS_EPOLL_WAIT)


def epoll_pwait(
    process: Process, thread: Thread, epfd: int, events: int, maxevents: int, timeout: int,
    sigmask: int,
) -> int | None:  # fmt: skip
    """As epoll_wait; a signal mask for its time is not modelled, and programs give none."""
    if sigmask:
        raise NotModelled(
            "epoll_pwait with a signal mask is not modelled", thread.tid, thread.registers.copy()
        )
    return _wait(process, thread, epfd, events, maxevents, timeout, SYS_EPOLL_PWAIT)
