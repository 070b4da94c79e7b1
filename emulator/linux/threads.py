"""A thread as the kernel keeps it: saved registers, signal state, and what it waits for.

The fields that programs can see follow clone(2), sigaltstack(2), signal(7); `time` is the
machine's: each thread has a clock of its own, which an executed instruction moves on by 1 ns.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from enum import Enum
from typing import Any

from emulator.linux.signal_abi import AltStack, SigInfo
from emulator.linux.signal_frame import Trap
from emulator.registers import Registers


class ThreadState(Enum):
    """Whether a thread can run, and if not, where it is."""

    RUNNABLE = "runnable"
    SLEEPING = "sleeping"  # in nanosleep or clock_nanosleep
    FUTEX = "futex"  # in FUTEX_WAIT
    POLL = "poll"  # until some file changes
    EXITED = "exited"


@dataclass(frozen=True, slots=True)
class Wait:
    """A system call that has not returned yet, and how it ends (signal(7), "Interruption …").

    `timeout_result` is what it returns at `Thread.wake_at`. A signal handler ends it with EINTR,
    or, if `restarts` and the action has SA_RESTART, makes the SYSCALL at RIP - 2 execute again.
    """

    name: str
    timeout_result: int = 0
    restarts: bool = False
    number: int = 0  # of the system call, for RAX when it restarts
    remaining: int = 0  # address of a timespec for the rest of an interrupted sleep, or 0
    uaddr: int = 0
    bitset: int = 0


@dataclass(slots=True, kw_only=True)
class Thread:
    """One thread. `registers` are current whenever Python code of the user's is called."""

    tid: int
    registers: Registers = field(default_factory=Registers)
    state: ThreadState = ThreadState.RUNNABLE
    time: int = 0  # ns
    wake_at: int | None = None  # ns, when waiting with a timeout
    wait: Wait | None = None
    again_until: int | None = None  # ns: the deadline of a wait that was woken to look again
    sigmask: int = 0  # blocked signals, bit n-1 for signal n
    pending: list[SigInfo] = field(default_factory=list)  # directed at this thread
    sigpending: bool = False  # TIF_SIGPENDING: something may have to be delivered
    altstack: AltStack = field(default_factory=AltStack)
    trap: Trap = field(default_factory=Trap)
    clear_child_tid: int = 0
    instructions: int = 0  # all executed
    user_instructions: int = 0  # executed outside of watched code
    inside: bool | None = None  # in watched code or a gate; None before the first instruction
    break_passed: int | None = None  # the breakpoint whose function was called for this visit

    @property
    def ready(self) -> bool:
        """Whether the scheduler may pick it: able to run, or to be interrupted by a signal."""
        return self.state is ThreadState.RUNNABLE or (
            self.sigpending and self.state is not ThreadState.EXITED
        )

    def copy(self) -> Thread:
        """An independent copy."""
        return replace(self, registers=self.registers.copy(), pending=list(self.pending))

    def assign(self, other: Thread) -> None:
        """Takes over all that the other thread is; the identity of this object stays."""
        source: Any = other.copy()
        for item in fields(self):
            setattr(self, item.name, getattr(source, item.name))

    def wake(self, time: int, result: int) -> None:
        """Ends the system call that it waits in: it returns `result`, not before `time`."""
        self.time = max(self.time, time)
        self.state = ThreadState.RUNNABLE
        self.wait = None
        self.wake_at = None
        self.registers["RAX"] = result
