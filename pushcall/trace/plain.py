"""`pushcall trace --plain` and `--json`: a recorded run as text and as a document.

One line an instruction with the registers that it changed, the events between, the stacks before
and after pushCall. Without bounds the window is the first preemption: from the request to the
resumed instruction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from emulator import extended
from emulator.registers import GENERAL, XMM
from pushcall.snippet.crash import place
from pushcall.snippet.event_json import event_json
from pushcall.snippet.text import actor, describe
from pushcall.usage import UsageError
from runtime_model.booted import Booted
from runtime_model.events import Entered, PreemptRequested, Resumed, StackChecked

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from emulator.events import Event
    from pushcall.trace.recorded import RecordedRun

BEFORE: Final = 8  # lines shown ahead of the request to preempt
AFTER: Final = 4  # instructions behind the resumed one

UNSHOWN: Final = frozenset({"RIP", "FS_BASE", "GS_BASE"})
_NUMBERS: Final = (*GENERAL, "RIP", "RFLAGS")


@dataclass(frozen=True)
class Shown:
    """What is to be shown: steps `first` to `last`, both included; None: the default window."""

    first: int | None = None
    last: int | None = None
    only_events: bool = False
    registers: bool = False


def lines(run: RecordedRun, shown: Shown) -> Iterator[str]:
    """The trace as text."""
    if shown.first is None and shown.last is None:
        return _first_preemption(run, shown)
    first, last = bounds(run, shown)
    return (line for step in range(first, last + 1) for line in _step(run, step, shown))


def bounds(run: RecordedRun, shown: Shown) -> tuple[int, int]:
    """The first and last step asked for; UsageError where there is none."""
    first = shown.first or 0
    last = len(run) if shown.last is None else min(shown.last, len(run))
    if first > len(run):
        raise UsageError(f"--from {first}: the recorded run ends at {len(run)}")
    return first, last


def _first_preemption(run: RecordedRun, shown: Shown) -> Iterator[str]:
    asked = next((m.step for m in run.events if isinstance(m.event, PreemptRequested)), None)
    start = len(run) if asked is None else asked
    ahead: list[str] = []
    for step in range(max(0, start - BEFORE), start):
        ahead += _step(run, step, shown)
    body: list[str] = []
    events = run.events_at(start)
    index = next((i for i, e in enumerate(events) if isinstance(e, PreemptRequested)), len(events))
    ahead += _events(run, start, events[:index], shown)
    yield from ahead[-BEFORE:]
    if asked is None:
        return
    body += _events(run, start, events[index:], shown)
    left = _ends(events[index:])
    for step in range(start, len(run)):
        if step > start:
            body += _events(run, step, run.events_at(step), shown)
            left = left or _ends(run.events_at(step))
        body += _instruction(run, step, shown)
        if left:
            left -= 1
            if not left:
                break
    yield from body


def _ends(events: Iterable[Event]) -> int:
    """How many instructions are shown behind these events, if they end the preemption."""
    return AFTER * any(
        isinstance(e, Resumed) or (isinstance(e, StackChecked) and e.preempt) for e in events
    )


def _step(run: RecordedRun, step: int, shown: Shown) -> list[str]:
    text = _events(run, step, run.events_at(step), shown)
    return text + (_instruction(run, step, shown) if step < len(run) else [])


def _events(run: RecordedRun, step: int, events: Sequence[Event], shown: Shown) -> list[str]:
    head = f"{step:>8} " if shown.only_events else " " * 9
    return [
        f"{head}│ {actor(event):<10} {line}"
        for event in events
        if not isinstance(event, Entered)  # the instructions say where they are
        for line in describe(run.rt, event)
    ]


def _instruction(run: RecordedRun, step: int, shown: Shown) -> list[str]:
    if shown.only_events:
        return []
    line = instruction_line(run, step)
    return [*_registers(run, step), line] if shown.registers else [line]


def instruction_line(run: RecordedRun, step: int) -> str:
    """A step in one line: who, where, what, and the registers that it changes."""
    before, after = run.registers(step), run.behind(step)
    at = place(run.rt, before["RIP"])
    changes = " ".join(
        f"{name}={after[name]:#x}" for name in before.diff(after) if name not in UNSHOWN
    )
    head = f"{step:>8} │ {run.who_behind(step).actor:<10} {at.pc:#x} {at.symbol:<28}"
    if isinstance(run.rt, Booted):  # the source is Go, and the instruction says nothing of it
        head += f" {at.position:<22}"
    return f"{head} {at.source:<32} {changes}".rstrip()


def _registers(run: RecordedRun, step: int) -> list[str]:
    """All registers before an instruction; of the vectors those that are not zero."""
    registers = run.registers(step)
    cells = [f"{name:<6} {registers[name]:016x}" for name in _NUMBERS]
    rows = ["  ".join(cells[i : i + 6]) for i in range(0, len(cells), 6)]
    rows += [f"{name:<6} {registers[name]:032x}" for name in XMM if registers[name]]
    rows += [f"{name:<6} {registers[name]:x}" for name in extended.shown(registers.extended)]
    return [f"{'':>9}│   {row}" for row in rows]


def to_json(run: RecordedRun, shown: Shown) -> dict[str, Any]:
    """The document of `pushcall trace --json`: every event with its step."""
    first, last = bounds(run, shown)
    document = {
        "schema": "pushcall.trace/1",
        "go": str(run.rt.version),
        "steps": len(run),
        "cut": run.cut,
        "from": first,
        "to": last,
        "events": [
            {"step": marked.step, **event_json(marked.event)}
            for marked in run.events
            if first <= marked.step <= last
        ],
    }
    return document | ({"interrupted": True} if run.outcome.interrupted else {})
