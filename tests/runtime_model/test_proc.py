"""The scheduler and sysmon: queues, switches, times (runtime/proc.go)."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

import pytest
from small_runtime import LOOP, Stopped, stopped

from emulator.events import SystemCall
from pushcall.api import program, run
from pushcall.snippet.injection import Injection
from pushcall.snippet.run import run as run_program
from runtime_model import proc, proc_runq
from runtime_model.events import (
    Descheduled,
    Entered,
    Executing,
    PreemptRequested,
    Queued,
    Resumed,
    StackChecked,
)
from runtime_model.policy import Policy
from runtime_model.preempt import Reason
from runtime_model.runtime2 import _Gdead, _Gpreempted, _Grunnable, _Grunning, _Pidle
from runtime_model.timers import request_preemption

if TYPE_CHECKING:
    from collections.abc import Callable

    from emulator.events import Event
    from runtime_model.runtime import Runtime
    from runtime_model.runtime2 import G, P

T = TypeVar("T")


def queue(rt: Runtime, pp: P) -> list[int]:
    """The goids on a P's queue, head first; runnext is not among them."""
    slots = range(pp.runqhead, pp.runqtail)
    return [rt.g(rt.memory.u64(proc_runq._slot(pp, i))).goid for i in slots]


def drain(at: Stopped) -> list[G]:
    """Takes all runnable goroutines from P0; one is running."""
    taken = []
    while (gp := proc_runq.runqget(at.rt, at.pp)[0]) is not None:
        taken.append(gp)
    return taken


def acting(at: Stopped, function: Callable[..., T], *args: object) -> T:
    with at.rt.acting(at.thread):
        return function(at.rt, *args)


def test_the_newest_goroutine_runs_next_and_the_others_in_order() -> None:
    # newproc puts each new one in runnext, which sends the one before to the queue's tail.
    at = stopped(goroutines=4)
    assert at.gp.goid == 4
    assert queue(at.rt, at.pp) == [1, 2, 3]
    _, out = run(LOOP.replace("1000000", "3"), goroutines=4, procs=1, never=True)
    assert [piece.goid for piece in out.slices] == [4, 1, 2, 3]


def test_runnext_inherits_the_time_slice_and_others_do_not() -> None:
    at = stopped(goroutines=3)
    first, second = drain(at)
    proc_runq.runqput(at.rt, at.pp, first)
    proc_runq.runqput(at.rt, at.pp, second, runnext=True)
    assert proc_runq.runqget(at.rt, at.pp) == (second, True)
    assert proc_runq.runqget(at.rt, at.pp) == (first, False)
    assert proc_runq.runqget(at.rt, at.pp) == (None, False)


def test_a_goroutine_in_runnext_is_kicked_to_the_tail() -> None:
    at = stopped(goroutines=4)
    one, two, three = drain(at)
    for gp in (one, two, three):
        proc_runq.runqput(at.rt, at.pp, gp, runnext=True)
    assert at.pp.runnext == three.address
    assert queue(at.rt, at.pp) == [one.goid, two.goid]


def test_a_full_queue_sends_half_of_it_to_the_global_one() -> None:
    at = stopped(goroutines=257)
    assert len(queue(at.rt, at.pp)) == 256
    # The last of them runs; one more finds the queue full: 1 to 128 go over, then itself.
    gp = at.rt.g(at.rt.goroutines[-1])
    before = queue(at.rt, at.pp)
    acting(at, proc_runq.runqput, at.pp, gp)
    assert queue(at.rt, at.pp) == before[128:]
    assert at.rt.sched.runqsize == 129
    order = [proc_runq.globrunqpop(at.rt).goid for _ in range(129)]
    assert order == [*before[:128], gp.goid]


