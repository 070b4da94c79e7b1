"""Who asks for a preemption, and what follows: examples/origins, in the order of Go's sources.

Each test names the functions of Go's runtime that it follows; versions agree unless it says so.
"""

from __future__ import annotations

import functools
import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pushcall.snippet import run as running
from pushcall.snippet.injection import parse
from pushcall.snippet.program import Options, load
from pushcall.trace.recorded import record
from runtime_model.events import (
    Descheduled,
    Entered,
    Executing,
    ExitedSyscall,
    HandedOff,
    PreemptRequested,
    PushedCall,
    Resumed,
    SafePointFunction,
    ScanRequested,
    StackChecked,
    StackCopied,
    StackScanned,
    StatusChanged,
    WorldStopped,
)
from runtime_model.runtime2 import status_name

if TYPE_CHECKING:
    from emulator.events import Event
    from pushcall.snippet.run import Outcome

ORIGINS = Path(__file__).parents[2] / "examples" / "origins"
NEW = ["1.14", "1.27"]


@functools.cache
def outcome(name: str, variant: str | None = None, **options: str) -> Outcome:
    program = load(ORIGINS / f"{name}.s", Options(variant=variant, **options))  # type: ignore[arg-type]
    _, out = running.run(program, keep_events=True)
    assert not out.failed
    return out


def path(events: list[Event], *names: str) -> list[str]:
    """What was entered of these functions, and events under the names that `_told` gives them."""
    told = [_told(event) for event in events]
    return [text for text in told if text.split()[0] in names]


def _told(event: Event) -> str:
    match event:
        case Entered():
            return event.function
        case StatusChanged():
            return f"status {status_name(event.old)} {status_name(event.new)}"
        case StackChecked():
            return f"checked {event.decision}"
        case Descheduled():
            return f"left {event.why}"
        case WorldStopped():
            return "stopped"
        case SafePointFunction():
            return f"done P{event.p}"
        case HandedOff():
            return "handed-off"
        case _:
            return type(event).__name__


@pytest.mark.parametrize("go", NEW)
def test_stop_the_world(go: str) -> None:
    # proc.go: stopTheWorldWithSema (preemptall, then the wait), gcstopm, startTheWorldWithSema.
    events = outcome("stop_the_world", "at-once", go=go).events
    names = ("stopTheWorldWithSema", "preemptall", "signalM", "gcstopm", "stopped",
             "startTheWorldWithSema")  # fmt: skip
    assert path(events, *names) == [
        "stopTheWorldWithSema", "preemptall", "signalM", "signalM", "gcstopm", "gcstopm", "stopped",
        "startTheWorldWithSema",
    ]  # fmt: skip


def test_a_world_that_does_not_stop_is_asked_again_each_100_us() -> None:
    # proc.go, stopTheWorldWithSema: notetsleep(&sched.stopnote, 100*1000), else preemptall.
    events = outcome("stop_the_world", "repeated").events
    asked = [e for e in events if isinstance(e, PreemptRequested)]
    stubborn = [e.time for e in asked if e.target_g == asked[-1].target_g]
    assert len(stubborn) >= 3
    assert all(100_000 <= b - a < 120_000 for a, b in itertools.pairwise(stubborn))
    stopped = next(e.time for e in events if isinstance(e, WorldStopped))
    assert stubborn[-1] < stopped


@pytest.mark.parametrize("go", NEW)
def test_a_function_on_every_p(go: str) -> None:
    # proc.go: forEachP asks all, does idle Ps and its own, waits; schedule runs runSafePointFn.
    events = outcome("each_p", go=go).events
    steps = path(events, "forEachP", "preemptall", "done", "runSafePointFn")
    assert steps[:2] == ["forEachP", "preemptall"]
    done = [step for step in steps if step.startswith("done")]
    assert sorted(done) == ["done P0", "done P1", "done P2", "done P3"]
    assert done[1] == "done P3"  # its own, the mark worker's, behind the idle one
    assert steps[4:] == ["runSafePointFn", done[2], "runSafePointFn", done[3]]


