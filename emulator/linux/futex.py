"""Waiting on and waking through a word of memory: kernel/futex/waitwake.c; see futex(2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from emulator.fault import NotModelled
from emulator.linux.clock import BOOT, EPOCH, get_timespec
from emulator.linux.errno import Errno
from emulator.linux.threads import Thread, ThreadState, Wait
from emulator.linux.uaccess import get_u32

if TYPE_CHECKING:
    from emulator.linux.process import Process

FUTEX_WAIT: Final = 0
FUTEX_WAKE: Final = 1
FUTEX_WAIT_BITSET: Final = 9
FUTEX_WAKE_BITSET: Final = 10
FUTEX_PRIVATE_FLAG: Final = 128
FUTEX_CLOCK_REALTIME: Final = 256
MATCH_ANY: Final = 0xFFFF_FFFF
SYS_FUTEX: Final = 202


def futex(
    process: Process, thread: Thread, uaddr: int, op: int, val: int, timeout: int, _: int, val3: int
) -> int | None:
    """FUTEX_WAIT, FUTEX_WAKE and their _BITSET forms; there is one process, so all are private."""
    command = op & 0x7F
    if uaddr % 4:
        return -Errno.EINVAL
    bitset = val3 & MATCH_ANY if command in (FUTEX_WAIT_BITSET, FUTEX_WAKE_BITSET) else MATCH_ANY
    if not bitset:
        return -Errno.EINVAL
    if command in (FUTEX_WAKE, FUTEX_WAKE_BITSET):
        count = val & 0xFFFF_FFFF
        return wake(process, thread, uaddr, count - (count >> 31 << 32), bitset)
    if command not in (FUTEX_WAIT, FUTEX_WAIT_BITSET):
        raise NotModelled(
            f"futex operation {command} is not modelled", thread.tid, thread.registers.copy()
        )
    deadline = None
    if timeout:
        ns = get_timespec(process.memory, timeout)
        if ns is None:
            return -Errno.EINVAL
        if command == FUTEX_WAIT:  # relative
            deadline = thread.time + ns
        else:
            deadline = ns - (EPOCH if op & FUTEX_CLOCK_REALTIME else BOOT)
    return wait(process, thread, uaddr, val & 0xFFFF_FFFF, deadline, bitset, number=SYS_FUTEX)


def wait(
    process: Process,
    thread: Thread,
    uaddr: int,
    val: int,
    deadline: int | None = None,
    bitset: int = MATCH_ANY,
    *,
    number: int = 0,
) -> int | None:
    """Waits if the word holds `val`, until woken or until the machine's time is `deadline`.

    EAGAIN where the word has changed. Only a wait without a timeout restarts under SA_RESTART
    (futex_wait: ERESTARTSYS against ERESTART_RESTARTBLOCK), and only one that a SYSCALL
    instruction with this number began.
    """
    if get_u32(process.memory, uaddr) != val:
        return -Errno.EAGAIN
    if deadline is not None and deadline <= thread.time:
        return -Errno.ETIMEDOUT
    restarts = deadline is None and number != 0
    thread.wait = Wait(
        "futex", -Errno.ETIMEDOUT, restarts=restarts, number=number, uaddr=uaddr, bitset=bitset
    )
    thread.wake_at = deadline
    thread.state = ThreadState.FUTEX
    process.futex_queue.append(thread.tid)
    return None


def wake(process: Process, thread: Thread, uaddr: int, count: int, bitset: int = MATCH_ANY) -> int:
    """Wakes at most `count` (at least one) of those who wait longest; returns how many."""
    woken: list[int] = []
    for tid in process.futex_queue:
        waiter = process.threads[tid]
        assert waiter.wait is not None
        if waiter.wait.uaddr == uaddr and waiter.wait.bitset & bitset:
            waiter.wake(thread.time, 0)
            woken.append(tid)
            if len(woken) >= count:
                break
    for tid in woken:
        process.futex_queue.remove(tid)
    return len(woken)
