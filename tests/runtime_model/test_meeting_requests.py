"""Requests that meet, and signals that come late (runtime/preempt.go, proc.go, signal_unix.go)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from small_runtime import LOOP, Stopped, stopped

from emulator.events import FrameBuilt, SignalSent
from emulator.linux.signals import set_sigmask
from pushcall.api import program
from pushcall.snippet.run import run
from runtime_model import mgc
from runtime_model.events import (
    Descheduled,
    Executing,
    GoroutineExited,
    PushedCall,
    Resumed,
    SafePointVerdict,
    StackCopied,
    StackScanned,
    WorldStopped,
)
from runtime_model.policy import Policy
from runtime_model.preempt import Reason
from runtime_model.proc_sysmon import preemptone
from runtime_model.proc_world import STOP
from runtime_model.signal_unix import signalM
from runtime_model.timers import request_preemption

if TYPE_CHECKING:
    from collections.abc import Callable

    from emulator.linux.threads import Thread
    from runtime_model.runtime import Runtime

SIGURG = 23

CHECKS = """
#include "textflag.h"

TEXT main·main(SB), 0, $16-0
	MOVQ	$40, 0(SP)
again:
	CALL	main·f(SB)
	DECQ	0(SP)
	JNE	again
	RET

TEXT main·f(SB), 0, $200-0
	MOVQ	$1, AX
	RET
"""


@pytest.mark.parametrize("go", ["1.14", "1.27"])
def test_both_requests_meet_in_a_prologue_and_one_of_them_is_served(go: str) -> None:
    """golang/go 35470: preemptone's stackguard0 and its signal, at each boundary of a prologue.

    isAsyncSafePoint takes the signal before the stack check has read stackguard0, and refuses it
    from there to the call of morestack; newstack takes what is left. Never both, never a larger
    stack: execute would have taken the request back, and newstack seen a want of stack.
    """
    boundaries: dict[int, int] = {}  # how often each was asked at

    def ask(rt: Runtime, address: int) -> Callable[[Thread], None]:
        def reached(thread: Thread) -> None:
            gp = rt.g(rt.getg_of(thread))
            if not gp.preempt and boundaries[address] == min(boundaries.values()):
                boundaries[address] += 1
                assert request_preemption(rt, thread, "test")

        return reached

    def prepare(rt: Runtime) -> None:
        function = rt.user.function("main.f")
        assert function is not None
        for each in function.instructions:
            if each.inserted:
                boundaries[each.address] = 0
                rt.machine.add_breakpoint(each.address, ask(rt, each.address))

    loaded = program(CHECKS, go=go, policy=Policy(None))
    _, out = run(loaded, keep_events=True, prepare=prepare)
    assert out.status == 0, out.crash
    passed = [count for count in boundaries.values() if count]
    assert len(passed) >= 4
    assert out.requests == sum(passed) == out.signals
    assert out.requests == out.preemptions + out.cooperative
    assert min(out.preemptions, out.cooperative) > 0
    assert set(out.refusals) == {Reason.UNSAFE_POINT.value}
    assert not [event for event in out.events if isinstance(event, StackCopied)]


def sysmon_asks(at: Stopped) -> None:
    assert request_preemption(at.rt, at.thread, "test")


def scan_asks(at: Stopped) -> None:
    mgc.gcStart(at.rt)
    worker = at.rt.machine.threads[at.rt.m(at.rt.gcworker_m).procid]
    worker.time = max(worker.time, at.rt.machine.now)
    with at.rt.acting(worker):
        mgc.gcDrain(at.rt)


@pytest.mark.parametrize("order", [(sysmon_asks, scan_asks), (scan_asks, sysmon_asks)])
def test_sysmon_and_suspendg_ask_at_once_and_one_signal_parks_the_goroutine(
    order: tuple[Callable[[Stopped], None], ...],
) -> None:
    """asyncPreempt2 looks at preemptStop when it runs, whoever's signal brought it there."""
    at = stopped(LOOP, 10, gc=True)
    gp = at.gp
    for ask in order:
        ask(at)
    assert len(at.of(SignalSent)) == 1
    at.events.clear()
    at.go_on(20_000)
    assert [event.why for event in at.of(Descheduled)] == ["parked"]
    assert len(at.of(StackScanned)) == 1
    assert [event.losses for event in at.of(Resumed)] == [[]]
    # resumeG takes preemptStop back, execute the rest.
    assert (gp.preempt, gp.preemptStop, gp.stackguard0) == (0, 0, gp.stack_lo + at.rt.stackGuard)


