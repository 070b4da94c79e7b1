"""Who wakes whom, and with what (runtime/proc.go): spinning Ms, a world that starts, sysmon."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from small_runtime import LOOP, Stopped, stopped

from emulator.events import SystemCall
from runtime_model import mgc, proc, proc_runq, proc_sysmon
from runtime_model.events import Entered, Executing, Queued, SafePointFunction, StatusChanged
from runtime_model.proc_syscall import freezeStopWait
from runtime_model.proc_world import STOP
from runtime_model.runtime2 import _Grunnable, _Gsyscall, _Pgcstop, _Prunning

if TYPE_CHECKING:
    from emulator.events import Event
    from runtime_model.runtime import Runtime
    from runtime_model.runtime2 import P

SYSCALL = (Path(__file__).parents[2] / "examples/origins/retake_syscall.s").read_text("utf-8")


def without_work(at: Stopped) -> P:
    """A P that the goroutines' M is moved to, while all of them wait on the other P."""
    rt = at.rt
    victim, free = at.pp, next(rt.p(p) for p in rt.allp if p != at.pp.address)
    victim.runqhead = victim.runqtail
    for address in rt.goroutines:
        proc_runq.runqput(rt, victim, rt.g(address))
    free.m, at.mp.p = at.mp.address, free.address
    return free


@pytest.mark.parametrize(
    ("nmspinning", "npidle", "steals"), [(0, 0, True), (1, 0, False), (1, 1, False)]
)
def test_an_m_steals_if_less_than_half_of_the_busy_ps_do(
    nmspinning: int, npidle: int, steals: bool
) -> None:
    # findRunnable: mp.spinning || 2*nmspinning < gomaxprocs-npidle, then becomeSpinning.
    at = stopped(goroutines=4, procs=2)
    free = without_work(at)
    sched = at.rt.sched
    sched.nmspinning, sched.npidle = nmspinning, npidle
    gp, _ = proc.findRunnable(at.rt, free)
    assert (gp is not None, at.mp.spinning) == (steals, int(steals))
    assert sched.nmspinning == nmspinning + steals


@pytest.mark.parametrize(("go", "steals"), [("1.19", False), ("1.20", True), ("1.27", True)])
def test_a_wakep_without_an_idle_p_has_the_next_m_steal_since_1_20(go: str, steals: bool) -> None:
    # pidlegetSpinning: needspinning = 1; findRunnable, before it gives its P up; becomeSpinning.
    at = stopped(goroutines=4, procs=2, go=go)
    free = without_work(at)
    sched = at.rt.sched
    sched.nmspinning = sched.npidle = sched.pidle = 0
    with at.rt.acting(at.thread):
        proc.wakep(at.rt)
    sched.nmspinning = 1
    gp, _ = proc.findRunnable(at.rt, free)
    assert (gp is not None) == steals
    assert not (steals and sched.needspinning)


def test_a_new_thread_starts_with_all_signals_blocked() -> None:
    # os_linux.go, newosproc; minit unblocks them when gsignal's stack is known to the kernel.
    at = stopped(procs=4)
    rt = at.rt
    masks: list[int] = []

    def listen(event: Event) -> None:
        if isinstance(event, SystemCall) and event.name == "clone":
            masks.append(rt.machine.threads[max(rt.machine.threads)].sigmask)

    rt.machine.events.subscribe(listen)
    with rt.acting(at.sysmon):
        before = at.sysmon.sigmask
        proc.newm(rt, rt.symbol("sysmon"), 0)
        assert at.sysmon.sigmask == before
    unblockable = 1 << 9 - 1 | 1 << 19 - 1
    assert [mask | unblockable for mask in masks] == [0xFFFF_FFFF_FFFF_FFFF]


# A world that stops and starts.


def stop_and_start(at: Stopped) -> None:
    mgc.worker(at.rt).world = STOP
    at.events.clear()
    at.go_on(100_000)


def places(rt: Runtime) -> dict[int, tuple[int, int]]:
    """By goid: P and M."""
    ms = [rt.m(g.m) for g in map(rt.g, rt.goroutines)]
    return {rt.g(g).goid: (rt.p(mp.p).id, mp.id) for g, mp in zip(rt.goroutines, ms, strict=True)}


@pytest.mark.parametrize(("go", "queues"), [("1.25", {"global"}), ("1.26", {"P0", "P1"})])
def test_a_p_keeps_what_was_preempted_for_a_stop_since_1_26(go: str, queues: set[str]) -> None:
    # goschedImpl: runqput(pp, gp, true) while gcwaiting; procresize: mgetSpecific(pp.oldm).
    at = stopped(LOOP, 30_000, go=go, gc=True, goroutines=2, procs=2)
    before = places(at.rt)
    stop_and_start(at)
    assert {event.queue for event in at.of(Queued)} == queues
    if go == "1.26":
        assert places(at.rt) == before
        assert {e.goid: e.p for e in at.of(Executing)} == {g: p for g, (p, _) in before.items()}


def idle(rt: Runtime) -> list[int]:
    """The list of idle Ps, by id."""
    found, address = [], rt.sched.pidle
    while address:
        found.append(rt.p(address).id)
        address = rt.p(address).link
    return found