def test_the_global_queue_is_first_in_first_out() -> None:
    at = stopped(goroutines=6)
    waiting = drain(at)
    for gp in waiting:
        acting(at, proc_runq.globrunqput, gp)
    assert at.rt.sched.runqsize == 5
    assert [proc_runq.globrunqpop(at.rt) for _ in waiting] == waiting
    assert (at.rt.sched.runqsize, at.rt.sched.runq_head, at.rt.sched.runq_tail) == (0, 0, 0)


@pytest.mark.parametrize(("procs", "share"), [(1, 10), (2, 6), (4, 3), (16, 1)])
def test_a_p_takes_its_share_of_the_global_queue(procs: int, share: int) -> None:
    # size/gomaxprocs + 1, at most all: one to run, the rest to the own queue.
    at = stopped(goroutines=11)
    at.rt.gomaxprocs = procs
    waiting = drain(at)
    for gp in waiting:
        acting(at, proc_runq.globrunqput, gp)
    assert proc_runq.globrunqget(at.rt, at.pp, 0) == waiting[0]
    assert queue(at.rt, at.pp) == [gp.goid for gp in waiting[1:share]]
    assert at.rt.sched.runqsize == 10 - share


def test_no_more_than_128_come_from_the_global_queue_at_once() -> None:
    at = stopped(goroutines=200)
    for gp in drain(at):
        acting(at, proc_runq.globrunqput, gp)
    proc_runq.globrunqget(at.rt, at.pp, 0)
    assert len(queue(at.rt, at.pp)) == 127


@pytest.mark.parametrize(
    ("tick", "from_global"), [(60, False), (61, True), (62, False), (122, True)]
)
def test_each_61st_time_the_global_queue_comes_first(tick: int, from_global: bool) -> None:
    at = stopped(goroutines=4)
    one, two, three = drain(at)
    proc_runq.runqput(at.rt, at.pp, one)
    acting(at, proc_runq.globrunqput, two)
    acting(at, proc_runq.globrunqput, three)
    at.pp.schedtick = tick
    found, inherits = acting(at, proc.findRunnable, at.pp)
    assert found == (two if from_global else one)
    assert not inherits
    # It takes one then, not its share.
    assert queue(at.rt, at.pp) == ([one.goid] if from_global else [])


def test_a_p_without_work_steals_half_and_runs_the_last_of_it() -> None:
    at = stopped(goroutines=8, procs=2)
    victim = next(p for p in map(at.rt.p, at.rt.allp) if queue(at.rt, p))
    others = [p for p in map(at.rt.p, at.rt.allp) if p != victim]
    for pp in others:
        while proc_runq.runqget(at.rt, pp)[0] is not None:
            pass
    there = queue(at.rt, victim)
    n = len(there) - len(there) // 2
    assert n >= 2
    stolen = acting(at, proc_runq.stealWork, others[0])
    assert stolen is not None
    assert stolen.goid == there[n - 1]
    assert queue(at.rt, others[0]) == there[: n - 1]
    assert queue(at.rt, victim) == there[n:]


def test_runnext_is_stolen_when_nothing_else_is_there() -> None:
    at = stopped(goroutines=2, procs=1)
    (gp,) = drain(at)
    p0 = at.pp
    idle = at.rt.p(at.rt.persistentalloc(at.rt.layout.size("p")))
    idle.id = 1
    at.rt.allp = (p0.address, idle.address)
    proc_runq.runqput(at.rt, p0, gp, runnext=True)
    assert acting(at, proc_runq.stealWork, idle) == gp
    assert p0.runnext == 0
    assert acting(at, proc_runq.stealWork, idle) is None


# sysmon.


def rounds(text: str, **options: object) -> tuple[list[int], list[PreemptRequested]]:
    """Times of sysmon's rounds, and its requests."""
    _, out = run_program(program(text, **options), Injection(), keep_events=True)
    times: list[int] = []
    for event in out.events:
        # It is entered when its sleep returns, and again from its decisions at the same time.
        is_round = isinstance(event, Entered) and event.function == "sysmon"
        if is_round and (not times or event.time >= times[-1] + 1000):
            times.append(event.time)
    return times, [e for e in out.events if isinstance(e, PreemptRequested)]