def test_a_stop_of_the_world_and_a_scan_are_asked_for_at_once() -> None:
    """gcstopm has taken the Ps; suspendG finds the goroutines stopped, or asks them once more."""
    at = stopped(LOOP, 10, gc=True, goroutines=2)
    mgc.worker(at.rt).world = STOP
    mgc.gcStart(at.rt)
    at.go_on(100_000)
    assert len(at.of(WorldStopped)) == 1
    assert sorted(event.goid for event in at.of(StackScanned)) == [1, 2]
    assert all(event.losses == [] for event in at.of(Resumed))


def block(at: Stopped, thread: Thread, mask: int) -> None:
    set_sigmask(at.rt.machine.linux, thread, mask)


def test_a_signal_that_was_blocked_finds_another_goroutine_and_leaves_it_alone() -> None:
    """doSigPreempt asks the g that runs now; schedule and execute took the request back."""
    at = stopped(CHECKS, 10, goroutines=2)
    thread, mp, first = at.thread, at.mp, at.gp
    at.pp.schedtick = 1  # else the one that leaves is taken from the global queue at once
    block(at, thread, 1 << (SIGURG - 1))
    sysmon_asks(at)
    generation = mp.preemptGen
    at.go_on(20)  # over a stack check, where newstack sees the request
    assert [event.why for event in at.of(Descheduled)] == ["cooperative"]
    assert at.gp != first
    # It is still on its way: a request to the next one sends no other (preemptM).
    assert mp.signalPending == 1
    at.gp.preempt = 0
    with at.rt.acting(at.sysmon):
        assert preemptone(at.rt, at.pp, "test")
    assert len(at.of(SignalSent)) == 1
    at.gp.preempt = at.pp.preempt = 0
    block(at, thread, 0)
    before = thread.registers.copy()
    at.go_on()
    assert [event.reason for event in at.of(SafePointVerdict)] == [Reason.NOT_WANTED.value]
    assert at.of(PushedCall) == []
    assert thread.registers == before
    assert (mp.signalPending, mp.preemptGen) == (0, generation + 1)


def test_a_signal_between_the_last_instruction_and_goexit_is_taken_there() -> None:
    """goexit is assembly, so isAsyncSafePoint refuses; the goroutine ends as it would have."""
    at = stopped(LOOP.replace("1000000", "2"), 5)
    thread = at.thread
    assert not at.rt.machine.step()  # RET
    sysmon_asks(at)
    at._armed = False
    assert at.rt.machine.run() == 0
    (frame,) = at.of(FrameBuilt)
    assert frame.pc == at.rt.symbol("goexit") + 1
    assert [event.reason for event in at.of(SafePointVerdict)] == [Reason.ASSEMBLY.value]
    (ended,) = at.of(GoroutineExited)
    assert ended.tid == thread.tid
    assert ended.registers is not None
    assert ended.registers["RCX"] == 0


def test_an_idle_ms_sleep_is_interrupted_and_goes_on() -> None:
    """A SIGURG from outside finds g0 in futex: nothing is wanted, and mPark sleeps again."""
    at = stopped(LOOP, 30_000, goroutines=1, procs=2)
    (idle,) = (m for m in map(at.rt.m, ms(at.rt)) if m.curg == 0 and m.id != 1)
    at.events.clear()
    with at.rt.acting(at.sysmon):
        signalM(at.rt, idle, SIGURG)
    at.go_on(20_000)
    assert [event.reason for event in at.of(SafePointVerdict)] == [Reason.NOT_WANTED.value]
    assert at.of(Executing) == []
    assert at.rt.machine.threads[idle.procid].wait is not None


def ms(rt: Runtime) -> list[int]:
    found = []
    address = rt.memory.u64(rt.allm)
    while address:
        found.append(address)
        address = rt.m(address).alllink
    return found
