"""Events of Go's runtime, on the same stream as the machine's (emulator/events.py)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from emulator.events import Event

if TYPE_CHECKING:
    from emulator.registers import Registers


@dataclass(slots=True, kw_only=True)
class Entered(Event):
    """A function was entered or returned into: the path that the thread takes."""

    function: str = ""


@dataclass(slots=True, kw_only=True)
class PreemptRequested(Event):
    """preemptone set gp.preempt and stackguard0; the event's g is the requester's."""

    p: int = 0
    target_m: int = 0
    target_g: int = 0
    why: str = ""
    asynchronous: bool = False  # whether preemptM was asked to send a signal


@dataclass(slots=True, kw_only=True)
class SafePointVerdict(Event):
    """What isAsyncSafePoint said of `pc`; `resume` is where the goroutine would go on."""

    safe: bool = False
    reason: str = ""
    resume: int = 0
    function: str = ""


@dataclass(slots=True, kw_only=True)
class PushedCall(Event):
    """pushCall edited the ucontext: `resume` was pushed, RIP became `target`."""

    target: int = 0
    resume: int = 0
    rsp_before: int = 0
    rsp_after: int = 0
    stack_before: tuple[int, ...] = ()  # eight-byte words from rsp_before upwards
    stack_after: tuple[int, ...] = ()  # the same from rsp_after


@dataclass(slots=True, kw_only=True)
class CallRuleBroken(Event):
    """asyncPreempt called asyncPreempt2 against a rule of calls; `rule` says how."""

    goid: int = 0
    rule: str = ""


@dataclass(slots=True, kw_only=True)
class StatusChanged(Event):
    """casgstatus."""

    goid: int = 0
    old: int = 0
    new: int = 0


@dataclass(slots=True, kw_only=True)
class Queued(Event):
    """A goroutine was put on the global queue, or on a P's."""

    goid: int = 0
    queue: str = ""  # "global" or "P0"


@dataclass(slots=True, kw_only=True)
class Executing(Event):
    """execute gave the M to a goroutine."""

    goid: int = 0
    p: int = 0


@dataclass(slots=True, kw_only=True)
class Descheduled(Event):
    """The goroutine left its M."""

    goid: int = 0
    p: int = 0
    why: str = ""  # "preempted", "cooperative", "yielded", "parked", "exited"


@dataclass(slots=True, kw_only=True)
class HandedOff(Event):
    """handoffp: the P was taken from a goroutine in a system call."""

    p: int = 0


@dataclass(slots=True, kw_only=True)
class ExitedSyscall(Event):
    """A goroutine came back from a system call and has a P: the old one, or another."""

    goid: int = 0
    p: int = 0


@dataclass(slots=True, kw_only=True)
class StackChecked(Event):
    """newstack was called: a prologue found stackguard0 above SP."""

    goid: int = 0
    preempt: bool = False
    decision: str = ""


@dataclass(slots=True, kw_only=True)
class StackCopied(Event):
    """copystack moved a goroutine to a stack of another size; `used` bytes were copied."""

    goid: int = 0
    old_lo: int = 0
    old_hi: int = 0
    new_lo: int = 0
    new_hi: int = 0
    used: int = 0
    adjusted: int = 0  # words that pointed into the old stack and now point into the new one


@dataclass(slots=True, kw_only=True)
class WorldStopped(Event):
    """The last P was given up: no goroutine runs."""


@dataclass(slots=True, kw_only=True)
class SafePointFunction(Event):
    """The function of forEachP was run for a P, at a safe point of its own."""

    p: int = 0


@dataclass(slots=True, kw_only=True)
class ScanRequested(Event):
    """suspendG asked a running goroutine to stop: by stackguard0, and by a signal if `signal`."""

    goid: int = 0
    signal: bool = False


@dataclass(slots=True, kw_only=True)
class StackScanned(Event):
    """scanstack walked the frames, innermost first, and marked these heap objects."""

    goid: int = 0
    frames: tuple[str, ...] = ()
    conservative: tuple[str, ...] = ()  # those of which every word was looked at as a pointer
    objects: tuple[int, ...] = ()


@dataclass(slots=True, kw_only=True)
class Loss:
    """State that differs where a goroutine went on. Values are unsigned; `address` for MEMORY."""

    register: str
    before: int
    after: int
    address: int | None = None


@dataclass(slots=True, kw_only=True)
class Resumed(Event):
    """A goroutine went on at user code after an asynchronous preemption."""

    goid: int = 0
    interrupted: int = 0  # the PC at which the signal hit
    interrupted_m: int = 0
    rsp: int = 0
    losses: list[Loss] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class GoroutineCreated(Event):
    """newproc."""

    goid: int = 0
    function: str = ""


@dataclass(slots=True, kw_only=True)
class GoroutineExited(Event):
    """The goroutine's first function returned to goexit, with these registers."""

    goid: int = 0
    registers: Registers | None = None
