"""The scheduler (runtime/proc.go): Ms and Ps, schedule, execute, and how goroutines leave an M.

Functions that end in a switch return the address at which the thread goes on (see Runtime.tail).
Locks are left out: Python functions run atomically.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from runtime_model import preempt_xreg, stackpool
from runtime_model.events import Descheduled, Executing, Queued, SafePointFunction, StatusChanged
from runtime_model.gc_work import suspending
from runtime_model.panic import Throw
from runtime_model.proc_runq import globrunqget, globrunqput, runqget, runqput, stealWork
from runtime_model.runtime import KEPT_BY_ABI0, KEPT_WITH_G, named
from runtime_model.runtime2 import (
    _Gdead,
    _Gpreempted,
    _Grunnable,
    _Grunning,
    _Gscan,
    _Gwaiting,
    _Pgcstop,
    _Pidle,
    _Prunning,
    status_name,
)

if TYPE_CHECKING:
    from runtime_model.runtime import Runtime
    from runtime_model.runtime2 import G, M, P

FUTEX_WAKE_PRIVATE: Final = 1 | 128
SIG_SETMASK: Final = 2


@named
def casgstatus(rt: Runtime, gp: G, old: int, new: int) -> None:
    """Changes a status; that it is not the old one is an error of the model."""
    if gp.atomicstatus != old:
        raise Throw(
            f"casgstatus: g{gp.goid} is {status_name(gp.atomicstatus)}, not {status_name(old)}",
            rt.thread.tid,
        )
    gp.atomicstatus = new
    rt.machine.events.emit(StatusChanged(tid=rt.thread.tid, goid=gp.goid, old=old, new=new))


def dropg(rt: Runtime) -> None:
    """Takes the M and its current goroutine apart."""
    mp = rt.m(rt.getg().m)
    rt.g(mp.curg).m = 0
    mp.curg = 0


# Ps and Ms.


def acquirep(rt: Runtime, pp: P) -> None:
    """Wires the P to the current M."""
    mp = rt.m(rt.getg().m)
    mp.p = pp.address
    pp.m = mp.address
    pp.status = _Prunning
    if rt.version.remembers_m:
        pp.oldm = mp.self


def releasep(rt: Runtime) -> P:
    """Takes the P from the current M."""
    mp = rt.m(rt.getg().m)
    pp = rt.p(mp.p)
    mp.p = 0
    pp.m = 0
    pp.status = _Pidle
    return pp


def pidleput(rt: Runtime, pp: P) -> None:
    """Puts a P without work on the idle list."""
    pp.link = rt.sched.pidle
    rt.sched.pidle = pp.address
    rt.sched.npidle += 1


def pidleget(rt: Runtime) -> P | None:
    """Takes an idle P."""
    if not rt.sched.pidle:
        return None
    pp = rt.p(rt.sched.pidle)
    rt.sched.pidle = pp.link
    rt.sched.npidle -= 1
    return pp


@named
def wakep(rt: Runtime) -> None:
    """Starts one more M looking for work, if a P is idle and nobody looks yet."""
    if rt.sched.nmspinning != 0:
        return
    pp = pidleget(rt)
    if pp is not None:
        rt.sched.nmspinning = 1
        startm(rt, pp)
    elif rt.version.needspinning:
        rt.sched.needspinning = 1  # pidlegetSpinning: whoever is about to sleep looks first


def startm(rt: Runtime, pp: P, *, spinning: bool = True) -> None:
    """Gives the P to a sleeping M, or to a new one; spinning, it looks for work."""
    mp = mget(rt)
    if mp is None:
        newm(rt, 0, pp.address, spinning=spinning)
        return
    mp.spinning = int(spinning)
    mp.nextp = pp.address
    notewakeup(rt, mp.field_address("park"))


def mput(rt: Runtime, mp: M) -> None:
    """Puts an M without a P on the list of those that sleep."""
    mp.schedlink = rt.sched.midle
    rt.sched.midle = mp.address
    rt.sched.nmidle += 1


def mget(rt: Runtime) -> M | None:
    """Takes the M that came to sleep last."""
    if not rt.sched.midle:
        return None
    mp = rt.m(rt.sched.midle)
    rt.sched.midle = mp.schedlink
    rt.sched.nmidle -= 1
    return mp


def notewakeup(rt: Runtime, note: int) -> None:
    """Sets a note and wakes its sleeper by futex."""
    rt.memory.put_u32(note, 1)
    rt.call0("futex", note, FUTEX_WAKE_PRIVATE | 1 << 32, 0, 0, 0, results=1)


def newm(rt: Runtime, fn: int, pp: int, *, spinning: bool = False) -> int:
    """Starts a thread for an M that boot laid out; it runs fn, or schedules with P pp."""
    address = rt.memory.u64(rt.free_ms)
    if not address:
        raise Throw("out of Ms", rt.thread.tid)
    mp = rt.m(address)
    rt.memory.put_u64(rt.free_ms, mp.alllink)
    mp.alllink = rt.memory.u64(rt.allm)
    rt.memory.put_u64(rt.allm, address)
    mp.mstartfn = fn
    mp.nextp = pp
    mp.spinning = spinning
    newosproc(rt, address)
    return address


CLONE_FLAGS: Final = 0x100 | 0x200 | 0x400 | 0x800 | 0x40000 | 0x10000  # VM..SYSVSEM, THREAD


def newosproc(rt: Runtime, mp_address: int) -> None:
    """clone, on the new M's g0 stack, into mstart (runtime/os_linux.go).

    All signals are blocked meanwhile: the new thread has no stack for handlers before minit.
    """
    g0 = rt.g(rt.m(mp_address).g0)
    arguments = (CLONE_FLAGS, g0.stack_hi, mp_address, g0.address, rt.symbol("mstart"))
    with rt.on_stack(16) as sets:
        rt.memory.put_u64(sets, 0xFFFF_FFFF_FFFF_FFFF)  # sigset_all; oset lies behind it
        rt.call0("rtsigprocmask", SIG_SETMASK, sets, sets + 8, 8)
        result = rt.call0("clone", *arguments, results=1)
        rt.call0("rtsigprocmask", SIG_SETMASK, sets + 8, 0, 8)
    if result & 0x8000_0000:
        raise Throw("newosproc: clone failed", rt.thread.tid)


# Scheduling.


@named
def schedule(rt: Runtime) -> int:
    """One round of the scheduler: finds a goroutine and executes it, or sleeps until woken."""
    mp = rt.m(rt.getg().m)
    if mp.locks:
        raise Throw("schedule: holding locks", rt.thread.tid)
    pp = rt.p(mp.p)
    if rt.version.asynchronous:
        pp.preempt = 0
    if rt.sched.gcwaiting:
        return gcstopm(rt)
    if pp.runSafePointFn:
        runSafePointFn(rt, pp)
    gp, inherit_time = findRunnable(rt, pp)
    if gp is None:
        return stopm(rt)
    if mp.spinning:
        # resetspinning: it found work, so somebody else may look for more.
        mp.spinning = 0
        rt.sched.nmspinning -= 1
        wakep(rt)
    if gp.address == rt.gcworker_g:
        wakep(rt)  # tryWakeP: it does none of the goroutines' work
    return execute(rt, gp, inherit_time)


@named
def findRunnable(rt: Runtime, pp: P) -> tuple[G | None, bool]:
    """A mark worker that is wanted; each 61st time the global queue; the own; global; others'."""
    worker = findRunnableGCWorker(rt)
    if worker is not None:
        return worker, False
    if pp.schedtick % 61 == 0:
        gp = globrunqget(rt, pp, 1)
        if gp is not None:
            return gp, False
    gp, inherit_time = runqget(rt, pp)
    if gp is None:
        gp = globrunqget(rt, pp, 0)
    if gp is None and becomeSpinning(rt, rt.m(pp.m)):
        gp = stealWork(rt, pp)
    return gp, inherit_time


