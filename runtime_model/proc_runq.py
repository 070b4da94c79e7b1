"""Queues of runnable goroutines: the global one and each P's (runtime/proc.go).

A P's queue is a ring of 256, and before it runnext: a goroutine there runs next, and inherits the
time slice of who made it ready. Who finds nothing of his own steals from others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from runtime_model.events import Queued
from runtime_model.runtime import named

if TYPE_CHECKING:
    from runtime_model.runtime import Runtime
    from runtime_model.runtime2 import G, P

RUNQ_SIZE: Final = 256  # len(p.runq)


@named
def globrunqput(rt: Runtime, gp: G) -> None:
    """Puts gp at the tail of the global queue."""
    _append(rt, gp)


def _append(rt: Runtime, gp: G) -> None:
    gp.schedlink = 0
    if rt.sched.runq_tail:
        rt.g(rt.sched.runq_tail).schedlink = gp.address
    else:
        rt.sched.runq_head = gp.address
    rt.sched.runq_tail = gp.address
    rt.sched.runqsize += 1
    rt.machine.events.emit(Queued(tid=rt.thread.tid, goid=gp.goid, queue="global"))


def globrunqpop(rt: Runtime) -> G:
    """Takes the head of the global queue, which is not empty."""
    gp = rt.g(rt.sched.runq_head)
    rt.sched.runq_head = gp.schedlink
    if not gp.schedlink:
        rt.sched.runq_tail = 0
    gp.schedlink = 0
    rt.sched.runqsize -= 1
    return gp


def globrunqget(rt: Runtime, pp: P, limit: int) -> G | None:
    """Takes one goroutine to run, and this P's share of the rest into its own queue."""
    size = rt.sched.runqsize
    if size == 0:
        return None
    n = min(size, size // rt.gomaxprocs + 1, RUNQ_SIZE // 2, limit or size)
    gp = globrunqpop(rt)
    for _ in range(n - 1):
        runqput(rt, pp, globrunqpop(rt))
    return gp


def _slot(pp: P, index: int) -> int:
    return pp.field_address("runq") + 8 * (index % RUNQ_SIZE)


def runqput(rt: Runtime, pp: P, gp: G, *, runnext: bool = False) -> None:
    """Puts gp on the P's queue; as runnext it runs next, and what was that joins the tail.

    From a full queue, half goes to the global one, and gp behind it (runqputslow).
    """
    address = gp.address
    if runnext:
        address, pp.runnext = pp.runnext, address
        if not address:
            return
    if (pp.runqtail - pp.runqhead) & 0xFFFF_FFFF >= RUNQ_SIZE:
        half = [rt.memory.u64(_slot(pp, pp.runqhead + i)) for i in range(RUNQ_SIZE // 2)]
        pp.runqhead += len(half)
        for moved in (*half, address):
            _append(rt, rt.g(moved))
        return
    rt.memory.put_u64(_slot(pp, pp.runqtail), address)
    pp.runqtail += 1


def runqget(rt: Runtime, pp: P) -> tuple[G | None, bool]:
    """(goroutine, whether it inherits the time slice: runnext does)."""
    if pp.runnext:
        gp = rt.g(pp.runnext)
        pp.runnext = 0
        return gp, True
    if pp.runqhead == pp.runqtail:
        return None, False
    gp = rt.g(rt.memory.u64(_slot(pp, pp.runqhead)))
    pp.runqhead += 1
    return gp, False


def runqempty(pp: P) -> bool:
    """Whether the P has no work of its own."""
    return pp.runqhead == pp.runqtail and pp.runnext == 0


def stealWork(rt: Runtime, pp: P) -> G | None:
    """Takes half of another P's queue and runs the last of it, or takes its runnext.

    Other Ps in rising order: Go begins at a random one, a fixed order keeps runs the same.
    """
    others = rt.allp[pp.id + 1 :] + rt.allp[: pp.id]
    for last_try in (False, True):
        for address in others:
            p2 = rt.p(address)
            n = (p2.runqtail - p2.runqhead) & 0xFFFF_FFFF
            n -= n // 2
            if n == 0 and last_try and p2.runnext:
                gp = rt.g(p2.runnext)
                p2.runnext = 0
                return gp
            stolen = [rt.g(rt.memory.u64(_slot(p2, p2.runqhead + i))) for i in range(n)]
            p2.runqhead += n
            if stolen:
                for gp in stolen[:-1]:
                    runqput(rt, pp, gp)
                return stolen[-1]
    return None
