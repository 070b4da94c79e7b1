"""Stopping the world, and running something on every P (runtime/proc.go).

The stopper is the mark worker's M, on its own P. It asks all Ps to stop and waits on
sched.stopnote; each 100 µs that this takes it asks again, as a request may have been lost.
schedule gives a P up where it sees sched.gcwaiting (gcstopm); one in a system call is taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from runtime_model.events import SafePointFunction, WorldStopped
from runtime_model.gc_work import suspending
from runtime_model.panic import Throw
from runtime_model.proc import mget, mput, newm, notewakeup, pidleget, pidleput, wakep
from runtime_model.proc_runq import runqempty
from runtime_model.proc_syscall import handoffp, in_syscall, takeP, wake_sysmon
from runtime_model.proc_sysmon import preemptall
from runtime_model.runtime import named
from runtime_model.runtime2 import _Pgcstop, _Pidle, _Prunning

if TYPE_CHECKING:
    from runtime_model.runtime import Runtime
    from runtime_model.runtime2 import M, P

NOTETSLEEP: Final = 3  # how the worker waits: on stopnote, 100 µs at most
_NOTHING: Final = 0

# What suspending.world says.
STOP: Final = 1
STOPPING: Final = 2
STOPPED: Final = 3
EACH_P: Final = 4
EACH_P_WAITING: Final = 5


def note(rt: Runtime) -> int:
    """The address of the note that the worker sleeps on."""
    waits_for_each = worker_of(rt).world == EACH_P_WAITING
    return rt.sched.field_address("safePointNote" if waits_for_each else "stopnote")


def worker_of(rt: Runtime) -> suspending:
    """The worker's variables."""
    return suspending(rt.memory, rt.gcwork)


def _woken(rt: Runtime) -> bool:
    """Whether the note was set (and clears it), or 100 µs are over."""
    address = note(rt)
    woken = rt.memory.u32(address) != 0
    rt.memory.put_u32(address, 0)
    return woken


def step(rt: Runtime, frame: suspending) -> int:
    """One round of the stopper: how it waits for the next."""
    if frame.world in (EACH_P, EACH_P_WAITING):
        return _each_p(rt, frame)
    if frame.world == STOP:
        frame.world = STOPPING if stopTheWorldWithSema(rt) else STOPPED
    elif frame.world == STOPPING:
        if _woken(rt):
            frame.world = STOPPED
        else:
            preemptall(rt, "the world does not stop: asked again after 100 µs")
    elif rt.machine.now >= frame.start_at:
        frame.world = 0
        startTheWorldWithSema(rt)
        return _NOTHING
    if frame.world == STOPPED:
        if rt.sched.stopwait != 0:
            raise Throw("stopTheWorld: not stopped (stopwait != 0)", rt.tid)
        rt.machine.events.emit(WorldStopped(tid=rt.tid))
        frame.start_at = max(frame.start_at, rt.machine.now + 1)
        return _NOTHING
    return NOTETSLEEP


def _each_p(rt: Runtime, frame: suspending) -> int:
    if frame.world == EACH_P:
        frame.world = EACH_P_WAITING if forEachP(rt) else 0
    elif _woken(rt):
        frame.world = 0
        if rt.sched.safePointWait != 0:
            raise Throw("forEachP: not done", rt.tid)
    else:
        preemptall(rt, "a P has not run its function: asked again after 100 µs")
    return NOTETSLEEP if frame.world else _NOTHING


@named
def forEachP(rt: Runtime) -> bool:
    """Has a function run on every P, for idle Ps and its own at once. Whether to wait for others:

    if for those that are in system calls only, the note is set when this returns.
    """
    sched = rt.sched
    own = rt.p(rt.m(rt.getg().m).p)
    sched.safePointWait = rt.gomaxprocs - 1
    for address in rt.allp:
        if address != own.address:
            rt.p(address).runSafePointFn = 1
    preemptall(rt, "a function is to run on every P")
    idle = sched.pidle
    while idle:
        pp = rt.p(idle)
        if pp.runSafePointFn:
            pp.runSafePointFn = 0
            rt.machine.events.emit(SafePointFunction(tid=rt.tid, p=pp.id))
            sched.safePointWait -= 1
        idle = pp.link
    wait = sched.safePointWait > 0
    rt.machine.events.emit(SafePointFunction(tid=rt.tid, p=own.id))
    for pp in map(rt.p, rt.allp):
        if pp.runSafePointFn and in_syscall(rt, pp):
            takeP(rt, pp, _Pidle)
            handoffp(rt, pp)
    return wait


@named
def stopTheWorldWithSema(rt: Runtime) -> bool:
    """Asks every P; takes its own and the idle ones at once. Whether there is one to wait for."""
    sched = rt.sched
    sched.stopwait = rt.gomaxprocs
    sched.gcwaiting = 1
    preemptall(rt, "the world is to stop")
    own = rt.p(rt.m(rt.getg().m).p)
    own.status = _Pgcstop
    sched.stopwait -= 1
    for other in map(rt.p, rt.allp):
        if other != own and in_syscall(rt, other):
            takeP(rt, other, _Pgcstop)
            sched.stopwait -= 1
    while (pp := pidleget(rt)) is not None:
        pp.status = _Pgcstop
        sched.stopwait -= 1
    return sched.stopwait > 0


@named
def startTheWorldWithSema(rt: Runtime) -> None:
    """Ps with work get an M, the others are idle; one more M may look for work."""
    own = rt.p(rt.m(rt.getg().m).p)
    own.status = _Prunning
    runnable = procresize(rt, [pp for pp in map(rt.p, rt.allp) if pp != own])
    rt.sched.gcwaiting = 0
    wake_sysmon(rt)
    for pp, mp in runnable:
        if mp is not None:
            mp.nextp = pp.address
            notewakeup(rt, mp.field_address("park"))
        else:
            newm(rt, 0, pp.address)
    wakep(rt)


def procresize(rt: Runtime, others: list[P]) -> list[tuple[P, M | None]]:
    """What becomes of all Ps but the caller's, in rising order: which are to run, on which Ms.

    Up to 1.25 the last P takes the M that came to sleep last. Since 1.26 each takes the one that it
    was on, if that sleeps; and the last P is idle on top of the list, not the first.
    """
    runnable: list[tuple[P, M | None]] = []  # as a list that grows at its head
    waiting: list[P] = []
    for pp in reversed(others):
        pp.status = _Pidle
        if runqempty(pp):
            waiting.append(pp)
        elif not rt.version.remembers_m:
            runnable.insert(0, (pp, mget(rt)))
        elif (mp := mgetSpecific(rt, pp)) is not None:
            runnable.insert(0, (pp, mp))
        else:
            waiting.append(pp)
    for pp in reversed(waiting) if rt.version.remembers_m else waiting:
        if runqempty(pp):
            pidleput(rt, pp)
        else:
            runnable.insert(0, (pp, mget(rt)))
    return runnable


def mgetSpecific(rt: Runtime, pp: P) -> M | None:
    """Takes the M that the P was on last from the list of those that sleep, if it is there."""
    wanted = rt.memory.u64(pp.oldm) if pp.oldm else 0
    asleep = []
    while (mp := mget(rt)) is not None and mp.address != wanted:
        asleep.append(mp)
    for other in reversed(asleep):
        mput(rt, other)
    return mp
