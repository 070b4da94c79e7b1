"""Go functions that are Python here, and that machine code calls: a gate for each.

Those that are nothing else are written here: schedinit, and what every M does from mstart1 on
(runtime/proc.go, os_linux.go). A gate returns as a Go function would: everything that the calling
convention does not keep is poisoned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from emulator.fault import GuestStopped
from emulator.memory import UnmappedError
from runtime_model import (
    mgc,
    newstack,
    proc,
    proc_freeze,
    proc_runq,
    proc_syscall,
    proc_sysmon,
    proc_world,
    signal_unix,
)
from runtime_model.abi_internal import check_gate
from runtime_model.runtime2 import _Gdead, _Gidle, _Grunnable

if TYPE_CHECKING:
    from collections.abc import Callable

    from emulator.linux.threads import Thread
    from runtime_model.runtime import Runtime


def add_gates(rt: Runtime) -> dict[str, int]:
    """Gives the runtime's machine all gates; where they are, by linker name."""
    return {
        f"runtime.{name}": rt.machine.gate(name, _bind(rt, name, function))
        for name, function in _GATES.items()
    }


def _bind(
    rt: Runtime, name: str, function: Callable[[Runtime], int | None]
) -> Callable[[Thread], int | None]:
    def gate(thread: Thread) -> int | None:
        with rt.acting(thread):
            try:
                check_gate(rt, thread, name)
                return function(rt)
            except (signal_unix.FatalSignal, newstack.StackOverflow) as fatal:
                going_on = proc_freeze.startpanic_m(rt, fatal) if rt.dying is not fatal else None
                if going_on is None:
                    raise
                return going_on
            except UnmappedError as error:
                # Machine code has overwritten what the runtime finds its own data by.
                message = f"the runtime follows a pointer that is none: {error}"
                raise GuestStopped(message, thread.tid, thread.registers.copy()) from error

    return gate


def _schedinit(rt: Runtime) -> None:
    """procresize: m0 gets P0, the others are idle; the goroutines join P0's queue."""
    p0 = rt.p(rt.allp[0])
    proc.acquirep(rt, p0)
    # The last P belongs to the mark worker, if there is one.
    others = rt.allp[1:-1] if rt.gcwork else rt.allp[1:]
    proc_world.procresize(rt, [rt.p(address) for address in others])
    for address in rt.goroutines:
        gp = rt.g(address)
        proc.casgstatus(rt, gp, _Gdead, _Grunnable)
        proc_runq.runqput(rt, p0, gp, runnext=True)
    rt.clobber()


def _mstart1(rt: Runtime) -> int | None:
    """minit; then sysmon's M runs sysmon, m0 installs handlers and starts it, others schedule."""
    thread = rt.thread
    gp = rt.getg()
    mp = rt.m(gp.m)
    assert gp.atomicstatus == _Gidle
    # What mcall and morestack switch to: this frame, which is never returned to.
    gp.sched_sp = thread.registers["RSP"] - 64 & ~15
    gp.sched_g = gp.address
    _minit(rt)
    if mp.mstartfn:
        if mp.nextp:
            proc.acquirep(rt, rt.p(mp.nextp))
            mp.nextp = 0
        thread.registers["RSP"] = gp.sched_sp - 8
        return mp.mstartfn
    if mp.id == 0:
        signal_unix.initsig(rt)
        rt.sysmon_m = proc.newm(rt, rt.symbol("sysmon"), 0)
        if rt.gcwork:
            rt.gcworker_m = proc.newm(rt, rt.symbol("gcBgMarkWorker"), rt.allp[-1])
        rt.clobber()
        thread.registers["RAX"] = rt.sysmon_m
        return None
    proc.acquirep(rt, rt.p(mp.nextp))
    mp.nextp = 0
    return proc.schedule(rt)


def _mstart2(rt: Runtime) -> int:
    """m0 begins to schedule; starting the goroutines would have woken another P."""
    proc.wakep(rt)
    return proc.schedule(rt)


def _minit(rt: Runtime) -> None:
    """Signals of this M go to its gsignal stack, and none is blocked (os_linux.go: minit)."""
    gsignal = rt.g(rt.m(rt.getg().m).gsignal)
    offset = rt.layout.offset
    with rt.on_stack(rt.layout.size("stackt")) as st:
        rt.memory.put_u64(st + offset("stackt", "ss_sp"), gsignal.stack_lo)
        rt.memory.put_u64(st + offset("stackt", "ss_size"), gsignal.stack_hi - gsignal.stack_lo)
        rt.call0("sigaltstack", st, 0)
    with rt.on_stack(8) as none:
        rt.call0("rtsigprocmask", proc.SIG_SETMASK, none, 0, 8)


def _sigtrampgo(rt: Runtime) -> None:
    """Sigtramp leaves its arguments on the stack in every version: sig, info, ctx."""
    rsp = rt.thread.registers["RSP"]
    sig, ctx = rt.memory.u64(rsp + 8), rt.memory.u64(rsp + 24)
    signal_unix.sigtrampgo(rt, sig & 0xFFFF_FFFF, ctx)
    rt.clobber()


def _on_g(function: Callable[..., int]) -> Callable[[Runtime], int]:
    return lambda rt: function(rt, rt.g(rt.argument(0)))


_GATES: Final[dict[str, Callable[[Runtime], int | None]]] = {
    "schedinit": _schedinit,
    "mstart1": _mstart1,
    "mstart2": _mstart2,
    "newstack": newstack.newstack,
    "gcBgMarkWorker.work": mgc.gcBgMarkWorker_work,
    "gcBgMarkWorker.drain": mgc.gcBgMarkWorker_drain,
    "gcBgMarkWorker.park": _on_g(mgc.gcBgMarkWorker_park),
    "goexit1": proc.goexit1,
    "freezetheworld.work": proc_freeze.freezetheworld_work,
    "entersyscall": proc_syscall.entersyscall,
    "exitsyscall.fast": proc_syscall.exitsyscall,
    "exitsyscall.end": proc_syscall.exitsyscall_end,
    "exitsyscall0": _on_g(proc_syscall.exitsyscall0),
    "goexit0": _on_g(proc.goexit0),
    "gosched_m": _on_g(proc.gosched_m),
    "gopreempt_m": _on_g(proc.gopreempt_m),
    "preemptPark": _on_g(proc.preemptPark),
    "stopm.woken": proc.stopm_woken,
    "sysmon.work": proc_sysmon.sysmon_work,
    "sigtrampgo": _sigtrampgo,
    "asyncPreempt2.begin": proc.asyncPreempt2_begin,
    "asyncPreempt2.func1": _on_g(proc.asyncPreempt2_func1),
    "asyncPreempt2.end": proc.asyncPreempt2_end,
}
