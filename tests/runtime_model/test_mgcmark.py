"""The GC's stack scan: suspendG, scanstack, resumeG; scang in 1.13.

Order of steps and statuses: preempt.go (suspendG, resumeG), mgcmark.go (markroot, scanstack),
proc.go (preemptPark, ready); of 1.13 proc.go (scang) and stack.go (newstack).
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
from small_runtime import Stopped, stopped

from emulator.events import SignalSent
from runtime_model import mgc, mheap
from runtime_model.events import (
    Entered,
    Resumed,
    ScanRequested,
    StackScanned,
    StatusChanged,
)
from runtime_model.panic import Throw
from runtime_model.policy import Policy
from runtime_model.runtime2 import (
    _Gpreempted,
    _Grunnable,
    _Grunning,
    _Gscan,
    _Gwaiting,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from emulator.events import Event

CALLS = """
#include "textflag.h"

TEXT main·main(SB), 0, $16-0
	MOVQ	$12000, 0(SP)
loop:
	CALL	main·f(SB)
	DECQ	0(SP)
	JNE	loop
	RET

TEXT main·f(SB), 0, $200-0
	RET
"""

PATH = {
    "suspendG", "scang", "signalM", "preemptPark", "newstack", "scanstack", "xRegScan", "resumeG",
    "ready", "gopreempt_m", "shrinkstack",
}  # fmt: skip


def scanned(at: Stopped) -> list[Event]:
    """The events of one scan of all stacks, from the request at this boundary on."""
    rt = at.rt
    at.events.clear()
    mgc.gcStart(rt)
    worker = rt.machine.threads[rt.m(rt.gcworker_m).procid]
    worker.time = max(worker.time, rt.machine.now)
    with rt.acting(worker):
        mgc.gcDrain(rt)
    for _ in range(200):
        if mgc.worker(rt).cycles:
            break
        at.go_on(500)
    assert mgc.worker(rt).cycles == 1
    return list(at.events)


def steps(events: Iterable[Event], goid: int) -> list[str | tuple[int, int]]:
    """Functions of PATH and the goroutine's changes of status, repeated rounds left out."""
    found: list[str | tuple[int, int]] = []
    for event in events:
        step: str | tuple[int, int] | None = None
        if isinstance(event, Entered) and event.function in PATH:
            step = event.function
        elif isinstance(event, StatusChanged) and event.goid == goid:
            step = (event.old, event.new)
        if step is not None and (not found or found[-1] != step):
            found.append(step)
    return found


ASKED = [(_Grunning, _Gscan | _Grunning), (_Gscan | _Grunning, _Grunning)]
PARKED = ["preemptPark", (_Grunning, _Gscan | _Gpreempted), (_Gscan | _Gpreempted, _Gpreempted)]
TAKEN = ["suspendG", (_Gpreempted, _Gwaiting), (_Gwaiting, _Gscan | _Gwaiting), "scanstack"]
GIVEN_BACK = [
    "resumeG", (_Gscan | _Gwaiting, _Gwaiting), "ready", (_Gwaiting, _Grunnable),
    (_Grunnable, _Grunning),
]  # fmt: skip


@pytest.mark.parametrize(("go", "xregs"), [("1.14", []), ("1.22", []), ("1.27", ["xRegScan"])])
def test_a_running_goroutine_is_stopped_by_a_signal_scanned_and_resumed(
    go: str, xregs: list[str]
) -> None:
    at = stopped(go=go, gc=True)
    gp, pc = at.gp, at.thread.registers["RIP"]
    events = scanned(at)
    assert steps(events, gp.goid) == [
        "suspendG", *ASKED, "signalM", *PARKED, *TAKEN, *xregs, *GIVEN_BACK,
    ]  # fmt: skip
    scan = next(e for e in events if isinstance(e, StackScanned))
    # mcall returns to asyncPreempt2; the two last are scanned conservatively.
    assert scan.frames == (
        "runtime.asyncPreempt2", "runtime.asyncPreempt", "main.loop", "runtime.goexit",
    )  # fmt: skip
    assert scan.conservative == ("runtime.asyncPreempt", "main.loop")
    resumed = next(e for e in events if isinstance(e, Resumed))
    assert (resumed.pc, resumed.losses) == (pc, [])
    assert (gp.preemptStop, gp.preempt, gp.preemptShrink) == (0, 0, 1)
    assert gp.stackguard0 == gp.stack_lo + at.rt.stackGuard


@pytest.mark.parametrize("go", ["1.14", "1.22", "1.27"])
def test_without_signals_it_stops_at_a_stack_check(go: str) -> None:
    at = stopped(CALLS, 3, go=go, gc=True, stack=8192, policy=Policy(None, asyncpreemptoff=True))
    gp = at.gp
    events = scanned(at)
    assert steps(events, gp.goid) == [
        "suspendG", *ASKED, "newstack", *PARKED, *TAKEN, "shrinkstack", *GIVEN_BACK,
    ]  # fmt: skip
    scan = next(e for e in events if isinstance(e, StackScanned))
    assert scan.frames == ("main.f", "main.main", "runtime.goexit")
    assert scan.conservative == ()
    # At a stack check the maps are exact: less than a quarter was in use.
    assert gp.stack_hi - gp.stack_lo == 4096
    assert not [e for e in events if isinstance(e, SignalSent)]


