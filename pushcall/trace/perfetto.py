"""A recorded run for ui.perfetto.dev: the Trace Event Format, as JSON.

Specified in "Trace Event Format" (the document of Chrome's tracing). One track for each P, M and
goroutine; slices are what ran there, instants what happened, arrows lead from a request to preempt
to what came of it. Times are the machine's virtual ones, in microseconds as the format has them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from emulator.events import FrameBuilt, SignalSent, SystemCall
from pushcall.snippet.crash import place
from pushcall.snippet.event_json import event_json
from runtime_model.events import (
    PreemptRequested,
    PushedCall,
    Resumed,
    SafePointVerdict,
    StackChecked,
)

if TYPE_CHECKING:
    from emulator.events import Event
    from pushcall.trace.recorded import RecordedRun

_GROUPS: Final = {"P": 1, "M": 2, "G": 3}  # as processes
_NAMES: Final = {1: "P: processors of Go's scheduler", 2: "M: threads", 3: "G: goroutines"}
_TOLD: Final = (
    PreemptRequested, SignalSent, FrameBuilt, SafePointVerdict, PushedCall, Resumed, StackChecked,
    SystemCall,
)  # fmt: skip
_NS: Final = 1000  # in a microsecond


def document(run: RecordedRun) -> dict[str, Any]:
    """The trace."""
    slices = run.outcome.slices
    all_events = [marked.event for marked in run.events]
    numbers = {
        "P": sorted({piece.p for piece in slices}),
        "M": sorted({piece.m for piece in slices} | {e.m for e in all_events if _told(e)}),
        "G": sorted({piece.goid for piece in slices}),
    }  # fmt: skip
    events: list[dict[str, Any]] = []
    for group, pid in _GROUPS.items():
        events.append(_metadata("process_name", pid, 0, _NAMES[pid]))
        events += [_metadata("thread_name", pid, n + 1, f"{group}{n}") for n in numbers[group]]
    for piece in slices:
        for group, number, name in (
            ("P", piece.p, f"G{piece.goid}"),
            ("M", piece.m, f"G{piece.goid}"),
            ("G", piece.goid, f"on M{piece.m}, P{piece.p}"),
        ):
            events.append(
                {
                    "name": name,
                    "cat": "goroutine",
                    "ph": "X",
                    "ts": piece.start / _NS,
                    "dur": (piece.end - piece.start) / _NS,
                    "pid": _GROUPS[group],
                    "tid": number + 1,
                    "args": {"ended": piece.why or "still running"},
                }
            )
    events += _instants(run)
    return {
        "traceEvents": events,
        "displayTimeUnit": "ns",
        "otherData": {"go": str(run.rt.version), "engine": run.rt.machine.cpu.name},
    }


def _told(event: Event) -> bool:
    return isinstance(event, _TOLD) and event.m >= 0


def _metadata(kind: str, pid: int, tid: int, name: str) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": pid, "tid": tid, "args": {"name": name}}


def _instants(run: RecordedRun) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    asked: dict[int, int] = {}  # M -> the number of the request that it has not answered yet
    for number, marked in enumerate(run.events):
        event = marked.event
        if not _told(event):
            continue
        common = {"ts": event.time / _NS, "pid": _GROUPS["M"], "tid": event.m + 1}
        arguments = {key: value for key, value in event_json(event).items() if key != "event"}
        arguments["step"] = marked.step
        if event.pc:
            arguments["at"] = place(run.rt, event.pc).symbol
        name = _name(event)
        found.append({"name": name, "cat": "runtime", "ph": "i", "s": "t", **common,
                      "args": arguments})  # fmt: skip
        arrow = {"name": "preempt", "cat": "preemption", **common}
        if isinstance(event, PreemptRequested):
            asked[event.target_m] = number
            found.append({**arrow, "ph": "s", "id": number})
        elif isinstance(event, (PushedCall, StackChecked)) and event.m in asked:
            found.append({**arrow, "ph": "f", "bp": "e", "id": asked.pop(event.m)})
    started = {e["id"] for e in found if e["ph"] == "f"}
    return [e for e in found if e["ph"] != "s" or e["id"] in started]


def _name(event: Event) -> str:
    match event:
        case PreemptRequested():
            return f"preempt G{event.target_g}"
        case SafePointVerdict():
            return "safe point" if event.safe else f"refused: {event.reason}"
        case SystemCall():
            return event.name
        case PushedCall():
            return "pushCall"
        case _:
            return type(event).__name__
