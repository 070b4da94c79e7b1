"""Numbers and structures of signals, as user programs on x86-64 see them.

Specified in include/uapi/asm-generic/siginfo.h, arch/x86/include/uapi/asm/signal.h and
signal(7), sigaction(2), sigaltstack(2).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final


class Signal(IntEnum):
    """The standard signals; 32-64 are real-time signals and have no names here."""

    SIGHUP = 1
    SIGINT = 2
    SIGQUIT = 3
    SIGILL = 4
    SIGTRAP = 5
    SIGABRT = 6
    SIGBUS = 7
    SIGFPE = 8
    SIGKILL = 9
    SIGUSR1 = 10
    SIGSEGV = 11
    SIGUSR2 = 12
    SIGPIPE = 13
    SIGALRM = 14
    SIGTERM = 15
    SIGSTKFLT = 16
    SIGCHLD = 17
    SIGCONT = 18
    SIGSTOP = 19
    SIGTSTP = 20
    SIGTTIN = 21
    SIGTTOU = 22
    SIGURG = 23
    SIGXCPU = 24
    SIGXFSZ = 25
    SIGVTALRM = 26
    SIGPROF = 27
    SIGWINCH = 28
    SIGIO = 29
    SIGPWR = 30
    SIGSYS = 31


SIGRTMIN: Final = 32  # the kernel's; libc keeps the first ones for itself
NSIG: Final = 64
SIG_DFL: Final = 0
SIG_IGN: Final = 1

# include/linux/signal.h: SIG_KERNEL_IGNORE_MASK, SIG_KERNEL_STOP_MASK, SYNCHRONOUS_MASK.
DEFAULT_IGNORED: Final = frozenset({Signal.SIGCONT, Signal.SIGCHLD, Signal.SIGWINCH, Signal.SIGURG})
DEFAULT_STOP: Final = frozenset({Signal.SIGSTOP, Signal.SIGTSTP, Signal.SIGTTIN, Signal.SIGTTOU})
SYNCHRONOUS: Final = frozenset(
    {
        Signal.SIGSEGV,
        Signal.SIGBUS,
        Signal.SIGILL,
        Signal.SIGTRAP,
        Signal.SIGFPE,
        Signal.SIGSYS,
    }
)


class SaFlags(IntEnum):
    """Bits of sa_flags; the kernel drops all others (UAPI_SA_FLAGS)."""

    NOCLDSTOP = 0x1
    NOCLDWAIT = 0x2
    SIGINFO = 0x4
    EXPOSE_TAGBITS = 0x800
    RESTORER = 0x0400_0000
    ONSTACK = 0x0800_0000
    RESTART = 0x1000_0000
    NODEFER = 0x4000_0000
    RESETHAND = 0x8000_0000


UAPI_SA_FLAGS: Final = 0xDC00_0807

SS_ONSTACK: Final = 1
SS_DISABLE: Final = 2
SS_AUTODISARM: Final = 1 << 31
MINSIGSTKSZ: Final = 2048

# si_code
SI_USER: Final = 0
SI_KERNEL: Final = 0x80
SI_TKILL: Final = -6
ILL_ILLOPN: Final = 2
FPE_INTDIV: Final = 1
SEGV_MAPERR: Final = 1
SEGV_ACCERR: Final = 2


def signal_name(signo: int) -> str:
    """SIGURG and so on; SIGRTMIN+n for real-time signals."""
    return Signal(signo).name if signo < SIGRTMIN else f"SIGRTMIN+{signo - SIGRTMIN}"


def bit(signo: int) -> int:
    """The signal's bit in a sigset_t."""
    return 1 << (signo - 1)


UNBLOCKABLE: Final = bit(Signal.SIGKILL) | bit(Signal.SIGSTOP)


@dataclass(frozen=True, slots=True)
class SigAction:
    """What to do about a signal: struct kernel_sigaction. `handler` may be SIG_DFL or SIG_IGN."""

    handler: int = SIG_DFL
    flags: int = 0
    restorer: int = 0
    mask: int = 0

    FORMAT = struct.Struct("<QQQQ")

    def pack(self) -> bytes:
        """The 32 bytes that rt_sigaction writes."""
        return self.FORMAT.pack(self.handler, self.flags, self.restorer, self.mask)

    @classmethod
    def unpack(cls, data: bytes) -> SigAction:
        """From the 32 bytes that rt_sigaction reads."""
        return cls(*cls.FORMAT.unpack(data))


@dataclass(frozen=True, slots=True)
class AltStack:
    """The alternate signal stack of a thread: stack_t. A size of 0 means that there is none."""

    sp: int = 0
    flags: int = SS_DISABLE
    size: int = 0

    FORMAT = struct.Struct("<QI4xQ")

    def holds(self, sp: int) -> bool:
        """Whether sp points into it (__on_sig_stack): the stack grows down."""
        return self.sp < sp <= self.sp + self.size

    def on(self, sp: int) -> bool:
        """Whether a thread with this RSP counts as running on it (on_sig_stack)."""
        return not self.flags & SS_AUTODISARM and self.holds(sp)

    def status(self, sp: int) -> int:
        """SS_DISABLE, SS_ONSTACK or 0 (sas_ss_flags)."""
        if not self.size:
            return SS_DISABLE
        return SS_ONSTACK if self.on(sp) else 0


@dataclass(frozen=True, slots=True)
class SigInfo:
    """One instance of a signal: siginfo_t. `address` is given for faults, pid and uid else."""

    signo: int
    code: int = SI_USER
    pid: int = 0
    uid: int = 0
    address: int | None = None

    SIZE = 128

    @property
    def from_kernel(self) -> bool:
        """Whether it reports something the thread itself did (si_code > SI_USER)."""
        return self.code > SI_USER

    def pack(self) -> bytes:
        """The 128 bytes that a handler sees: signo, errno, code, then by kind."""
        if self.address is None:
            body = struct.pack("<iiixxxxII", self.signo, 0, self.code, self.pid, self.uid)
        else:
            body = struct.pack("<iiixxxxQ", self.signo, 0, self.code, self.address)
        return body.ljust(self.SIZE, b"\0")


HELD: Final = SigInfo(0)  # a tracer's answer: the signal waits, and the thread with it
