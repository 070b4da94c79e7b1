"""The one stream of events that every view reads.

An event says what happened, when (virtual time in nanoseconds), on which thread and at which PC.
The layer above names threads and tasks by setting `EventStream.identity`; for Go these are the
numbers of M and G. Kinds of the machine and of Linux stand here; a runtime model adds its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emulator.registers import Registers


@dataclass(slots=True, kw_only=True)
class Event:
    """What all events share. `m` and `g` are -1 where there is none."""

    time: int = 0
    tid: int = -1
    m: int = -1
    g: int = -1
    pc: int = 0


@dataclass(slots=True, kw_only=True)
class Executed(Event):
    """One instruction was single-stepped: `pc` is its address, `index` its number since boot.

    `before` and `after` are the thread's registers on both sides of it. For SYSCALL, `after` is
    what the processor did; the kernel's part is a SystemCall event.
    """

    index: int = 0
    before: Registers | None = None
    after: Registers | None = None


@dataclass(slots=True, kw_only=True)
class SystemCall(Event):
    """A system call was made; result is what it returned in RAX, signed.

    `missing` says what of it is not modelled, where it was answered with ENOSYS for that.
    """

    name: str = ""
    args: tuple[int, ...] = ()
    result: int | None = None
    missing: str = ""


@dataclass(slots=True, kw_only=True)
class SignalSent(Event):
    """A signal became pending for thread `target`; the event's thread is the sender."""

    signal: int = 0
    target: int = 0


@dataclass(slots=True, kw_only=True)
class FrameBuilt(Event):
    """The kernel built a signal frame. `pc`, `rsp` and `interrupted` are from before it."""

    signal: int = 0
    rsp: int = 0
    frame: int = 0
    ucontext: int = 0
    siginfo: int = 0
    handler: int = 0
    onstack: bool = False
    interrupted: Registers | None = None


@dataclass(slots=True, kw_only=True)
class SignalReturned(Event):
    """rt_sigreturn took the context from a frame; `pc` and `rsp` are where the thread goes on."""

    frame: int = 0
    rsp: int = 0


@dataclass(slots=True, kw_only=True)
class Faulted(Event):
    """An instruction could not be executed; `kind`, `address` as in emulator.fault."""

    kind: str = ""
    address: int | None = None


@dataclass(slots=True, kw_only=True)
class Unrecorded(Event):
    """Other threads have executed instructions that a recording leaves out (emulator.run_log)."""

    instructions: int = 0


Listener = Callable[[Any], None]


@dataclass(slots=True)
class EventStream:
    """Hands each event to every listener, in order of subscription."""

    listeners: list[Listener] = field(default_factory=list)
    identity: Callable[[int], tuple[int, int]] = lambda tid: (tid, -1)
    now: Callable[[], int] = lambda: 0
    executed_wanted: bool = False  # whether anyone reads Executed, the only frequent kind

    def subscribe(self, listener: Listener) -> None:
        """Adds a listener; it is called with each event that follows."""
        self.listeners.append(listener)

    def emit(self, event: Event) -> None:
        """Stamps the event with time, M and G where it has none, and hands it on."""
        if not event.time:
            event.time = self.now()
        if event.m < 0 and event.tid >= 0:
            event.m, event.g = self.identity(event.tid)
        for listener in self.listeners:
            listener(event)