@pytest.mark.parametrize("go", NEW)
def test_the_stack_scan(go: str) -> None:
    # preempt.go: suspendG, asyncPreempt2, resumeG; proc.go: preemptPark; mgcmark.go: scanstack.
    events = outcome("stack_scan", go=go).events
    first = next(i for i, e in enumerate(events) if isinstance(e, ScanRequested))
    steps = path(events[first:], "ScanRequested", "signalM", "PushedCall", "preemptPark", "status",
                 "left", "scanstack", "StackScanned", "resumeG", "ready", "Resumed")  # fmt: skip
    parked, scanning = "_Gscan|_Gpreempted", "_Gscan|_Gwaiting"
    assert steps[: steps.index("Resumed") + 1] == [
        "ScanRequested", "signalM", "PushedCall",
        "preemptPark", f"status _Grunning {parked}", "left parked", f"status {parked} _Gpreempted",
        "status _Gpreempted _Gwaiting", f"status _Gwaiting {scanning}",
        "scanstack", "StackScanned",
        "resumeG", f"status {scanning} _Gwaiting", "ready", "status _Gwaiting _Grunnable",
        "status _Grunnable _Grunning", "Resumed",
    ]  # fmt: skip
    (scanned,) = [e for e in events if isinstance(e, StackScanned)]
    assert scanned.frames[-3:] == ("runtime.asyncPreempt", "main.main", "runtime.goexit")
    assert scanned.conservative == ("runtime.asyncPreempt", "main.main")


@pytest.mark.parametrize("go", NEW)
def test_sysmon_and_who_runs_too_long(go: str) -> None:
    # proc.go: sysmon, retake, preemptone; signal_unix.go: preemptM, doSigPreempt.
    events = outcome("retake", go=go).events
    asked = next(i for i, e in enumerate(events) if isinstance(e, PreemptRequested))
    assert path(events[asked - 3 : asked], "sysmon", "retake", "preemptone")[-2:] == [
        "retake", "preemptone",
    ]  # fmt: skip
    assert path(events[asked:], "signalM", "tgkill", "sigtrampgo", "doSigPreempt", "PushedCall",
                "gopreempt_m", "goschedImpl", "status", "left", "globrunqput", "schedule",
                "execute")[:12] == [
        "signalM", "tgkill", "sigtrampgo", "doSigPreempt", "PushedCall",
        "gopreempt_m", "goschedImpl", "status _Grunning _Grunnable", "left preempted",
        "globrunqput", "schedule", "execute",
    ]  # fmt: skip


@pytest.mark.parametrize("go", ["1.13", "1.25", "1.26", "1.27"])
def test_a_p_in_a_system_call_is_handed_off(go: str) -> None:
    # proc.go: reentersyscall, retake, handoffp, startm; exitsyscall, exitsyscall0 (exitsyscallNoP).
    out = outcome("retake_syscall", go=go)
    events = out.events
    began = next(i for i, e in enumerate(events) if _told(e) == "entersyscall")
    # Since 1.26 the goroutine is running again before it looks for a P.
    old = go not in {"1.26", "1.27"}
    back = ["exitsyscallfast", "exitsyscall0", "status _Gsyscall _Grunnable"]
    new_back = ["status _Gsyscall _Grunning", "exitsyscallTryGetP", "exitsyscallNoP",
                "status _Grunning _Grunnable"]  # fmt: skip
    names = ("entersyscall", "handoffp", "handed-off", "clone", *back, *new_back,
             "status", "globrunqput", "mPark", "Executing", "left")  # fmt: skip
    steps = [s for s, t in itertools.groupby(path(events[began:], *names))]  # clone: both threads
    assert steps == [
        "entersyscall", "status _Grunning _Gsyscall",
        "handoffp", "handed-off", "clone", "status _Grunnable _Grunning", "Executing",
        *(back if old else new_back), "globrunqput", "mPark",
        "status _Grunning _Gdead", "left exited",
        "status _Grunnable _Grunning", "Executing", "status _Grunning _Gdead", "left exited",
    ]  # fmt: skip
    assert out.signals == 0  # a goroutine in the kernel is not asked: its P is taken
    assert not any(isinstance(e, ExitedSyscall) for e in events)


