"""The pacer's dedicated mark workers: one more is enlisted when there is work.

runtime/mgcpacer.go. How many there are to be is 25% of the Ps in Go; here gcStart is told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from runtime_model.gc_work import suspending
from runtime_model.proc import wakep
from runtime_model.proc_sysmon import preemptone
from runtime_model.runtime import named
from runtime_model.runtime2 import _Prunning

if TYPE_CHECKING:
    from runtime_model.runtime import Runtime

TRIES: Final = 5


@named
def enlistWorker(rt: Runtime) -> None:
    """Asks a running P to stop, so that it runs a dedicated mark worker next, if one is wanted.

    Other Ps in rising order: Go draws lots, a fixed order keeps runs the same.
    """
    if not suspending(rt.memory, rt.gcwork).dedicatedMarkWorkersNeeded:
        return
    if rt.version.enlists_idle and rt.sched.npidle and not rt.sched.nmspinning:
        wakep(rt)
        return
    own = rt.m(rt.getg().m).p
    others = [rt.p(address) for address in rt.allp if address != own]
    for pp in others[:TRIES]:
        if pp.status == _Prunning and preemptone(rt, pp, "the pacer wants a P to mark"):
            return