def becomeSpinning(rt: Runtime, mp: M) -> bool:
    """Whether the M may look for work on other Ps: if less than half of those busy look already.

    Since 1.20 also after a wakep that found no idle P (sched.needspinning).
    """
    sched = rt.sched
    needed = rt.version.needspinning and sched.needspinning
    if mp.spinning:
        return True
    if 2 * sched.nmspinning >= rt.gomaxprocs - sched.npidle and not needed:
        return False
    mp.spinning = 1
    sched.nmspinning += 1
    if rt.version.needspinning:
        sched.needspinning = 0
    return True


def findRunnableGCWorker(rt: Runtime) -> G | None:
    """The second mark worker, if it is wanted."""
    if not gcWorkerWanted(rt):
        return None
    rt.enter("findRunnableGCWorker")
    gp = rt.g(rt.gcworker_g)
    suspending(rt.memory, rt.gcwork).dedicatedMarkWorkersNeeded -= 1
    casgstatus(rt, gp, _Gwaiting, _Grunnable)
    return gp


def gcWorkerWanted(rt: Runtime) -> bool:
    """Whether the pacer wants the second mark worker (mgcpacer), and something is to be marked."""
    if not rt.gcwork:
        return False
    work = suspending(rt.memory, rt.gcwork)
    available = work.scanning and work.markrootNext < len(rt.goroutines)
    wanted = available and work.dedicatedMarkWorkersNeeded
    return bool(wanted) and rt.g(rt.gcworker_g).atomicstatus == _Gwaiting