@pytest.mark.parametrize(("go", "last_first"), [("1.25", False), ("1.26", True)])
def test_idle_ps_are_listed_by_procresize(go: str, last_first: bool) -> None:
    # Up to 1.25 pidleput from the last P down, and the first is taken next; since 1.26 the last.
    at = stopped(LOOP, 30_000, go=go, gc=True, goroutines=1, procs=4)
    lists: list[list[int]] = []

    def listen(event: Event) -> None:
        if isinstance(event, Entered) and event.function == "wakep":
            lists.append(idle(at.rt))

    at.rt.machine.events.subscribe(listen)
    stop_and_start(at)
    listed = next(found for found in reversed(lists) if len(found) >= 3)
    assert listed == sorted(listed, reverse=last_first)


# System calls.


def in_syscall(go: str, **state: int) -> tuple[Stopped, list[tuple[type[Event], int]]]:
    """A goroutine that has entered the kernel; of what it told on the way: kind, status of its P.

    state: fields of sched, and runSafePointFn of the P, set before it enters.
    """
    at = stopped(SYSCALL, 8, go=go, goroutines=1, procs=1)
    rt, pp = at.rt, at.pp
    seen: list[tuple[type[Event], int]] = []

    def listen(event: Event) -> None:
        if isinstance(event, (StatusChanged, SafePointFunction)):
            seen.append((type(event), pp.status))
        elif (
            isinstance(event, SystemCall)
            and event.name == "nanosleep"
            and event.tid == at.thread.tid
        ):
            rt.machine.stop()

    rt.machine.events.subscribe(listen)
    for name, value in state.items():
        setattr(pp if name == "runSafePointFn" else rt.sched, name, value)
    assert rt.machine.run() is None
    return at, seen


@pytest.mark.parametrize(
    ("go", "kinds"),
    [
        ("1.25", [StatusChanged, SafePointFunction]),
        ("1.26", [SafePointFunction, StatusChanged]),
    ],
)
def test_entersyscall_changes_the_status_first_and_since_1_26_last(
    go: str, kinds: list[type[Event]]
) -> None:
    # reentersyscall: casgstatus, runSafePointFn; since 1.26 the other way round.
    _, seen = in_syscall(go, runSafePointFn=1, safePointWait=2)
    assert [kind for kind, _ in seen] == kinds


@pytest.mark.parametrize(("go", "status"), [("1.25", _Prunning), ("1.26", _Pgcstop)])
def test_entersyscall_gives_its_p_to_who_stops_the_world(go: str, status: int) -> None:
    # entersyscall_gcwait behind casgstatus; since 1.26 entersyscallHandleGCWait before it.
    at, seen = in_syscall(go, gcwaiting=1, stopwait=2)
    assert seen == [(StatusChanged, status)]
    p0 = at.rt.p(at.rt.allp[0])
    assert (p0.status, p0.syscalltick, at.rt.sched.stopwait) == (_Pgcstop, 1, 1)


@pytest.mark.parametrize(("go", "status"), [("1.25", _Grunnable), ("1.26", _Gsyscall)])
def test_who_comes_back_to_a_frozen_world(go: str, status: int) -> None:
    # exitsyscallfast finds no P for it; since 1.26 exitsyscall locks deadlock twice.
    at = stopped(SYSCALL, 2000, go=go, goroutines=2, procs=1)
    asleep = next(g for g in map(at.rt.g, at.rt.goroutines) if g.atomicstatus == _Gsyscall)
    at.rt.sched.stopwait = freezeStopWait
    at.go_on(1_100_000)
    assert asleep.atomicstatus == status


# sysmon.


def test_sysmon_sleeps_while_all_ps_are_idle_and_begins_anew_when_woken() -> None:
    # sysmon: npidle == gomaxprocs, notetsleep(&sched.sysmonnote); exitsyscall wakes it.
    at = stopped(SYSCALL, 3, goroutines=1, procs=1)
    at.go_on(14)
    sleeps = [e for e in at.of(SystemCall) if e.tid == at.sysmon.tid]
    deep = next(i for i, e in enumerate(sleeps) if e.name == "futex")
    handed = next(e.time for e in at.of(Entered) if e.function == "handoffp")
    back = next(e.time for e in at.of(Entered) if e.function.startswith("exitsyscall"))
    assert handed < sleeps[deep].time < handed + 100_000
    assert all(e.time >= back for e in sleeps[deep + 1 :])
    assert at.rt.sched.sysmonwait == 0


@pytest.mark.parametrize(("go", "result"), [("1.15", proc_sysmon.ANEW), ("1.16", proc_sysmon.IDLE)])
def test_sysmon_that_was_not_woken_begins_anew_up_to_1_15(go: str, result: int) -> None:
    # sysmon: idle = 0, delay = 20 behind notetsleep; since 1.16 if syscallWake.
    at = stopped(go=go)
    rt, registers = at.rt, at.sysmon.registers
    rt.sched.sysmonwait = 1
    rt.memory.put_u64(registers["RSP"] + 48, 1)  # the minute is over
    with rt.acting(at.sysmon):
        proc_sysmon.sysmon_work(rt)
    assert registers["RAX"] == result
    assert rt.sched.sysmonwait == 0
