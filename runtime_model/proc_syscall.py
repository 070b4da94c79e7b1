"""System calls that may wait: entersyscall, exitsyscall, and handing off a P (runtime/proc.go).

A goroutine in a system call is _Gsyscall. Up to 1.25 its P is _Psyscall meanwhile and wired to no
M; since 1.26 the P stays as it is, and the goroutine's status says that it may be taken. Who takes
it is sysmon (retake), or somebody who stops the world or runs a function on every P. The machine
code around these functions is in asm/go/syscall_linux_amd64.s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from runtime_model.events import ExitedSyscall, HandedOff
from runtime_model.proc import (
    _mpark,
    acquirep,
    casgstatus,
    dropg,
    execute,
    gcWorkerWanted,
    notewakeup,
    pidleget,
    pidleput,
    runSafePointFn,
    startm,
)
from runtime_model.proc_runq import globrunqput, runqempty
from runtime_model.runtime import named
from runtime_model.runtime2 import (
    _Grunnable,
    _Grunning,
    _Gscan,
    _Gsyscall,
    _Pgcstop,
    _Pidle,
    _Prunning,
    _Psyscall,
)
from runtime_model.stack import stackPreempt

if TYPE_CHECKING:
    from runtime_model.runtime import Runtime
    from runtime_model.runtime2 import G, M, P

freezeStopWait: Final = 0x7FFF_FFFF  # Go's name: stopwait of a world that is never started again


def in_syscall(rt: Runtime, pp: P) -> bool:
    """Whether the P's goroutine is in a system call, so that the P may be taken."""
    if rt.version.psyscall:
        return pp.status == _Psyscall
    if pp.status != _Prunning or not pp.m:
        return False
    curg = rt.m(pp.m).curg
    return curg != 0 and rt.g(curg).atomicstatus & ~_Gscan == _Gsyscall


def takeP(rt: Runtime, pp: P, status: int) -> None:
    """Takes the P from a goroutine in a system call; the goroutine finds it gone."""
    if pp.m:
        rt.m(pp.m).p = 0
        pp.m = 0
    pp.status = status
    pp.syscalltick += 1


@named
def entersyscall(rt: Runtime) -> None:
    """The goroutine is about to call the kernel: from here to exitsyscall it must not grow.

    The caller's PC, SP and BP are saved: whoever scans the stack meanwhile begins there. Up to 1.25
    the status changes first, since 1.26 last.
    """
    gp = rt.getg()
    mp = rt.m(gp.m)
    pp = rt.p(mp.p)
    rsp = rt.thread.registers["RSP"]
    gp.stackguard0 = stackPreempt
    gp.throwsplit = 1
    gp.sched_pc = gp.syscallpc = rt.memory.u64(rsp)
    gp.sched_sp = gp.syscallsp = rsp + 8
    gp.sched_bp = rt.thread.registers["RBP"]
    mp.oldp = pp.address
    if rt.version.psyscall:
        casgstatus(rt, gp, _Grunning, _Gsyscall)
        wake_sysmon(rt)
    if pp.runSafePointFn:
        runSafePointFn(rt, pp)
    mp.syscalltick = pp.syscalltick
    if rt.version.psyscall:
        mp.p = 0
        pp.m = 0
        pp.status = _Psyscall
    if rt.sched.gcwaiting and rt.sched.stopwait > 0:
        gcstop(rt, pp)
    if not rt.version.psyscall:
        casgstatus(rt, gp, _Grunning, _Gsyscall)
        wake_sysmon(rt)
    rt.clobber()


def gcstop(rt: Runtime, pp: P) -> None:
    """Gives a P in a system call to whoever stops the world, and wakes that if it is the last."""
    takeP(rt, pp, _Pgcstop)
    rt.sched.stopwait -= 1
    if rt.sched.stopwait == 0:
        notewakeup(rt, rt.sched.field_address("stopnote"))


def wake_sysmon(rt: Runtime) -> None:
    """Ends sysmon's deep sleep: there is a P again to look after."""
    if rt.sched.sysmonwait:
        rt.sched.sysmonwait = 0
        notewakeup(rt, rt.sched.field_address("sysmonnote"))


