"""newstack: what a prologue's failing stack check comes to (runtime/stack.go).

A prologue that finds too little stack, or stackPreempt, calls morestack, and that newstack. Up to
1.13 this was the only way to preempt; since 1.14 it is the cooperative half.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from runtime_model.events import StackChecked
from runtime_model.mgcmark import scanstack
from runtime_model.panic import Throw
from runtime_model.preempt import canPreemptM
from runtime_model.proc import casgstatus, gopreempt_m, preemptPark
from runtime_model.runtime import named
from runtime_model.runtime2 import _Gcopystack, _Grunning, _Gscan, _Gwaiting
from runtime_model.stack import copystack, shrinkstack, stackPreempt
from runtime_model.traceback import PtrSize

if TYPE_CHECKING:
    from runtime_model.runtime import Runtime
    from runtime_model.runtime2 import G

stackForceMove: Final = 0xFFFF_FFFF_FFFF_FEED  # -275: move to a stack of the same size
stackFork: Final = 0xFFFF_FFFF_FFFF_FB2E  # -1234: between fork and exec no stack may grow


class StackOverflow(Throw):
    """A goroutine's stack would exceed the limit; `pc` is in the call that wanted more.

    Of `registers`, RIP, RSP, RBP and RDX are the goroutine's, as morestack saved them.
    """

    def __init__(self, rt: Runtime, gp: G, pc: int) -> None:
        super().__init__(
            "stack overflow",
            rt.tid,
            f"goroutine stack exceeds {rt.maxstacksize}-byte limit",
        )
        self.registers = registers = rt.thread.registers.copy()
        registers["RIP"], registers["RSP"] = gp.sched_pc, gp.sched_sp
        registers["RBP"], registers["RDX"] = gp.sched_bp, gp.sched_ctxt
        self.pc = pc - 1  # within the CALL


@named
def newstack(rt: Runtime) -> int:
    """Called by morestack on g0; goes on at the goroutine's function, or at another goroutine.

    With stackguard0 == stackPreempt it is a request to preempt: refused while canPreemptM
    refuses, else preemptPark (preemptStop, for the stack scan) or gopreempt_m. Without it the
    goroutine moves to a larger stack.
    """
    mp = rt.m(rt.getg().m)
    gp = rt.g(mp.curg)
    if rt.g(mp.morebuf_g).stackguard0 == stackFork:
        raise Throw("stack growth after fork", rt.tid)
    if mp.morebuf_g != gp.address:
        raise Throw("runtime: wrong goroutine in newstack", rt.tid)
    if gp.throwsplit:
        raise Throw("runtime: stack split at bad time", rt.tid)
    pc = mp.morebuf_pc
    mp.morebuf_pc = mp.morebuf_sp = mp.morebuf_g = 0
    stackguard0 = gp.stackguard0
    preempt = stackguard0 == stackPreempt

    def checked(decision: str) -> None:
        rt.machine.events.emit(
            StackChecked(tid=rt.tid, pc=pc, goid=gp.goid, preempt=preempt, decision=decision)
        )

    if preempt and canPreemptM(rt, mp) is not None:
        checked("not now")
        gp.stackguard0 = gp.stack_lo + rt.stackGuard
        return rt.gogo(gp)
    if gp.stack_lo == 0:
        raise Throw("missing stack in newstack", rt.tid)
    if gp.sched_sp - PtrSize < gp.stack_lo:
        raise Throw(
            "runtime: split stack overflow",
            rt.tid,
            f"split stack overflow: {gp.sched_sp - PtrSize:#x} < {gp.stack_lo:#x}",
        )
    if preempt:
        if gp.address == mp.g0:
            raise Throw("runtime: preempt g0", rt.tid)
        checked("preemptPark" if rt.version.asynchronous and gp.preemptStop else "gopreempt_m")
        return _preempt(rt, gp)
    newsize = _newsize(rt, gp, stackguard0)
    if newsize > rt.maxstacksize:
        checked("stack overflow")
        raise StackOverflow(rt, gp, pc)
    checked("copystack")
    casgstatus(rt, gp, _Grunning, _Gcopystack)
    copystack(rt, gp, newsize)
    casgstatus(rt, gp, _Gcopystack, _Grunning)
    return rt.gogo(gp)


def _preempt(rt: Runtime, gp: G) -> int:
    """The cooperative half: a pending shrink first, then the goroutine leaves its M."""
    if not rt.version.asynchronous:
        return _preempt_1_13(rt, gp)
    if gp.preemptShrink:
        gp.preemptShrink = 0
        shrinkstack(rt, gp)
    if rt.version.sync_safe_point:
        gp.syncSafePoint = 1
    return preemptPark(rt, gp) if gp.preemptStop else gopreempt_m(rt, gp)


def _newsize(rt: Runtime, gp: G, stackguard0: int) -> int:
    """Twice the size, or more where the function's frame would not fit."""
    oldsize = gp.stack_hi - gp.stack_lo
    newsize = 2 * oldsize
    fn = rt.functions.findfunc(gp.sched_pc)
    if fn is not None and rt.version.grows_to_fit:
        used = gp.stack_hi - gp.sched_sp if rt.version.fits_what_is_used else oldsize
        while newsize - used < fn.funcMaxSPDelta + rt.stackGuard:
            newsize *= 2
    return oldsize if stackguard0 == stackForceMove else newsize


def _preempt_1_13(rt: Runtime, gp: G) -> int:
    """1.13: a stack scan is done right here, and the goroutine goes on at once."""
    casgstatus(rt, gp, _Grunning, _Gwaiting)
    if gp.preemptscan:
        casgstatus(rt, gp, _Gwaiting, _Gscan | _Gwaiting)
        if not gp.gcscandone:
            scanstack(rt, gp)
            gp.gcscandone = 1
        gp.preemptscan = gp.preempt = 0
        casgstatus(rt, gp, _Gscan | _Gwaiting, _Gwaiting)
        casgstatus(rt, gp, _Gwaiting, _Grunning)
        gp.stackguard0 = gp.stack_lo + rt.stackGuard
        return rt.gogo(gp)
    casgstatus(rt, gp, _Gwaiting, _Grunning)
    return gopreempt_m(rt, gp)
