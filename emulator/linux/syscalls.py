"""The system call table of x86-64 and the way in and out of it.

Numbers: arch/x86/entry/syscalls/syscall_64.tbl. Entry: entry_SYSCALL_64 and syscall(2): the number
is in RAX, arguments in RDI, RSI, RDX, R10, R8, R9, the result in RAX with errors as -errno; RCX
and R11 are lost to RIP and RFLAGS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn

from emulator.events import SystemCall
from emulator.fault import NotModelled
from emulator.linux import clock, clone, files, futex, mm, namei, poll, sigaction, stat, system
from emulator.linux.errno import Errno
from emulator.linux.open_file import FileError
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
        0: files.read,
        1: files.write,
        2: files.open,
        3: files.close,
        4: stat.stat,
        5: stat.fstat,
        6: stat.lstat,
        8: files.lseek,
        9: mm.mmap,
        10: mm.mprotect,
        11: mm.munmap,
        12: mm.brk,
        13: sigaction.rt_sigaction,
        14: sigaction.rt_sigprocmask,
        15: sigaction.rt_sigreturn,
        16: files.ioctl,
        17: files.pread64,
        20: files.writev,
        21: stat.access,
        22: files.pipe,
        24: clone.sched_yield,
        27: mm.mincore,
        28: mm.madvise,
        35: clock.nanosleep,
        39: clone.getpid,
        56: clone.clone,
        60: clone.exit,
        62: sigaction.kill,
        63: system.uname,
        72: files.fcntl,
        76: namei.truncate,
        79: stat.getcwd,
        80: namei.chdir,
        82: namei.rename,
        83: namei.mkdir,
        84: namei.rmdir,
        86: namei.link,
        87: namei.unlink,
        88: namei.symlink,
        90: namei.chmod,
        96: clock.gettimeofday,
        97: system.getrlimit,
        99: system.sysinfo,
        102: system.getuid,
        104: system.getgid,
        107: system.geteuid,
        108: system.getegid,
        110: system.getppid,
        127: sigaction.rt_sigpending,
        131: sigaction.sigaltstack,
        157: system.prctl,
        158: clone.arch_prctl,
        160: system.setrlimit,
        186: clone.gettid,
        200: sigaction.tkill,
        202: futex.futex,
        204: system.sched_getaffinity,
        213: poll.epoll_create,
        217: stat.getdents64,
        218: clone.set_tid_address,
        228: clock.clock_gettime,
        230: clock.clock_nanosleep,
        231: clone.exit_group,
        232: poll.epoll_wait,
        233: poll.epoll_ctl,
        234: sigaction.tgkill,
        257: files.openat,
        258: namei.mkdirat,
        262: stat.newfstatat,
        263: namei.unlinkat,
        264: namei.renameat,
        265: namei.linkat,
        266: namei.symlinkat,
        267: stat.readlinkat,
        268: namei.fchmodat,
        269: stat.faccessat,
        281: poll.epoll_pwait,
        290: files.eventfd2,
        291: poll.epoll_create1,
        292: files.dup3,
        293: files.pipe2,
        302: system.prlimit64,
        316: namei.renameat2,
        318: system.getrandom,
    }.items()
}

# Names of calls that programs are likely to make, for the message that refuses them.
MISSING: Final = {
    7: "poll", 18: "pwrite64", 19: "readv", 23: "select", 25: "mremap", 32: "dup", 33: "dup2",
    34: "pause", 38: "setitimer", 41: "socket", 42: "connect", 53: "socketpair", 57: "fork",
    58: "vfork", 59: "execve", 61: "wait4", 77: "ftruncate", 81: "fchdir", 101: "ptrace",
    128: "rt_sigtimedwait", 129: "rt_sigqueueinfo", 130: "rt_sigsuspend", 222: "timer_create",
    247: "waitid", 270: "pselect6", 271: "ppoll", 288: "accept4", 297: "rt_tgsigqueueinfo",
    322: "execveat", 334: "rseq", 424: "pidfd_send_signal", 434: "pidfd_open", 435: "clone3",
    439: "faccessat2",
}  # fmt: skip


def _refuse(thread: Thread, number: int, pc: int) -> NoReturn:
    name = f" ({MISSING[number]})" if number in MISSING else ""
    raise NotModelled(
        f"system call {number}{name} at {pc:#x} is not modelled",
        thread.tid,
        thread.registers.copy(),
    )


def dispatch(process: Process, thread: Thread) -> None:
    """Carries out the system call of a thread whose RIP is behind its SYSCALL.

    Raises NotModelled, naming number and place, or returns ENOSYS if Process.enosys says so.
    """
    registers = thread.registers
    number = registers["RAX"] & 0xFFFF_FFFF
    pc = registers["RIP"] - 2
    registers["RCX"] = registers["RIP"]
    registers["R11"] = registers["RFLAGS"]
    entry = TABLE.get(number)
    arguments: tuple[int, ...] = ()
    missing = ""
    try:
        if entry is None:
            _refuse(thread, number, pc)
        arguments = tuple(registers[name] for name in ARGUMENTS[: entry.arguments])
        result = entry.function(process, thread, *arguments)
    except NotModelled as refusal:
        if not process.enosys:
            raise
        result, missing = -Errno.ENOSYS, str(refusal)
    except AccessFault:
        result = -Errno.EFAULT
    except FileError as error:
        result = -error.errno
    called = entry.name if entry is not None else MISSING.get(number, f"syscall_{number}")
    if result is not None:
        registers["RAX"] = result
    process.events.emit(
        SystemCall(
            tid=thread.tid, pc=pc, name=called, args=arguments, result=result, missing=missing
        )
    )