@named
def exitsyscall(rt: Runtime) -> int | None:
    """Back from the kernel, with the old P or an idle one; AX = what to call on g0 without one.

    In a frozen world: up to 1.25 as if there were none, since 1.26 the thread waits for the end.
    """
    gp = rt.getg()
    mp = rt.m(gp.m)
    if not rt.version.psyscall:
        if rt.sched.stopwait == freezeStopWait:
            return rt.tail("mPark", 0)
        casgstatus(rt, gp, _Gsyscall, _Grunning)
    oldp, mp.oldp = mp.oldp, 0
    pp = exitsyscallfast(rt, mp, oldp)
    if pp is None:
        result = rt.symbol("exitsyscall0.f")
    else:
        pp.syscalltick += 1
        if rt.version.psyscall:
            casgstatus(rt, gp, _Gsyscall, _Grunning)
        gp.syscallsp = 0
        gp.stackguard0 = stackPreempt if gp.preempt else gp.stack_lo + rt.stackGuard
        gp.throwsplit = 0
        rt.machine.events.emit(ExitedSyscall(tid=rt.tid, goid=gp.goid, p=pp.id))
        result = 0
    rt.clobber()
    rt.thread.registers["RAX"] = result
    return None


def exitsyscallfast(rt: Runtime, mp: M, oldp: int) -> P | None:
    """The P to go on with, wired: the old one if nobody runs on it, else an idle one.

    Since 1.26: exitsyscallTryGetP, if the M has lost its P.
    """
    if mp.p:
        return rt.p(mp.p)
    rt.enter("exitsyscallfast" if rt.version.psyscall else "exitsyscallTryGetP")
    if rt.sched.stopwait == freezeStopWait:
        return None
    if oldp and in_syscall(rt, old := rt.p(oldp)):
        if old.m:  # since 1.26: it was handed off, and whoever has it is in a system call, too
            takeP(rt, old, _Pidle)
        acquirep(rt, old)
        return old
    pp = pidleget(rt)
    if pp is not None:
        wake_sysmon(rt)
        acquirep(rt, pp)
    return pp


def exitsyscall0(rt: Runtime, gp: G) -> int:
    """On g0, without a P: the goroutine is queued, and the M sleeps (exitsyscallNoP since 1.26)."""
    rt.enter("exitsyscall0" if rt.version.psyscall else "exitsyscallNoP")
    casgstatus(rt, gp, gp.atomicstatus, _Grunnable)
    dropg(rt)
    pp = pidleget(rt)
    if pp is None:
        globrunqput(rt, gp)
        return _mpark(rt)
    wake_sysmon(rt)
    acquirep(rt, pp)
    return execute(rt, gp, False)


def exitsyscall_end(rt: Runtime) -> None:
    """The goroutine runs again, after a wait for a P."""
    gp = rt.getg()
    gp.syscallsp = 0
    rt.p(rt.m(gp.m).p).syscalltick += 1
    gp.throwsplit = 0
    rt.clobber()


@named
def handoffp(rt: Runtime, pp: P) -> None:
    """Gives a P that was taken from a system call to an M, if there is anything to do.

    There is no network poller here, whose sake the last P would be handed on for.
    """
    sched = rt.sched
    rt.machine.events.emit(HandedOff(tid=rt.tid, p=pp.id))
    if not runqempty(pp) or sched.runqsize or gcWorkerWanted(rt):
        startm(rt, pp, spinning=False)
    elif sched.nmspinning + sched.npidle == 0:
        sched.nmspinning = 1
        if rt.version.needspinning:
            sched.needspinning = 0
        startm(rt, pp)
    elif sched.gcwaiting:
        pp.status = _Pgcstop
        sched.stopwait -= 1
        if sched.stopwait == 0:
            notewakeup(rt, sched.field_address("stopnote"))
    else:
        if pp.runSafePointFn:
            runSafePointFn(rt, pp)
        pidleput(rt, pp)


def retake_syscall(rt: Runtime, pp: P, now: int, *, long: bool) -> bool:
    """Sysmon's look at a P in a system call: whether it was taken and handed off.

    It is left alone for one round at least, and for 10 ms where nobody waits for it; not where the
    goroutine has run for too `long` anyway.
    """
    if not long and pp.sysmontick_syscalltick != pp.syscalltick:
        pp.sysmontick_syscalltick = pp.syscalltick
        pp.sysmontick_syscallwhen = now
        return False
    others = rt.sched.nmspinning + rt.sched.npidle > 0
    if runqempty(pp) and others and pp.sysmontick_syscallwhen + 10_000_000 > now:
        return False
    takeP(rt, pp, _Pidle)
    handoffp(rt, pp)
    return True