def test_a_p_that_nobody_waits_for_stays_with_its_system_call() -> None:
    # proc.go, retake: runqempty, a P or M idle, and less than 10 ms in the call.
    out = outcome("retake_syscall", go="1.22")
    program = load(ORIGINS / "retake_syscall.s", Options(goroutines=1, procs=2))
    _, alone = running.run(program, keep_events=True)
    assert any(isinstance(e, HandedOff) for e in out.events)
    assert not any(isinstance(e, HandedOff) for e in alone.events)
    assert [e.p for e in alone.events if isinstance(e, ExitedSyscall)] == [0]


@pytest.mark.parametrize("go", NEW)
def test_the_pacer_enlists_a_second_worker(go: str) -> None:
    # mgcpacer.go: enlistWorker, findRunnableGCWorker, first in findRunnable (proc.go); mgc.go:
    # gcBgMarkWorker marks and parks.
    events = outcome("enlist_worker", go=go).events
    asked = next(i for i, e in enumerate(events) if _told(e) == "enlistWorker")
    worker = 5  # the goroutine behind the program's four
    told = [e for e in events[asked:] if not isinstance(e, StatusChanged) or e.goid == worker]
    steps = path(told, "enlistWorker", "preemptone", "signalM", "PushedCall", "findRunnable",
                 "findRunnableGCWorker", "status", "wakep", "execute")  # fmt: skip
    first = [s for s, _ in itertools.groupby(steps) if s != "signalM"]
    assert first[: first.index("execute") + 1] == [
        "enlistWorker", "preemptone", "PushedCall",
        "findRunnable", "findRunnableGCWorker", "status _Gwaiting _Grunnable", "wakep", "execute",
    ]  # fmt: skip
    # Each stack is scanned once, by one of the two, and the second worker parks.
    scanned = [(e.goid, e.g == worker) for e in events if isinstance(e, StackScanned)]
    assert sorted(goid for goid, _ in scanned) == [1, 2, 3, 4]
    assert {by for _, by in scanned} == {False, True}
    assert [e.why for e in events if isinstance(e, Descheduled) and e.goid == worker] == ["parked"]


@pytest.mark.parametrize("go", NEW)
def test_a_panic_freezes_the_world(go: str) -> None:
    # panic.go: startpanic_m; proc.go: freezetheworld, up to five preemptalls and one more, 1 ms
    # between; gcstopm on who is asked.
    out = outcome("panic", "stops", go=go)
    died = path(out.events, "startpanic_m", "freezetheworld", "preemptall", "PreemptRequested",
                "gcstopm")  # fmt: skip
    # An inner call is told again when it returns: each function once, by what it asks.
    assert [s for s in died if s != "freezetheworld"] == [
        "startpanic_m", "preemptall", "PreemptRequested", "gcstopm", "preemptall", "preemptall",
    ]  # fmt: skip
    assert out.crash is not None
    assert out.crash.where is not None
    assert out.crash.where.source == "MOVQ (AX), AX"
    # No goroutine was executed in the frozen world.
    frozen = next(i for i, e in enumerate(out.events) if _told(e) == "gcstopm")
    assert not any(isinstance(e, Executing) for e in out.events[frozen:])