@named
def runSafePointFn(rt: Runtime, pp: P) -> None:
    """What forEachP wants done on this P, and word that it is; safePointFn is an event here."""
    pp.runSafePointFn = 0
    rt.machine.events.emit(SafePointFunction(tid=rt.tid, p=pp.id))
    rt.sched.safePointWait -= 1
    if rt.sched.safePointWait == 0:
        notewakeup(rt, rt.sched.field_address("safePointNote"))


@named
def gcstopm(rt: Runtime) -> int:
    """The world is being stopped: gives the P up for it, and tells the last one's stopper."""
    mp = rt.m(rt.getg().m)
    if mp.spinning:
        mp.spinning = 0
        rt.sched.nmspinning -= 1
    releasep(rt).status = _Pgcstop
    rt.sched.stopwait -= 1
    if rt.sched.stopwait == 0:
        notewakeup(rt, rt.sched.field_address("stopnote"))
    return _mpark(rt)


def stopm(rt: Runtime) -> int:
    """Gives the P back and sleeps on the M's note (mPark)."""
    mp = rt.m(rt.getg().m)
    pidleput(rt, releasep(rt))
    if mp.spinning:
        mp.spinning = 0
        rt.sched.nmspinning -= 1
    return _mpark(rt)


def _mpark(rt: Runtime) -> int:
    mp = rt.m(rt.getg().m)
    mput(rt, mp)
    # schedule never returns: when it looks again, its frame lies where mstart or mcall left it.
    rt.thread.registers["RSP"] = rt.g(mp.g0).sched_sp
    return rt.tail("mPark", 0)


def stopm_woken(rt: Runtime) -> int:
    """Stopm behind its sleep: another M left a P in nextp."""
    mp = rt.m(rt.getg().m)
    acquirep(rt, rt.p(mp.nextp))
    mp.nextp = 0
    return schedule(rt)


@named
def execute(rt: Runtime, gp: G, inherit_time: bool) -> int:
    """Runs gp on the current M."""
    mp = rt.m(rt.getg().m)
    mp.curg = gp.address
    gp.m = mp.address
    casgstatus(rt, gp, _Grunnable, _Grunning)
    gp.preempt = 0
    gp.stackguard0 = gp.stack_lo + rt.stackGuard
    if rt.version.sync_safe_point:
        gp.syncSafePoint = 0
    pp = rt.p(mp.p)
    if not inherit_time:
        pp.schedtick += 1
    rt.machine.events.emit(Executing(tid=rt.thread.tid, goid=gp.goid, p=pp.id))
    return rt.gogo(gp)


# How a goroutine leaves its M.


def leave(rt: Runtime, gp: G, why: str) -> None:
    """Dropg, told."""
    pp = rt.p(rt.m(gp.m).p)
    rt.machine.events.emit(Descheduled(tid=rt.thread.tid, goid=gp.goid, p=pp.id, why=why))
    dropg(rt)