@pytest.fixture(scope="module")
def long_run() -> tuple[list[int], list[PreemptRequested]]:
    return rounds(LOOP.replace("1000000", "17000000"), goroutines=1, procs=1)


def test_sysmon_sleeps_20_us_51_times_and_then_twice_as_long_each_time_up_to_10_ms(
    long_run: tuple[list[int], list[PreemptRequested]],
) -> None:
    times, requests = long_run
    # A preemption is no reason to sleep less: retake counts Ps taken from system calls only.
    assert requests
    sleeps = [(b - a) // 1000 for a, b in pairwise(times)]
    assert sleeps[:51] == [20] * 51
    assert sleeps[51:60] == [40, 80, 160, 320, 640, 1280, 2560, 5120, 10000]
    assert set(sleeps[60:]) == {10000}
    assert len(sleeps) > 60


def test_sysmon_preempts_at_its_first_round_after_10_ms_under_one_schedtick(
    long_run: tuple[list[int], list[PreemptRequested]],
) -> None:
    times, requests = long_run
    assert requests[0].time >= 10_000_000
    assert [t for t in times if 10_000_000 <= t < requests[0].time - 1000] == []
    # The goroutine that comes back has a new tick: first sight, then 10 ms more.
    assert all(b.time - a.time >= 10_000_000 for a, b in pairwise(requests))


@pytest.mark.parametrize("quantum", [50_000, 300_000])
def test_the_quantum_is_the_least_time_between_two_preemptions(quantum: int) -> None:
    text = LOOP.replace("1000000", "600000")
    _, requests = rounds(text, goroutines=2, procs=1, policy=Policy(quantum))
    times = [request.time for request in requests]
    assert len(times) >= 2
    assert times[0] >= quantum
    assert min(b - a for a, b in pairwise(times)) >= quantum


# Switches.


@pytest.mark.parametrize("go", ["1.14", "1.22", "1.27"])
def test_a_goroutine_may_go_on_on_another_m(go: str) -> None:
    text = LOOP.replace("1000000", "60000")

    def its_own_tls(rt: Runtime, event: Event) -> None:
        # gogo: g goes to the TLS of the thread that it is on, which settls gave that thread for
        # good (m.tls), and to R14 where that is g.
        if isinstance(event, Resumed):
            thread = rt.machine.threads[event.tid]
            gp = rt.g(rt.getg_of(thread))
            mp = rt.m(gp.m)
            assert (gp.goid, mp.id, mp.procid) == (event.goid, event.m, event.tid)
            assert thread.registers["FS_BASE"] == mp.field_address("tls") + 8

    rt, out = run_program(
        program(text, go=go, goroutines=5, procs=2, policy=Policy(40_000)),
        keep_events=True,
        prepare=lambda rt: rt.machine.events.subscribe(partial(its_own_tls, rt)),
    )
    resumed = [event for event in out.events if isinstance(event, Resumed)]
    moved = [event for event in resumed if event.m != event.interrupted_m]
    assert moved
    assert all(event.losses == [] for event in resumed)
    assert out.status == 0
    # Each M that runs goroutines had a P of its own at every time.
    for pieces in ([s for s in out.slices if s.p == p] for p in range(2)):
        assert pieces
        spans = sorted((s.start, s.end) for s in pieces)
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    assert rt.version.number <= (1, 27)


def test_goexit_ends_the_goroutine_and_the_last_one_ends_the_program() -> None:
    text = LOOP.replace("1000000", "5")
    rt, out = run_program(
        program(text, goroutines=3, procs=1, policy=Policy(None)), keep_events=True
    )
    assert out.exit == 0
    gone = [e for e in out.events if isinstance(e, Descheduled)]
    assert [(e.goid, e.why) for e in gone] == [(3, "exited"), (1, "exited"), (2, "exited")]
    for address in rt.goroutines:
        gp = rt.g(address)
        assert (gp.atomicstatus, gp.m) == (_Gdead, 0)
    assert isinstance(out.events[-1], SystemCall)
    assert out.events[-1].name == "exit_group"


YIELDS = """
#include "textflag.h"

TEXT main·main(SB), 0, $16-0
	MOVQ	$2, 0(SP)
again:
	CALL	runtime·Gosched(SB)
	DECQ	0(SP)
	JNE	again
	RET
"""


@pytest.mark.parametrize("go", ["1.13", "1.16", "1.17", "1.22", "1.27"])
def test_gosched_goes_to_the_end_of_the_global_queue(go: str) -> None:
    rt, out = run_program(
        program(YIELDS, go=go, goroutines=3, procs=1, policy=Policy(None)), keep_events=True
    )
    assert out.status == 0, out.crash
    queued = [(e.goid, e.queue) for e in out.events if isinstance(e, Queued)]
    assert sorted(queued) == [(g, "global") for g in (1, 1, 2, 2, 3, 3)]
    left = [(e.goid, e.why) for e in out.events if isinstance(e, Descheduled)]
    assert left.count((1, "yielded")) == 2
    ran = [e.goid for e in out.events if isinstance(e, Executing)]
    # The one that yields first comes back at once: the %61 rule, as its tick is still 0.
    assert ran[0] == 3
    assert sorted(ran) == sorted([1, 2, 3] * 3)
    assert all(rt.g(address).atomicstatus == _Gdead for address in rt.goroutines)


ON_G0 = """
#include "textflag.h"

DATA	main·fn·f(SB)/8, $main·fn(SB)
GLOBL	main·fn·f(SB), RODATA|NOPTR, $8
GLOBL	main·where(SB), NOPTR, $40

TEXT main·main(SB), 0, $16-0
	MOVQ	SP, main·where+8(SB)
	MOVQ	BP, main·where+24(SB)
	MOVQ	$main·fn·f(SB), CX
	MOVQ	CX, 0(SP)
	CALL	runtime·systemstack(SB)
	MOVQ	SP, main·where+16(SB)
	MOVQ	BP, main·where+32(SB)
	RET

TEXT main·fn(SB), NOSPLIT, $0-0
	MOVQ	SP, main·where(SB)
	RET
"""


@pytest.mark.parametrize("go", ["1.13", "1.16", "1.17", "1.22", "1.27"])
@pytest.mark.parametrize("every", [None, 1])
def test_systemstack_runs_a_function_on_g0_and_comes_back(go: str, every: int | None) -> None:
    rt, out = run(ON_G0, go=go, every=every, never=every is None)
    assert out.status == 0, out.crash
    where = rt.user.address("main.where")
    assert where is not None
    inside, before, after, bp_before, bp_after = (rt.memory.u64(where + 8 * i) for i in range(5))
    gp = rt.g(rt.goroutines[0])
    stacks = [rt.g(rt.m(m).g0) for m in ms(rt)]
    assert any(g.stack_lo <= inside < g.stack_hi for g in stacks)
    assert gp.stack_lo <= before < gp.stack_hi
    assert after == before
    assert bp_before == bp_after
    assert gp.stack_lo <= bp_before < gp.stack_hi
    if every and go != "1.13":
        # On g0 nothing is wanted of the goroutine: g0 is not running as one.
        assert out.refusals[Reason.NOT_WANTED.value] > 0


def ms(rt: Runtime) -> list[int]:
    """The addresses of all Ms with a thread."""
    found = []
    address = rt.memory.u64(rt.allm)
    while address:
        found.append(address)
        address = rt.m(address).alllink
    return found


@pytest.mark.parametrize("go", ["1.14", "1.22", "1.27"])
def test_with_preemptstop_a_goroutine_parks_as_preempted(go: str) -> None:
    at = stopped(goroutines=2, go=go)
    gp, pc = at.gp, at.thread.registers["RIP"]
    gp.preemptStop = 1
    request_preemption(at.rt, at.thread, "test")
    at.go_on()
    parked = at.of(Descheduled)[-1]
    assert (parked.goid, parked.why) == (gp.goid, "parked")
    assert gp.atomicstatus == _Gpreempted
    assert (gp.m, gp.asyncSafePoint) == (0, 1)
    assert at.rt.sched.runqsize == 0  # on no queue
    assert at.gp.atomicstatus == _Grunning  # the other one runs
    assert at.gp != gp
    # resumeG and ready: it goes on where it was.
    with at.rt.acting(at.thread):
        proc.casgstatus(at.rt, gp, _Gpreempted, _Grunnable)
        gp.preemptStop = 0
        proc_runq.runqput(at.rt, at.pp, gp, runnext=True)
    request_preemption(at.rt, at.thread, "test")
    at.go_on()
    if at.gp != gp:
        request_preemption(at.rt, at.thread, "test")
        at.go_on()
    resumed = next(event for event in at.of(Resumed) if event.goid == gp.goid)
    assert (resumed.pc, resumed.losses) == (pc, [])
    assert gp.asyncSafePoint == 0


def test_a_stack_check_parks_a_goroutine_with_preemptstop() -> None:
    at = stopped(YIELDS, at=0, goroutines=2, policy=Policy(None, asyncpreemptoff=True))
    gp = at.gp
    gp.preemptStop = 1
    request_preemption(at.rt, at.thread, "test")
    at.go_on(4)
    assert [event.decision for event in at.of(StackChecked)] == ["preemptPark"]
    assert gp.atomicstatus == _Gpreempted


def test_a_stack_check_under_a_lock_goes_on_and_forgets_the_request() -> None:
    at = stopped(YIELDS, at=0, policy=Policy(None, asyncpreemptoff=True))
    at.mp.locks = 1
    request_preemption(at.rt, at.thread, "test")
    at.go_on(5)
    assert [event.decision for event in at.of(StackChecked)] == ["not now"]
    assert at.of(Descheduled) == []
    assert at.gp.stackguard0 == at.gp.stack_lo + 928  # stack.lo + stackGuard
    assert at.gp.preempt == 1


def test_execute_gives_a_new_tick_and_clears_what_was_asked() -> None:
    at = stopped()
    tick = at.pp.schedtick
    request_preemption(at.rt, at.thread, "test")
    at.go_on()
    assert at.pp.schedtick == tick + 1
    assert (at.gp.preempt, at.pp.preempt) == (0, 0)
    assert at.gp.stackguard0 == at.gp.stack_lo + 928


def test_a_p_without_work_is_idle_and_its_m_sleeps() -> None:
    at = stopped(goroutines=1, procs=3, at=50_000)
    statuses = [at.rt.p(address).status for address in at.rt.allp]
    assert statuses.count(_Pidle) == 2
    assert at.rt.sched.npidle == 2
    assert at.rt.sched.nmspinning == 0


def test_an_m_that_finds_no_work_again_and_again_uses_no_more_stack() -> None:
    """Schedule loops to `top` in one frame (proc.go, findRunnable): it does not call itself."""
    text = "TEXT main·main(SB), 4, $0\n\tMOVQ $100000, CX\nl:\n\tDECQ CX\n\tJNZ l\n\tRET\n"
    rt, out = run(text, goroutines=1, procs=2, every=1000)
    assert out.preemptions == 200
    depths = [
        g.stack_hi - thread.registers["RSP"]
        for thread in rt.machine.threads.values()
        if (g := rt.g(rt.getg_of(thread))).goid == 0
    ]
    assert len(depths) >= 2
    assert max(depths) < 1024