def test_a_panic_does_not_wait_for_who_never_stops() -> None:
    # proc.go, freezetheworld: preemptall and usleep(1000) five times; usleep, preemptall, usleep.
    out = outcome("panic", "never-stops")
    times = [e.time for e in out.events if isinstance(e, PreemptRequested)]
    gaps = [(b - a) // 100_000 for a, b in itertools.pairwise(times)]
    assert gaps == [10, 10, 10, 10, 20]
    assert out.events[-1].time - times[-1] + 100_000 >= 1_000_000


@pytest.mark.parametrize(
    ("variant", "go", "decision"),
    [
        ("gives-way-1.13", None, "gopreempt_m"),
        ("gives-way", "1.14", "gopreempt_m"),
        ("gives-way", "1.27", "gopreempt_m"),
        ("parks", "1.14", "preemptPark"),
        ("parks", "1.27", "preemptPark"),
        ("not-now", "1.22", "not now"),
    ],
)
def test_newstack_decides(variant: str, go: str | None, decision: str) -> None:
    # stack.go, newstack: canPreemptM, preemptStop, preemptPark, gopreempt_m.
    events = outcome("newstack", variant, **({"go": go} if go else {})).events
    checked = next(i for i, e in enumerate(events) if isinstance(e, StackChecked))
    names = ("newstack", "checked", "preemptPark", "gopreempt_m", "left", "gogo", "status")
    steps = path(events[checked - 1 :], *names)
    assert steps[:2] == ["newstack", f"checked {decision}"]
    if decision == "not now":
        assert steps[2] == "gogo"  # back to the function, without a change of status
    elif variant == "gives-way-1.13":
        assert steps[2:5] == [
            "status _Grunning _Gwaiting", "status _Gwaiting _Grunning", "gopreempt_m",
        ]  # fmt: skip
    else:
        assert steps[2] == decision


def test_in_1_13_newstack_scans_the_stack_itself() -> None:
    # stack.go of 1.13, newstack: preemptscan, gcscandone, scanstack, and the goroutine goes on.
    events = outcome("newstack", "scans-itself-1.13").events
    checked = next(i for i, e in enumerate(events) if isinstance(e, StackChecked))
    steps = path(events[checked:], "checked", "status", "scanstack", "StackScanned", "left", "gogo")
    scanning = "_Gscan|_Gwaiting"
    assert steps[:8] == [
        "checked gopreempt_m", "status _Grunning _Gwaiting", f"status _Gwaiting {scanning}",
        "scanstack", "StackScanned", f"status {scanning} _Gwaiting", "status _Gwaiting _Grunning",
        "gogo",
    ]  # fmt: skip


def test_newstack_grows_a_stack() -> None:
    # stack.go, newstack and copystack: _Gcopystack around the copy, then gogo to the function.
    events = outcome("newstack", "grows").events
    checked = next(i for i, e in enumerate(events) if isinstance(e, StackChecked))
    assert path(events[checked:], "checked", "status", "StackCopied", "gogo")[:5] == [
        "checked copystack", "status _Grunning _Gcopystack", "StackCopied",
        "status _Gcopystack _Grunning", "gogo",
    ]  # fmt: skip
    (copied,) = [e for e in events if isinstance(e, StackCopied)]
    # The callee's frame of 4 KiB needs 8: since 1.17 what is in use counts, not the old size.
    assert (copied.old_hi - copied.old_lo, copied.new_hi - copied.new_lo) == (2048, 8192)


@pytest.mark.parametrize(
    ("name", "variant", "kind"),
    [
        ("stack_scan", None, StackScanned),
        ("retake_syscall", None, HandedOff),
    ],
)
def test_an_example_can_be_traced(name: str, variant: str | None, kind: type[Event]) -> None:
    program = load(ORIGINS / f"{name}.s", Options(variant=variant))
    run = record(program, limit=200_000)
    assert any(isinstance(marked.event, (kind, Resumed, PushedCall)) for marked in run.events)
    assert any(isinstance(marked.event, kind) for marked in run.events)


@pytest.mark.parametrize("go", ["1.25", "1.27"])
@pytest.mark.parametrize(("what", "kind"), [("stop", WorldStopped), ("each", SafePointFunction)])
def test_a_p_in_a_system_call_is_taken_without_a_signal(
    go: str, what: str, kind: type[Event]
) -> None:
    # proc.go: stopTheWorldWithSema takes it (_Psyscall; since 1.26 setBlockOnExitSyscall), forEachP
    # hands it off, and handoffp runs the function.
    program = load(ORIGINS / "retake_syscall.s", Options(go=go, goroutines=1))
    rt, out = running.run(program, parse({"schedule": f"8:{what}"})[1], keep_events=True)
    assert out.status == 0
    assert out.signals == 0
    # Who waits clears the note, else the next one would not wait: notetsleep, noteclear.
    for note in ("stopnote", "safePointNote"):
        assert rt.memory.u32(rt.sched.field_address(note)) == 0
    entered = next(i for i, e in enumerate(out.events) if _told(e) == "entersyscall")
    back = next(i for i, e in enumerate(out.events) if isinstance(e, ExitedSyscall))
    done = [i for i, e in enumerate(out.events) if isinstance(e, kind)]
    assert done
    assert all(entered < i < back for i in done)
    if kind is SafePointFunction:
        assert sorted(e.p for e in out.events if isinstance(e, SafePointFunction)) == [0, 1]
