"""sysmon's work: who has run for too long (runtime/proc.go: sysmon, retake, preemptone).

sysmon's loop and its sleeps are machine code (asm/go/proc_amd64.s).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from runtime_model.events import PreemptRequested
from runtime_model.proc_syscall import in_syscall, retake_syscall
from runtime_model.runtime import named
from runtime_model.runtime2 import _Gscan, _Gsyscall, _Prunning, _Psyscall
from runtime_model.signal_unix import preemptM
from runtime_model.stack import stackPreempt

if TYPE_CHECKING:
    from runtime_model.runtime import Runtime
    from runtime_model.runtime2 import P

forcegcperiod: Final = 120_000_000_000  # ns
_DEADLINE: Final = 8 + 40  # of a deep sleep: where sysmon's frame has it, seen from the gate

# What a round of sysmon was, as its machine code knows it.
IDLE: Final = 0
RETAKEN: Final = 1
DEEP: Final = 2
ANEW: Final = 3


def sysmon_work(rt: Runtime) -> None:
    """One round of sysmon between two sleeps; AX = what it was.

    While the world is stopped, or all Ps are idle, sysmon sleeps deeply: BX = the note that wakes
    it, CX = how many ns at most.
    """
    rt.enter("sysmon")
    note = rt.sched.field_address("sysmonnote")
    deadline = rt.thread.registers["RSP"] + _DEADLINE
    now = rt.machine.now
    woken = rt.memory.u32(note) != 0
    slept = woken or bool(rt.sched.sysmonwait)
    if not slept and (rt.sched.gcwaiting or rt.sched.npidle == rt.gomaxprocs):
        rt.memory.put_u64(deadline, now + forcegcperiod // 2)
    left = rt.memory.u64(deadline) - now
    if left > 0 and not woken:
        rt.sched.sysmonwait = 1
        rt.clobber()
        registers = rt.thread.registers
        registers["RAX"], registers["RBX"], registers["RCX"] = DEEP, note, left
        return
    rt.memory.put_u64(deadline, 0)
    rt.memory.put_u32(note, 0)
    rt.sched.sysmonwait = 0
    anew = slept and (woken or rt.version.deep_sleep_resets)
    result = RETAKEN if retake(rt, now) else ANEW if anew else IDLE
    rt.clobber()
    rt.thread.registers["RAX"] = result


@named
def retake(rt: Runtime, now: int) -> int:
    """Preempts what has run under one schedtick for forcePreemptNS; hands off Ps in system calls.

    Returns how many were handed off.
    """
    quantum = rt.policy.force_preempt_ns
    retaken = 0
    for address in rt.allp:
        pp = rt.p(address)
        if pp.status not in (_Prunning, _Psyscall):
            continue
        long = False
        tick = pp.schedtick
        if pp.sysmontick_schedtick != tick:
            pp.sysmontick_schedtick = tick
            pp.sysmontick_schedwhen = now
        elif quantum is not None and pp.sysmontick_schedwhen + quantum <= now:
            ran = (now - pp.sysmontick_schedwhen) / 1e6
            preemptone(rt, pp, f"P{pp.id} has run one goroutine for {ran:.2f} ms")
            long = True
        if in_syscall(rt, pp):
            retaken += retake_syscall(rt, pp, now, long=long)
    return retaken


@named
def preemptall(rt: Runtime, why: str) -> bool:
    """Asks whatever runs on any P to stop, in the order of allp; whether anything was asked."""
    running = [pp for pp in map(rt.p, rt.allp) if pp.status == _Prunning]
    asked = [preemptone(rt, pp, why) for pp in running]
    return any(asked)


@named
def preemptone(rt: Runtime, pp: P, why: str) -> bool:
    """Asks the goroutine that runs on pp to stop, in both ways: stackguard0, and a signal.

    Best effort, as in Go: it may reach the wrong goroutine, or none. Returns whether it asked.
    """
    if pp.m == 0:
        return False
    mp = rt.m(pp.m)
    if mp == rt.m(rt.getg().m):
        return False
    if mp.curg in (0, mp.g0):
        return False
    gp = rt.g(mp.curg)
    if not rt.version.psyscall and gp.atomicstatus & ~_Gscan == _Gsyscall:
        return False
    gp.preempt = 1
    gp.stackguard0 = stackPreempt
    asynchronous = rt.version.asynchronous and not rt.policy.asyncpreemptoff
    rt.machine.events.emit(
        PreemptRequested(
            tid=rt.thread.tid,
            p=pp.id,
            target_m=mp.id,
            target_g=gp.goid,
            why=why,
            asynchronous=asynchronous,
        )
    )
    if asynchronous:
        pp.preempt = 1
        preemptM(rt, mp)
    return True