@named
def goschedImpl(rt: Runtime, gp: G, why: str, *, preempted: bool) -> int:
    """Gp becomes runnable, joins the global queue, and the M schedules.

    Since 1.26 a P that is to stop keeps what was preempted for it: that runs next when it starts.
    """
    pp = rt.p(rt.m(gp.m).p)
    casgstatus(rt, gp, _Grunning, _Grunnable)
    leave(rt, gp, why)
    if preempted and rt.sched.gcwaiting and rt.version.keeps_stopped:
        runqput(rt, pp, gp, runnext=True)
        rt.machine.events.emit(Queued(tid=rt.tid, goid=gp.goid, queue=f"P{pp.id}"))
    else:
        globrunqput(rt, gp)
    if rt.version.gosched_wakes:
        wakep(rt)
    return schedule(rt)


@named
def gopreempt_m(rt: Runtime, gp: G) -> int:
    """The goroutine was preempted, in either way."""
    asynchronous = rt.version.asynchronous and gp.asyncSafePoint
    why = "preempted" if asynchronous else "cooperative"
    return goschedImpl(rt, gp, why, preempted=True)


def gosched_m(rt: Runtime, gp: G) -> int:
    """The goroutine called Gosched."""
    return goschedImpl(rt, gp, "yielded", preempted=False)


@named
def preemptPark(rt: Runtime, gp: G) -> int:
    """Gp parks as _Gpreempted; whoever asked for it (suspendG) makes it runnable again."""
    casgstatus(rt, gp, _Grunning, _Gscan | _Gpreempted)
    leave(rt, gp, "parked")
    casgstatus(rt, gp, _Gscan | _Gpreempted, _Gpreempted)
    return schedule(rt)


@named
def ready(rt: Runtime, gp: G, *, runnext: bool) -> None:
    """A waiting goroutine becomes runnable on the current P."""
    casgstatus(rt, gp, _Gwaiting, _Grunnable)
    runqput(rt, rt.p(rt.m(rt.getg().m).p), gp, runnext=runnext)
    wakep(rt)


def goexit1(rt: Runtime) -> int:
    """The goroutine's first function has returned."""
    return rt.mcall("goexit0")


@named
def goexit0(rt: Runtime, gp: G) -> int:
    """Gp is dead; with the last one the program ends, as when main's Wait returns."""
    casgstatus(rt, gp, _Grunning, _Gdead)
    if rt.version.asynchronous:
        gp.preemptStop = 0
    leave(rt, gp, "exited")
    gfput(rt, gp)
    if all(rt.g(address).atomicstatus == _Gdead for address in rt.goroutines):
        return rt.tail("exit", 0)
    return schedule(rt)


def gfput(rt: Runtime, gp: G) -> None:
    """A dead goroutine keeps a stack of the starting size, another one is freed."""
    if gp.stack_hi - gp.stack_lo != rt.startingStackSize:
        stackpool.stackfree(rt, gp.stack_lo, gp.stack_hi - gp.stack_lo)
        gp.stack_lo = gp.stack_hi = gp.stackguard0 = 0


# asyncPreempt2, in its two forms (runtime/preempt.go).


def asyncPreempt2_begin(rt: Runtime) -> None:
    """Up to 1.25: asyncSafePoint = true; AX = the function that mcall is to call."""
    gp = rt.getg()
    gp.asyncSafePoint = 1
    function = "preemptPark.f" if gp.preemptStop else "gopreempt_m.f"
    rt.clobber()
    rt.thread.registers["RAX"] = rt.symbol(function)


@named
def asyncPreempt2_func1(rt: Runtime, gp: G) -> int:
    """Since 1.26, on g0: saves the vectors with the G, then the same decision."""
    gp.asyncSafePoint = 1
    preempt_xreg.xRegSave(rt, gp)
    return preemptPark(rt, gp) if gp.preemptStop else gopreempt_m(rt, gp)


def asyncPreempt2_end(rt: Runtime) -> None:
    """The goroutine is running again, on whichever M."""
    gp = rt.getg()
    if rt.version.extended_registers:
        preempt_xreg.xRegRestore(rt, gp)
    gp.asyncSafePoint = 0
    # asyncPreempt called an ABI0 function: nothing but SP and BP is kept; since 1.26 it relies
    # on g in R14, as ABI0 wrappers leave it.
    kept = KEPT_WITH_G if rt.version.extended_registers else KEPT_BY_ABI0
    rt.clobber(kept, rt.preemption_poison(gp))