def test_in_1_13_newstack_scans_and_the_goroutine_goes_on_at_once() -> None:
    at = stopped(CALLS, 3, go="1.13", gc=True, stack=8192)
    gp = at.gp
    events = scanned(at)
    assert steps(events, gp.goid) == [
        "scang", *ASKED, "newstack", (_Grunning, _Gwaiting), (_Gwaiting, _Gscan | _Gwaiting),
        "scanstack", "shrinkstack", (_Gscan | _Gwaiting, _Gwaiting), (_Gwaiting, _Grunning),
        "scang",
    ]  # fmt: skip
    assert (gp.gcscandone, gp.preemptscan, gp.preempt) == (1, 0, 0)
    assert gp.stack_hi - gp.stack_lo == 4096


@pytest.mark.parametrize("go", ["1.13", "1.22"])
def test_a_goroutine_that_does_not_run_is_scanned_where_it_is(go: str) -> None:
    at = stopped(CALLS, 3, go=go, gc=True, goroutines=2)
    waiting = next(g for g in map(at.rt.g, at.rt.goroutines) if g.atomicstatus == _Grunnable)
    events = scanned(at)
    found = steps(events, waiting.goid)
    name = "scang" if go == "1.13" else "suspendG"
    taken = found.index((_Grunnable, _Gscan | _Grunnable))
    assert found[taken - 1] == name
    assert found[taken + 1] == "scanstack"
    assert (_Gscan | _Grunnable, _Grunnable) in found[taken:]
    assert {e.goid for e in events if isinstance(e, StackScanned)} == {1, 2}


def test_a_target_that_cannot_stop_is_signalled_each_half_delay_at_most() -> None:
    # suspendG: nextPreemptM = now + yieldDelay/2, and a signal only for a new preemptGen.
    at = stopped(gc=True)
    at.mp.locks = 1
    rt = at.rt
    mgc.gcStart(rt)
    at.go_on(200_000)
    times = [e.time for e in at.of(ScanRequested) if e.signal]
    assert len(times) > 10
    assert all(b - a >= 5000 for a, b in itertools.pairwise(times))
    at.mp.locks = 0
    at.go_on(50_000)
    assert mgc.worker(rt).cycles == 1


def test_pointers_in_frames_and_in_arguments_are_found() -> None:
    text = """
#include "textflag.h"

TEXT main·main(SB), 0, $32-0
	MOVQ	$1, 24(SP)
	CALL	main·f(SB)
	RET

TEXT main·f(SB), NOSPLIT, $16-16
	MOVQ	$100000, 0(SP)
loop:
	DECQ	0(SP)
	JNE	loop
	RET
"""
    at = stopped(text, 20, gc=True)
    rt = at.rt
    rsp = at.thread.registers["RSP"]
    local, argument, callers = (mheap.mallocgc(rt, 64) for _ in range(3))
    dead = mheap.mallocgc(rt, 64)
    # f's frame: 16 bytes, BP, return PC; its arguments, then main's own words.
    rt.memory.put_u64(rsp + 8, local)
    rt.memory.put_u64(rsp + 32, argument + 63)
    rt.memory.put_u64(rsp + 32 + 16, callers)
    rt.memory.put_u64(rsp - 64, dead)
    scanned(at)
    assert [mheap.is_marked(rt, o) for o in (local, argument, callers, dead)] == [True] * 3 + [
        False
    ]


def test_a_word_is_a_pointer_if_it_leads_into_an_allocated_object() -> None:
    rt = stopped(gc=True).rt
    first = mheap.mallocgc(rt, 48)
    second = mheap.mallocgc(rt, 33)
    assert second == first + 64
    assert mheap.findObject(rt, first) == mheap.findObject(rt, first + 63) == first
    assert mheap.findObject(rt, second + 1) == second
    for nothing in (0, 64, first - 1, second + 64, mheap.ARENA + mheap.ARENA_SIZE):
        assert mheap.findObject(rt, nothing) == 0
    assert mheap.greyobject(rt, first)
    assert not mheap.greyobject(rt, first)
    mheap.clear_marks(rt)
    assert not mheap.is_marked(rt, first)


def test_scanstack_wants_the_scan_bit_and_a_goroutine_that_does_not_run() -> None:
    from runtime_model.mgcmark import scanstack

    at = stopped(gc=True)
    with at.rt.acting(at.thread):
        with pytest.raises(Throw, match="bad status"):
            scanstack(at.rt, at.gp)
        at.gp.atomicstatus = _Gscan | _Grunning
        with pytest.raises(Throw, match="goroutine not stopped"):
            scanstack(at.rt, at.gp)
