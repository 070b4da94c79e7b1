"""Stopping a goroutine for the stack scan: suspendG and resumeG (runtime/preempt.go).

Up to 1.13 there is scang (proc.go) instead, which asks the goroutine to scan itself. Both wait in a
loop. A function here is one round of it, with its variables in a `suspending` in emulated memory;
how to wait between two rounds is the caller's to do, in machine code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from runtime_model.events import ScanRequested
from runtime_model.mgcmark import scanstack
from runtime_model.panic import Throw
from runtime_model.proc import casgstatus, ready
from runtime_model.runtime import named
from runtime_model.runtime2 import (
    _Gcopystack,
    _Gdead,
    _Gpreempted,
    _Grunnable,
    _Grunning,
    _Gscan,
    _Gsyscall,
    _Gwaiting,
    status_name,
)
from runtime_model.signal_unix import preemptM
from runtime_model.stack import stackPreempt

if TYPE_CHECKING:
    from runtime_model.gc_work import suspending
    from runtime_model.runtime import Runtime
    from runtime_model.runtime2 import G

yieldDelay: Final = 10_000  # ns
_STOPPED: Final = (_Grunnable, _Gsyscall, _Gwaiting)

# What a round of suspendG or scang came to.
AGAIN: Final = 0
SUSPENDED: Final = 1
DEAD: Final = 2


@named
def suspendG(rt: Runtime, gp: G, frame: suspending) -> int:
    """One round: SUSPENDED once gp is stopped and its _Gscan bit is ours, DEAD, or AGAIN."""
    status = gp.atomicstatus
    if status == _Gdead:
        return DEAD
    if status == _Gpreempted:
        casgstatus(rt, gp, _Gpreempted, _Gwaiting)  # casGFromPreempted
        frame.stopped = 1
        status = _Gwaiting
    if status in _STOPPED:
        casgstatus(rt, gp, status, _Gscan | status)
        gp.preemptStop = 0
        gp.preempt = 0
        gp.stackguard0 = gp.stack_lo + rt.stackGuard
        return SUSPENDED
    if status == _Grunning:
        _ask(rt, gp, frame)
    elif not status & _Gscan and status != _Gcopystack:
        raise Throw("invalid g status", rt.tid, f"suspendG: {status_name(status)}")
    return AGAIN


def _ask(rt: Runtime, gp: G, frame: suspending) -> None:
    """Requests both ways, unless that is done and its M has not acted on the signal yet."""
    requested = gp.preemptStop and gp.preempt and gp.stackguard0 == stackPreempt
    mp = rt.m(gp.m)
    if requested and frame.asyncM == mp.address and mp.preemptGen == frame.asyncGen:
        return
    casgstatus(rt, gp, _Grunning, _Gscan | _Grunning)
    gp.preemptStop = 1
    gp.preempt = 1
    gp.stackguard0 = stackPreempt
    need_async = (frame.asyncM, frame.asyncGen) != (mp.address, mp.preemptGen)
    frame.asyncM, frame.asyncGen = mp.address, mp.preemptGen
    casgstatus(rt, gp, _Gscan | _Grunning, _Grunning)
    now = rt.machine.now
    signal = need_async and not rt.policy.asyncpreemptoff and now >= frame.nextPreemptM
    rt.machine.events.emit(ScanRequested(tid=rt.tid, goid=gp.goid, signal=signal))
    if signal:
        # At most one signal in half a delay: a target that cannot stop is not flooded.
        frame.nextPreemptM = now + yieldDelay // 2
        preemptM(rt, mp)


@named
def resumeG(rt: Runtime, gp: G, frame: suspending) -> None:
    """Undoes suspendG: gives the _Gscan bit back, and makes a goroutine ready that parked."""
    status = gp.atomicstatus
    if status & ~_Gscan not in _STOPPED or not status & _Gscan:
        raise Throw("unexpected g status", rt.tid, f"resumeG: {status_name(status)}")
    casgstatus(rt, gp, status, status & ~_Gscan)
    if frame.stopped:
        ready(rt, gp, runnext=True)


@named
def scang(rt: Runtime, gp: G) -> int:
    """One round, 1.13: scans gp's stack, or waits until gp has done it; DEAD when it is done."""
    status = gp.atomicstatus
    if gp.gcscandone or status == _Gdead:
        gp.gcscandone = 1
        gp.preemptscan = 0
        return DEAD
    if status in _STOPPED:
        casgstatus(rt, gp, status, _Gscan | status)
        scanstack(rt, gp)
        gp.gcscandone = 1
        casgstatus(rt, gp, _Gscan | status, status)  # restartg
        gp.preemptscan = 0
        return DEAD
    if status == _Grunning:
        if gp.preemptscan and gp.preempt and gp.stackguard0 == stackPreempt:
            return AGAIN
        casgstatus(rt, gp, _Grunning, _Gscan | _Grunning)
        gp.preemptscan = 1
        gp.preempt = 1
        gp.stackguard0 = stackPreempt
        casgstatus(rt, gp, _Gscan | _Grunning, _Grunning)
        rt.machine.events.emit(ScanRequested(tid=rt.tid, goid=gp.goid))
    elif not status & _Gscan and status != _Gcopystack:
        raise Throw("stopg: invalid status", rt.tid)
    return AGAIN
