"""freezetheworld: a program that dies stops the others, as well as it can (runtime/proc.go).

A fault that nothing recovers, or a stack overflow, comes to startpanic_m (panic.go), and that
freezes the world before it prints: so that what it prints is still true. It asks up to five times,
a millisecond apart, and then goes on whoever has stopped: who never comes to a safe point is not
waited for. The loop with its sleeps is machine code (asm/go/proc_amd64.s). Where no other P runs a
goroutine there is nobody to freeze, and the program dies at once.

Go has the goroutine itself panic on a fault, behind sigpanic; here it dies in its signal handler.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from runtime_model.proc_syscall import freezeStopWait
from runtime_model.proc_sysmon import preemptall
from runtime_model.runtime import named
from runtime_model.runtime2 import _Prunning

if TYPE_CHECKING:
    from emulator.fault import GuestStopped
    from runtime_model.runtime import Runtime

ROUNDS: Final = 5
PAUSE: Final = 1000  # µs
_WHY: Final = "the program dies: the world is to freeze"


def startpanic_m(rt: Runtime, fatal: GuestStopped) -> int | None:
    """Where the thread that dies goes on, to die in the end; None where it does so at once."""
    if rt.dying is not None:  # another one is dying: this one waits for the end
        return rt.tail("freezetheworld", 0)
    own = rt.m(rt.getg().m).p
    others = [rt.p(address) for address in rt.allp if address != own]
    if not any(pp.status == _Prunning and pp.m and rt.m(pp.m).curg for pp in others):
        return None
    rt.dying = fatal
    rt.enter("startpanic_m")
    return rt.tail("freezetheworld", 0)


def freezetheworld_work(rt: Runtime) -> None:
    """One round: AX = how many µs to sleep before the next. Behind the last the program ends."""
    fatal = rt.dying
    assert fatal is not None
    if fatal.tid == rt.tid and not freezetheworld(rt):
        raise fatal
    rt.clobber()
    rt.thread.registers["RAX"] = PAUSE


@named
def freezetheworld(rt: Runtime) -> bool:
    """Whether to sleep and come again: five times while somebody runs, and twice more."""
    done = rt.memory.u64(rt.freezing)
    if done < ROUNDS:
        rt.sched.stopwait = freezeStopWait
        rt.sched.gcwaiting = 1
        done = done + 1 if preemptall(rt, _WHY) else ROUNDS + 1
    elif done == ROUNDS:
        done += 1
    elif done == ROUNDS + 1:
        done += 1
        preemptall(rt, _WHY)
    else:
        return False
    rt.memory.put_u64(rt.freezing, done)
    return True
