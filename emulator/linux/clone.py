"""Making, naming and ending threads: kernel/fork.c, kernel/exit.c, kernel/sys.c.

See clone(2), exit(2), exit_group(2), gettid(2), set_tid_address(2), arch_prctl(2).
"""

from __future__ import annotations

from enum import IntFlag
from typing import TYPE_CHECKING, Final

from emulator.fault import NotModelled
from emulator.linux import futex
from emulator.linux.errno import Errno
from emulator.linux.threads import Thread, ThreadState
from emulator.linux.uaccess import AccessFault, put_u32, put_u64

if TYPE_CHECKING:
    from emulator.linux.process import Process

MOST_THREADS: Final = 32_768  # kernel.pid_max
TASK_SIZE_MAX: Final = (1 << 47) - 4096


class CloneFlags(IntFlag):
    """Flags of clone(2)."""

    VM = 0x100
    FS = 0x200
    FILES = 0x400
    SIGHAND = 0x800
    THREAD = 0x10000
    SYSVSEM = 0x40000
    SETTLS = 0x80000
    PARENT_SETTID = 0x100000
    CHILD_CLEARTID = 0x200000
    DETACHED = 0x400000  # ignored by the kernel
    CHILD_SETTID = 0x1000000


_A_THREAD: Final = (
    CloneFlags.VM | CloneFlags.FS | CloneFlags.FILES | CloneFlags.SIGHAND | CloneFlags.THREAD
)
_MODELLED: Final = (
    _A_THREAD
    | CloneFlags.SYSVSEM
    | CloneFlags.SETTLS
    | CloneFlags.PARENT_SETTID
    | CloneFlags.CHILD_CLEARTID
    | CloneFlags.DETACHED
    | CloneFlags.CHILD_SETTID
)


def clone(
    process: Process, thread: Thread, flags: int, stack: int, ptid: int, ctid: int, tls: int
) -> int:
    """A new thread that goes on behind the SYSCALL with RAX = 0.

    It inherits registers and signal mask, but neither pending signals nor alternate stack.
    Processes are not modelled.
    """
    if flags & _A_THREAD != _A_THREAD or flags & ~_MODELLED:
        raise NotModelled(
            f"clone with flags {flags:#x}: only threads are modelled",
            thread.tid,
            thread.registers.copy(),
        )
    if len(process.threads) >= MOST_THREADS and len(process.alive()) >= MOST_THREADS:
        return -Errno.EAGAIN
    registers = thread.registers.copy()
    registers["RAX"] = 0
    if stack:
        registers["RSP"] = stack
    if flags & CloneFlags.SETTLS:
        if tls >= TASK_SIZE_MAX:
            return -Errno.EPERM
        registers["FS_BASE"] = tls
    child = process.add_thread(registers, thread.time)
    child.sigmask = thread.sigmask
    child.inside = thread.inside
    if flags & CloneFlags.CHILD_CLEARTID:
        child.clear_child_tid = ctid
    if flags & CloneFlags.PARENT_SETTID:
        put_u32(process.memory, ptid, child.tid)
    if flags & CloneFlags.CHILD_SETTID:
        put_u32(process.memory, ctid, child.tid)
    return child.tid


def exit(process: Process, thread: Thread, code: int) -> None:  # noqa: A001  # the call's name
    """Ends the thread; clear_child_tid is zeroed and woken. The last one ends the process."""
    thread.state = ThreadState.EXITED
    thread.pending.clear()
    thread.sigpending = False
    if thread.clear_child_tid and process.alive():
        try:
            put_u32(process.memory, thread.clear_child_tid, 0)
            futex.wake(process, thread, thread.clear_child_tid, 1)
        except AccessFault:
            pass  # mm_release ignores it
    if not process.alive():
        process.exit_status = code & 0xFF


def exit_group(process: Process, thread: Thread, code: int) -> None:
    """Ends the process."""
    del thread
    process.exit_status = code & 0xFF


def getpid(process: Process, thread: Thread) -> int:
    """The process's number."""
    del thread
    return process.pid


def gettid(process: Process, thread: Thread) -> int:
    """The thread's number; the first thread's is the process's."""
    del process
    return thread.tid


def set_tid_address(process: Process, thread: Thread, tidptr: int) -> int:
    """Sets clear_child_tid; returns the thread's number."""
    del process
    thread.clear_child_tid = tidptr
    return thread.tid


def sched_yield(process: Process, thread: Thread) -> int:
    """Ends the thread's time slice: the ready thread that is furthest behind goes on."""
    del thread
    process.need_resched = True
    return 0


ARCH_SET_GS: Final = 0x1001
ARCH_SET_FS: Final = 0x1002
ARCH_GET_FS: Final = 0x1003
ARCH_GET_GS: Final = 0x1004


def arch_prctl(process: Process, thread: Thread, option: int, addr: int) -> int:
    """Sets or reads the base of FS or GS."""
    bases = {ARCH_SET_FS: "FS_BASE", ARCH_SET_GS: "GS_BASE"}
    reads = {ARCH_GET_FS: "FS_BASE", ARCH_GET_GS: "GS_BASE"}
    if option in bases:
        if addr >= TASK_SIZE_MAX:
            return -Errno.EPERM
        thread.registers[bases[option]] = addr
        return 0
    if option in reads:
        put_u64(process.memory, addr, thread.registers[reads[option]])
        return 0
    return -Errno.EINVAL
