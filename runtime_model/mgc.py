"""A mark worker that scans all stacks when it is asked to (runtime/mgc.go: gcBgMarkWorker).

In Go it is a goroutine that runs on the system stack of a P of its own, a dedicated worker. Here it
is the M of such a P; its loop is machine code (asm/go/proc_amd64.s). It marks what the stacks point
to and nothing beyond: there is no sweep, and no write barrier.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from runtime_model import mheap, proc_world
from runtime_model.mgcmark import scanstack
from runtime_model.suspend import DEAD, SUSPENDED, resumeG, scang, suspendG, suspending, yieldDelay

if TYPE_CHECKING:
    from runtime_model.runtime import Runtime

# How the worker waits, as its machine code knows it.
IDLE: Final = 0
PROCYIELD: Final = 1
OSYIELD: Final = 2
NOTETSLEEP: Final = proc_world.NOTETSLEEP


def gcinit(rt: Runtime) -> int:
    """Memory for the worker's variables."""
    return rt.persistentalloc(suspending.SIZE)


def worker(rt: Runtime) -> suspending:
    """The worker's variables; rt has a worker."""
    return suspending(rt.memory, rt.gcwork)


def gcStart(rt: Runtime) -> None:
    """Asks the worker for a scan of all stacks, with nothing marked."""
    mheap.clear_marks(rt)
    for address in rt.goroutines:
        gp = rt.g(address)
        gp.gcscandone = 0
    worker(rt).wanted = 1


def gcBgMarkWorker_work(rt: Runtime) -> None:
    """The worker's gate: AX = how to wait until the next round."""
    result = gcDrain(rt)
    rt.clobber()
    rt.thread.registers["RAX"] = result
    if result == NOTETSLEEP:
        rt.thread.registers["RBX"] = proc_world.note(rt)


def gcDrain(rt: Runtime) -> int:
    """Stops and scans one goroutine after the other, up to where it has to wait."""
    frame = worker(rt)
    if frame.world:
        return proc_world.step(rt, frame)
    if not frame.scanning:
        if not frame.wanted:
            return IDLE
        frame.wanted, frame.scanning, frame.index = 0, 1, 0
        frame.begin()
    while frame.index < len(rt.goroutines):
        if not markroot(rt, frame):
            return _wait(rt, frame)
        frame.index += 1
        frame.begin()
    frame.scanning = 0
    frame.cycles += 1
    return IDLE


def markroot(rt: Runtime, frame: suspending) -> bool:
    """Whether the stack of the goroutine that it is at is scanned now."""
    gp = rt.g(rt.goroutines[frame.index])
    if not rt.version.asynchronous:
        return scang(rt, gp) == DEAD
    state = suspendG(rt, gp, frame)
    if state == SUSPENDED:
        scanstack(rt, gp)
        gp.gcscandone = 1
        resumeG(rt, gp, frame)
    return state in (SUSPENDED, DEAD)


def _wait(rt: Runtime, frame: suspending) -> int:
    """Spins for yieldDelay, then yields to the system, and each half of that again."""
    now = rt.machine.now
    if frame.i == 0:
        frame.nextYield = now + yieldDelay
    frame.i += 1
    if now < frame.nextYield:
        return PROCYIELD
    frame.nextYield = now + yieldDelay // 2
    return OSYIELD
