"""Clocks and sleeping, in virtual time: 1 ns for each instruction that a thread executes.

Models kernel/time/{time,posix-timers,hrtimer}.c; see clock_gettime(2), clock_nanosleep(2).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from emulator.linux.errno import Errno
from emulator.linux.threads import Thread, ThreadState, Wait
from emulator.linux.uaccess import copy_from_user, copy_to_user

if TYPE_CHECKING:
    from emulator.linux.process import Process
    from emulator.memory import Memory

SECOND: Final = 1_000_000_000
BOOT: Final = 1 * SECOND  # CLOCK_MONOTONIC when the machine's time is 0; programs dislike 0
EPOCH: Final = 1_767_225_600 * SECOND  # CLOCK_REALTIME then: 2026-01-01 00:00:00 UTC

CLOCK_REALTIME: Final = 0
CLOCK_MONOTONIC: Final = 1
CLOCK_PROCESS_CPUTIME_ID: Final = 2
CLOCK_THREAD_CPUTIME_ID: Final = 3
REALTIME_CLOCKS: Final = (CLOCK_REALTIME, 5)  # and _COARSE
MONOTONIC_CLOCKS: Final = (CLOCK_MONOTONIC, 4, 6, 7)  # and _RAW, _COARSE, BOOTTIME
TIMER_ABSTIME: Final = 1

_TIMESPEC: Final = struct.Struct("<qq")


def put_timespec(memory: Memory, address: int, ns: int) -> None:
    """Writes a struct timespec; raises AccessFault."""
    copy_to_user(memory, address, _TIMESPEC.pack(*divmod(ns, SECOND)))


def get_timespec(memory: Memory, address: int) -> int | None:
    """Reads a struct timespec as nanoseconds; None where it is not valid (EINVAL)."""
    seconds, ns = _TIMESPEC.unpack(copy_from_user(memory, address, _TIMESPEC.size))
    if seconds < 0 or not 0 <= ns < SECOND:
        return None
    return int(seconds * SECOND + ns)


def base(clock: int) -> int | None:
    """What a clock shows when the machine's time is 0; None where it is no such clock."""
    if clock in REALTIME_CLOCKS:
        return EPOCH
    if clock in MONOTONIC_CLOCKS:
        return BOOT
    return None


def clock_gettime(process: Process, thread: Thread, clock: int, tp: int) -> int:
    """The thread's own time, offset by the clock's base; CPU clocks count instructions."""
    start = base(clock)
    if start is not None:
        value = start + thread.time
    elif clock == CLOCK_PROCESS_CPUTIME_ID:
        value = sum(other.instructions for other in process.threads.values())
    elif clock == CLOCK_THREAD_CPUTIME_ID:
        value = thread.instructions
    else:
        return -Errno.EINVAL
    put_timespec(process.memory, tp, value)
    return 0


def gettimeofday(process: Process, thread: Thread, tv: int, tz: int) -> int:
    """CLOCK_REALTIME in microseconds; the timezone is zero."""
    if tv:
        seconds, ns = divmod(EPOCH + thread.time, SECOND)
        copy_to_user(process.memory, tv, struct.pack("<qq", seconds, ns // 1000))
    if tz:
        copy_to_user(process.memory, tz, bytes(8))
    return 0


def sleep(thread: Thread, wake_at: int, wait: Wait) -> int | None:
    """Puts a thread to sleep until a time; one that has passed does not put it to sleep."""
    if wake_at <= thread.time:
        return 0
    thread.state = ThreadState.SLEEPING
    thread.wake_at = wake_at
    thread.wait = wait
    return None


def nanosleep(process: Process, thread: Thread, req: int, rem: int) -> int | None:
    """A handler ends it with EINTR, SA_RESTART or not, and the rest goes to `rem`."""
    ns = get_timespec(process.memory, req)
    if ns is None:
        return -Errno.EINVAL
    return sleep(thread, thread.time + ns, Wait("nanosleep", remaining=rem))


def clock_nanosleep(
    process: Process, thread: Thread, clock: int, flags: int, req: int, rem: int
) -> int | None:
    """As nanosleep; with TIMER_ABSTIME until the clock shows a time, and `rem` is not written."""
    start = base(clock)
    ns = get_timespec(process.memory, req)
    if start is None or ns is None:
        return -Errno.EINVAL
    if flags & TIMER_ABSTIME:
        return sleep(thread, ns - start, Wait("clock_nanosleep"))
    return sleep(thread, thread.time + ns, Wait("clock_nanosleep", remaining=rem))
