"""A mark worker that scans all stacks when it is asked to (runtime/mgc.go: gcBgMarkWorker).

In Go it is a goroutine that runs on the system stack of a P of its own, a dedicated worker. Here it
is the M of such a P; its loop is machine code (asm/go/proc_amd64.s). It marks what the stacks point
to and nothing beyond: there is no sweep, and no write barrier. If the pacer wants a second one, it
enlists it (mgcpacer.py): that is a goroutine, which shares the stacks with the first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from runtime_model import mheap, proc_world
from runtime_model.gc_work import suspending
from runtime_model.mgcmark import scanstack
from runtime_model.mgcpacer import enlistWorker
from runtime_model.proc import casgstatus, leave, schedule
from runtime_model.runtime2 import _Grunning, _Gwaiting
from runtime_model.suspend import DEAD, SUSPENDED, resumeG, scang, suspendG, yieldDelay

if TYPE_CHECKING:
    from runtime_model.runtime import Runtime
    from runtime_model.runtime2 import G

# How the worker waits, as its machine code knows it.
IDLE: Final = 0
PROCYIELD: Final = 1
OSYIELD: Final = 2
NOTETSLEEP: Final = proc_world.NOTETSLEEP


def gcinit(rt: Runtime) -> int:
    """Memory for the worker's variables."""
    return rt.persistentalloc(2 * suspending.SIZE)


def worker(rt: Runtime) -> suspending:
    """The first worker's variables; rt has a worker."""
    return suspending(rt.memory, rt.gcwork)


def second_worker(rt: Runtime) -> suspending:
    """Those of the worker that may be enlisted."""
    return suspending(rt.memory, rt.gcwork + suspending.SIZE)


def gcStart(rt: Runtime, *, dedicated: int = 1) -> None:
    """Asks the worker for a scan of all stacks, with nothing marked.

    dedicated: how many workers the pacer wants, 1 or 2.
    """
    worker(rt).dedicatedMarkWorkersNeeded = dedicated - 1
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
        frame.wanted, frame.scanning, frame.busy, frame.markrootNext = 0, 1, 0, 0
        enlistWorker(rt)
    return _drain(rt, frame)


def gcBgMarkWorker_drain(rt: Runtime) -> None:
    """The gate of the second worker, a goroutine: AX = how to wait, or IDLE to park."""
    frame = second_worker(rt)
    if not frame.scanning:
        frame.scanning, frame.busy = 1, 0
    result = _drain(rt, frame)
    rt.clobber()
    rt.thread.registers["RAX"] = result


def gcBgMarkWorker_park(rt: Runtime, gp: G) -> int:
    """gopark: the second worker waits until it is wanted again."""
    casgstatus(rt, gp, _Grunning, _Gwaiting)
    leave(rt, gp, "parked")
    return schedule(rt)


def _drain(rt: Runtime, frame: suspending) -> int:
    """Takes stacks (work.markrootNext) until there are no more."""
    work = worker(rt)
    while True:
        if not frame.busy:
            if work.markrootNext >= len(rt.goroutines):
                break
            frame.index, frame.busy = work.markrootNext, 1
            work.markrootNext += 1
            frame.begin()
        if not markroot(rt, frame):
            return _wait(rt, frame)
        frame.busy = 0
    frame.scanning = 0
    if not work.scanning and not second_worker(rt).scanning:
        work.cycles += 1  # gcMarkDone: nobody marks any more
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
