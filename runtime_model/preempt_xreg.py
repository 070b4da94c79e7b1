"""Extended register state of preempted goroutines, since Go 1.26 (runtime/preempt_xreg.go).

asyncPreempt writes the vectors to p.xRegs.scratch; xRegSave copies them into a block that the G
keeps while it is preempted; xRegRestore puts that block where asyncPreempt restores from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emulator.fault import GuestStopped
from runtime_model.runtime import named

if TYPE_CHECKING:
    from runtime_model.runtime import Runtime
    from runtime_model.runtime2 import G, P


def poison_scratch(rt: Runtime, pp: P) -> None:
    """Overwrites the P's scratch area, where a preemption begins and when its state is saved.

    What asyncPreempt does not save is not found there; and after xRegSave the area belongs to
    whoever is preempted on the P next.
    """
    size = rt.layout.size("xRegState")
    rt.memory.write(pp.field_address("xRegs.scratch"), rt.stack_poison * size)


@named
def xRegSave(rt: Runtime, gp: G) -> None:
    """Copies the P's scratch state to the G. Runs on g0: the P cannot change."""
    if gp.xRegs_state != 0:
        raise GuestStopped("gp.xRegState.p != nil on async preempt", rt.thread.tid)
    pp = rt.p(rt.m(gp.m).p)
    size = rt.layout.size("xRegState")
    dest = pp.xRegs_cache
    if dest:
        pp.xRegs_cache = 0
    else:
        dest = rt.persistentalloc(size)
    rt.memory.write(dest, rt.memory.view(pp.field_address("xRegs.scratch"), size))
    poison_scratch(rt, pp)
    gp.xRegs_state = dest


@named
def xRegRestore(rt: Runtime, gp: G) -> None:
    """Moves the G's block to the cache of the P that it runs on now.

    A block cached there would be freed; here it is dropped (the model frees nothing).
    """
    if gp.xRegs_state == 0:
        raise GuestStopped("gp.xRegState.p == nil on return from async preempt", rt.thread.tid)
    pp = rt.p(rt.m(gp.m).p)
    pp.xRegs_cache = gp.xRegs_state
    gp.xRegs_state = 0
