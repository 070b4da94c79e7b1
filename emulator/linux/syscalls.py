"""The system call table of x86-64 and the way in and out of it.

Numbers: arch/x86/entry/syscalls/syscall_64.tbl. Entry: entry_SYSCALL_64 and syscall(2): the number
is in RAX, arguments in RDI, RSI, RDX, R10, R8, R9, the result in RAX with errors as -errno; RCX
and R11 are lost to RIP and RFLAGS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from emulator.events import SystemCall
from emulator.fault import GuestStopped
from emulator.linux import clock, clone, files, futex, mm, sigaction
from emulator.linux.errno import Errno
from emulator.linux.uaccess import AccessFault

if TYPE_CHECKING:
    from emulator.linux.process import Process
    from emulator.linux.threads import Thread

ARGUMENTS: Final = ("RDI", "RSI", "RDX", "R10", "R8", "R9")

# A system call takes process, thread and its arguments as unsigned 64-bit numbers. It returns the
# value for RAX, or None where nothing is to be written: the thread waits, has exited, or has got
# all its registers from a frame.
Call = Callable[..., int | None]


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the table."""

    name: str
    function: Call
    arguments: int


def _entry(function: Any) -> Entry:
    return Entry(function.__name__, function, function.__code__.co_argcount - 2)


TABLE: Final[dict[int, Entry]] = {
    number: _entry(function)
    for number, function in {
        1: files.write,
        9: mm.mmap,
        11: mm.munmap,
        13: sigaction.rt_sigaction,
        14: sigaction.rt_sigprocmask,
        15: sigaction.rt_sigreturn,
        24: clone.sched_yield,
        28: mm.madvise,
        35: clock.nanosleep,
        39: clone.getpid,
        56: clone.clone,
        60: clone.exit,
        62: sigaction.kill,
        96: clock.gettimeofday,
        127: sigaction.rt_sigpending,
        131: sigaction.sigaltstack,
        158: clone.arch_prctl,
        186: clone.gettid,
        200: sigaction.tkill,
        202: futex.futex,
        218: clone.set_tid_address,
        228: clock.clock_gettime,
        230: clock.clock_nanosleep,
        231: clone.exit_group,
        234: sigaction.tgkill,
    }.items()
}

# Names of calls that programs are likely to make, for the message that refuses them.
MISSING: Final = {
    0: "read", 2: "open", 3: "close", 5: "fstat", 8: "lseek", 10: "mprotect", 12: "brk",
    16: "ioctl", 20: "writev", 22: "pipe", 34: "pause", 57: "fork", 58: "vfork", 59: "execve",
    61: "wait4", 63: "uname", 72: "fcntl", 97: "getrlimit", 128: "rt_sigtimedwait",
    129: "rt_sigqueueinfo", 130: "rt_sigsuspend", 204: "sched_getaffinity", 222: "timer_create",
    233: "epoll_ctl", 257: "openat", 267: "readlinkat", 281: "epoll_pwait", 290: "eventfd2",
    291: "epoll_create1", 293: "pipe2", 302: "prlimit64", 318: "getrandom", 334: "rseq",
    435: "clone3",
}  # fmt: skip


def dispatch(process: Process, thread: Thread) -> None:
    """Carries out the system call of a thread whose RIP is behind its SYSCALL.

    Raises GuestStopped, naming number and place, where the call is not modelled.
    """
    registers = thread.registers
    number = registers["RAX"] & 0xFFFF_FFFF
    pc = registers["RIP"] - 2
    registers["RCX"] = registers["RIP"]
    registers["R11"] = registers["RFLAGS"]
    entry = TABLE.get(number)
    if entry is None:
        name = f" ({MISSING[number]})" if number in MISSING else ""
        raise GuestStopped(
            f"system call {number}{name} at {pc:#x} is not modelled", thread.tid, registers.copy()
        )
    arguments = tuple(registers[name] for name in ARGUMENTS[: entry.arguments])
    try:
        result = entry.function(process, thread, *arguments)
    except AccessFault:
        result = -Errno.EFAULT
    if result is not None:
        registers["RAX"] = result
    process.events.emit(
        SystemCall(tid=thread.tid, pc=pc, name=entry.name, args=arguments, result=result)
    )
