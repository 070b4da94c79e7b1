"""newstack: what happens when a prologue's stack check fails (runtime/stack.go).

Up to 1.13 the check was the only way to preempt; since 1.14 it is the cooperative half.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emulator.fault import GuestStopped
from runtime_model.events import StackChecked
from runtime_model.preempt import canPreemptM
from runtime_model.proc import gopreempt_m, preemptPark
from runtime_model.proc_sysmon import stackPreempt
from runtime_model.runtime import named

if TYPE_CHECKING:
    from runtime_model.runtime import Runtime
    from runtime_model.runtime2 import G


class StackOverflow(GuestStopped):
    """A goroutine's stack is used up; `pc` is in the call that wanted more.

    Of `registers`, RIP, RSP, RBP and RDX are the goroutine's, as morestack saved them.
    """

    def __init__(self, rt: Runtime, gp: G, pc: int) -> None:
        registers = rt.thread.registers.copy()
        registers["RIP"], registers["RSP"] = gp.sched_pc, gp.sched_sp
        registers["RBP"], registers["RDX"] = gp.sched_bp, gp.sched_ctxt
        size = gp.stack_hi - gp.stack_lo
        super().__init__(
            f"goroutine {gp.goid} has used up its stack of {size} bytes", rt.thread.tid, registers
        )
        self.pc = pc - 1  # within the CALL


@named
def newstack(rt: Runtime) -> int:
    """Called by morestack on g0; goes on at the goroutine's function, or at another goroutine.

    With stackguard0 == stackPreempt it is a request to preempt: refused while canPreemptM
    refuses, else preemptPark (preemptStop, for the stack scan) or gopreempt_m. Without it the
    stack is really used up.
    """
    mp = rt.m(rt.getg().m)
    gp = rt.g(mp.curg)
    preempt = gp.stackguard0 == stackPreempt
    pc = mp.morebuf_pc
    refused = preempt and canPreemptM(rt, mp) is not None
    if not preempt:
        decision = "the stack is used up"
    elif refused:
        decision = "not now"
    elif rt.version.asynchronous and gp.preemptStop:
        decision = "preemptPark"
    else:
        decision = "gopreempt_m"
    rt.machine.events.emit(
        StackChecked(tid=rt.thread.tid, pc=pc, goid=gp.goid, preempt=preempt, decision=decision)
    )
    if refused:
        gp.stackguard0 = gp.stack_lo + rt.stackGuard
        return rt.gogo(gp)
    if decision == "preemptPark":
        return preemptPark(rt, gp)
    if preempt:
        return gopreempt_m(rt, gp)
    raise StackOverflow(rt, gp, pc)
