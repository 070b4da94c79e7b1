"""Safe points: which PC of which goroutine may be preempted (runtime/preempt.go).

The verdict has a static part, which depends on the PC and the Go version alone and is the same
for a running program and for a file, and a dynamic part, which depends on g, m and p.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from asm.image import (
    PCDATA_UnsafePoint,
    UnsafePointRestart1,
    UnsafePointRestart2,
    UnsafePointRestartAtEntry,
    UnsafePointSafe,
    UnsafePointUnsafe,
)
from runtime_model.runtime2 import _Grunning, _Gscan, _Gsyscall, _Prunning

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtime_model.runtime import Runtime
    from runtime_model.runtime2 import G, M
    from runtime_model.symtab import FuncTable
    from runtime_model.version import GoVersion


class Reason(Enum):
    """Why a PC is a safe point or not, in the order in which isAsyncSafePoint asks."""

    NOT_WANTED = "no preemption is wanted of this goroutine"
    NOT_USER_G = "the M runs its scheduler or a signal handler, not the user goroutine"
    NO_P = "the M has no P"
    LOCKS = "the M holds runtime locks (m.locks)"
    MALLOCING = "the M is allocating memory (m.mallocing)"
    PREEMPTOFF = "preemption is switched off on the M (m.preemptoff)"
    P_NOT_RUNNING = "the M's P is not running"
    IN_SYSCALL = "the goroutine is in a system call"
    NO_STACK = "too little stack is left for asyncPreempt"
    NOT_GO = "not Go code"
    UNSAFE_POINT = "marked unsafe (PCDATA_UnsafePoint -2)"
    ASSEMBLY = "assembly function: it has no pointer maps"
    PACKAGE = "function of a package that is never preempted"
    RESTART = "restartable sequence: goes on at its start"
    RESTART_AT_ENTRY = "restartable prologue: goes on at the function's entry"
    SAFE = "safe"

    __hash__ = object.__hash__  # members are unique; Enum's own is Python code


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the PC may be preempted, why, and where the goroutine then goes on."""

    safe: bool
    reason: Reason
    resume: int = 0
    function: str = ""


# A restart sequence is at most this long (preempt.go checks it before resuming).
MAX_RESTART_DISTANCE = 20


class BadRestartPCError(ValueError):
    """A restart table that Go's runtime would throw at: "bad restart PC"."""


def static_reason(
    value: int, has_maps: bool, never_preempted: Callable[[], bool], version: GoVersion
) -> Reason:
    """What the tables say of a PC: the part of isAsyncSafePoint behind its checks of g, m and p.

    `value` is PCDATA_UnsafePoint's there; `has_maps` tells a compiled function from assembly;
    `never_preempted` whether the function inlined innermost is of such a package.
    """
    if value == UnsafePointUnsafe or (value != UnsafePointSafe and version.only_marked_safe):
        return Reason.UNSAFE_POINT
    if not has_maps:
        return Reason.ASSEMBLY
    if never_preempted():
        return Reason.PACKAGE
    if not version.restarts:
        return Reason.SAFE
    if value in (UnsafePointRestart1, UnsafePointRestart2):
        return Reason.RESTART
    return Reason.RESTART_AT_ENTRY if value == UnsafePointRestartAtEntry else Reason.SAFE


def static_verdict(table: FuncTable, pc: int, version: GoVersion) -> Verdict:
    """The verdict of the tables on pc. BadRestartPCError where the runtime would throw."""
    function = table.findfunc(pc)
    if function is None:
        return Verdict(False, Reason.NOT_GO)
    value, start = function.pcdatavalue2(PCDATA_UnsafePoint, pc)

    def never_preempted() -> bool:
        return function.innermost_name(pc).startswith(version.never_preempted_packages)

    has_maps = function.has_locals_pointer_maps and not function.is_assembly
    reason = static_reason(value, has_maps, never_preempted, version)
    if reason is Reason.RESTART and not 0 < start <= pc <= start + MAX_RESTART_DISTANCE:
        raise BadRestartPCError(f"bad restart PC {start:#x} for {pc:#x} in {function.name}")
    resume = {
        Reason.SAFE: pc,
        Reason.RESTART: start,
        Reason.RESTART_AT_ENTRY: function.entry,
    }.get(reason)
    return Verdict(resume is not None, reason, resume or 0, function.name)


def canPreemptM(rt: Runtime, mp: M) -> Reason | None:
    """None if the M's goroutine may be stopped here, else the reason why not.

    The P must be running; callers have checked that there is one.
    """
    if mp.locks != 0:
        return Reason.LOCKS
    if mp.mallocing != 0:
        return Reason.MALLOCING
    if mp.preemptoff_len != 0:
        return Reason.PREEMPTOFF
    if rt.p(mp.p).status != _Prunning:
        return Reason.P_NOT_RUNNING
    if rt.version.curg_checked and (
        mp.curg == 0 or rt.g(mp.curg).atomicstatus & ~_Gscan == _Gsyscall
    ):
        return Reason.IN_SYSCALL
    return None


def wantAsyncPreempt(rt: Runtime, gp: G) -> bool:
    """Whether a preemption is queued for gp: asked of the G or of its P, and it is running."""
    p = rt.m(gp.m).p
    wanted = bool(gp.preempt or (p != 0 and rt.p(p).preempt))
    return wanted and gp.atomicstatus & ~_Gscan == _Grunning


def isAsyncSafePoint(rt: Runtime, gp: G, pc: int, sp: int) -> Verdict:
    """Whether gp may be preempted at pc with stack pointer sp, by these rules, in this order:

    1. the M runs gp as its user goroutine, has a P, and canPreemptM;
    2. asyncPreemptStack bytes are left between sp and the stack's low end;
    3. the tables say that pc is safe (static_verdict).
    """  # a list follows
    rt.enter("isAsyncSafePoint")
    mp = rt.m(gp.m)
    if mp.curg != gp.address:
        return Verdict(False, Reason.NOT_USER_G)
    if mp.p == 0:
        return Verdict(False, Reason.NO_P)
    refusal = canPreemptM(rt, mp)
    if refusal is not None:
        return Verdict(False, refusal)
    if sp < gp.stack_lo + rt.asyncPreemptStack:
        return Verdict(False, Reason.NO_STACK)
    return static_verdict(rt.functions, pc, rt.version)
