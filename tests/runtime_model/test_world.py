"""Stopping the world, in the order of proc.go: stopTheWorldWithSema, gcstopm."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
from small_runtime import LOOP, Stopped, stopped

from runtime_model import mgc
from runtime_model.events import (
    Entered,
    Executing,
    PreemptRequested,
    SafePointFunction,
    WorldStopped,
)
from runtime_model.proc_world import EACH_P, STOP
from runtime_model.runtime2 import _Grunning, _Pgcstop, _Prunning

if TYPE_CHECKING:
    from emulator.events import Event

PATH = {
    "stopTheWorldWithSema", "preemptall", "preemptone", "signalM", "gcstopm",
    "startTheWorldWithSema",
}  # fmt: skip


def with_two_running(go: str) -> Stopped:
    """Two goroutines that run on two Ps, and the stopper's third."""
    at = stopped(LOOP, 30_000, go=go, gc=True, goroutines=2, procs=2)
    assert [g.atomicstatus for g in map(at.rt.g, at.rt.goroutines)] == [_Grunning, _Grunning]
    at.events.clear()
    return at


def path(events: list[Event]) -> list[str]:
    """The functions of PATH, and `stopped`."""
    return [
        e.function if isinstance(e, Entered) else "stopped"
        for e in events
        if isinstance(e, WorldStopped) or (isinstance(e, Entered) and e.function in PATH)
    ]


@pytest.mark.parametrize("go", ["1.22"])
def test_the_world_stops_and_starts(go: str) -> None:
    at = with_two_running(go)
    rt = at.rt
    mgc.worker(rt).world = STOP
    at.go_on(100_000)
    one = ["preemptone", "signalM"]
    # preemptall asks its own P, too, which refuses.
    assert path(at.events) == [
        "stopTheWorldWithSema", "preemptall", *one, *one, "preemptone",
        "gcstopm", "gcstopm", "stopped",
        "startTheWorldWithSema",
    ]  # fmt: skip
    events = at.events
    halt = next(i for i, e in enumerate(events) if isinstance(e, WorldStopped))
    start = next(i for i, e in enumerate(events)
                 if isinstance(e, Entered) and e.function == "startTheWorldWithSema")  # fmt: skip
    # Nothing is executed in a stopped world, and both go on behind.
    assert not [e for e in events[halt:start] if isinstance(e, Executing)]
    assert {e.goid for e in events[start:] if isinstance(e, Executing)} == {1, 2}
    assert rt.sched.gcwaiting == 0
    assert [rt.p(p).status for p in rt.allp] == [_Prunning] * 3


def test_who_does_not_stop_is_asked_again_each_100_microseconds() -> None:
    at = with_two_running("1.22")
    rt = at.rt
    at.mp.locks = 1
    mgc.worker(rt).world = STOP
    at.go_on(450_000)
    held = [e.time for e in at.of(PreemptRequested) if e.target_m == at.mp.id]
    assert len(held) > 3
    assert all(100_000 <= b - a < 120_000 for a, b in itertools.pairwise(held))
    assert at.of(WorldStopped) == []
    # The other P has been given up, and stays so.
    assert sorted(rt.p(p).status for p in rt.allp) == [_Prunning, _Pgcstop, _Pgcstop]
    at.mp.locks = 0
    at.go_on(200_000)
    assert len(at.of(WorldStopped)) == 1


@pytest.mark.parametrize("go", ["1.22"])
def test_a_function_is_run_on_every_p(go: str) -> None:
    # proc.go, forEachP: preemptall, idle Ps, its own, then the others in schedule.
    at = with_two_running(go)
    rt = at.rt
    mgc.worker(rt).world = EACH_P
    at.go_on(100_000)
    steps: list[str | int] = []
    for e in at.events:
        if isinstance(e, SafePointFunction):
            steps.append(e.p)
        elif isinstance(e, Entered) and e.function in {"forEachP", "preemptall", "runSafePointFn"}:
            steps.append(e.function)
    assert steps[:3] == ["forEachP", "preemptall", 2]
    assert steps[3::2] == ["runSafePointFn"] * 2
    assert sorted(int(p) for p in steps[4::2]) == [0, 1]
    assert len(steps) == 7
    assert (rt.sched.safePointWait, mgc.worker(rt).world) == (0, 0)


def test_for_each_p_asks_again_each_100_microseconds_and_idle_ps_are_served_at_once() -> None:
    at = stopped(LOOP, 30_000, gc=True, goroutines=1, procs=3)
    at.events.clear()
    at.mp.locks = 1
    mgc.worker(at.rt).world = EACH_P
    at.go_on(350_000)
    assert sorted(e.p for e in at.of(SafePointFunction)) == sorted(
        p for p in range(4) if p != at.pp.id
    )
    assert len(at.of(PreemptRequested)) > 2
    at.mp.locks = 0
    at.go_on(200_000)
    assert at.of(SafePointFunction)[-1].p == at.pp.id
