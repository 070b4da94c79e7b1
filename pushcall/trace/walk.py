"""Ways through a recorded run: by instruction, over calls, by event, by preemption; both ways.

Each function takes a step and returns another; at the ends of the run they stay where they are.
"""

from __future__ import annotations

import bisect
import re
from typing import TYPE_CHECKING

from emulator.events import FrameBuilt, SignalReturned, SystemCall
from emulator.registers import LAYOUT
from pushcall.snippet.run import resolve_in
from pushcall.trace import slots
from pushcall.trace.code import instruction, is_call, is_return
from pushcall.usage import UsageError
from runtime_model.events import PushedCall
from runtime_model.runtime2 import G

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from emulator.events import Event
    from pushcall.trace.recorded import RecordedRun, Span, Writer


def forward(run: RecordedRun, at: int) -> int:
    """Behind one instruction."""
    return min(at + 1, len(run))


def back(run: RecordedRun, at: int) -> int:  # noqa: ARG001  # as the others
    """Before the instruction executed last."""
    return max(at - 1, 0)


def over(run: RecordedRun, at: int) -> int:
    """The same goroutine's next instruction, a call taken as one; signal handlers are passed by."""
    if at >= len(run):
        return at
    found = instruction(run.rt, run.pc(at))
    if found is not None and is_call(found):
        same, depth = _same(run.who(at)), _depth(run, at)
        to = run.recording.find(found.end, at + 1)
        while to is not None:
            if same(run.who(to)) and _depth(run, to) == depth:
                return to
            to = run.recording.find(found.end, to + 1)
    following = _next_same(run, at)
    return len(run) if following is None else following


def back_over(run: RecordedRun, at: int) -> int:
    """The same goroutine's instruction before; behind a return, the call that it returned to."""
    before = _last_same(run, at)
    if before is None:
        return 0
    if at < len(run) and is_return(instruction(run.rt, run.pc(before))):
        call = _calling(run, run.pc(at))
        same, depth = _same(run.who(at)), _depth(run, at)
        to = run.recording.find(call, before, back=True) if call is not None else None
        while call is not None and to is not None:
            if same(run.who(to)) and _depth(run, to) == depth:
                return to
            to = run.recording.find(call, to, back=True)
    return before


def next_event(run: RecordedRun, at: int) -> int:
    """The next boundary at which something happened."""
    return _next(run.stops, at, len(run))


def last_event(run: RecordedRun, at: int) -> int:
    """The last one before."""
    return _last(run.stops, at)


def next_preemption(run: RecordedRun, at: int) -> int:
    """The next boundary at which pushCall, or a stack check, took a goroutine off its way."""
    return _next(run.preemptions, at, at)


def last_preemption(run: RecordedRun, at: int) -> int:
    """The last one before; without one, where we are."""
    index = bisect.bisect_left(run.preemptions, at) - 1
    return run.preemptions[index] if index >= 0 else at


def of_goroutine(run: RecordedRun, at: int, goid: int, *, backwards: bool = False) -> int | None:
    """The next step that a goroutine executes, or the last before."""
    for span in run.spans_of(at, lambda span: span.g == goid, back=backwards):
        if backwards and span.start < at:
            return min(at, span.end) - 1
        if not backwards and span.end > at + 1:
            return max(at + 1, span.start)
    return None


def search(run: RecordedRun, at: int, text: str, *, backwards: bool = False) -> int | None:
    """The next step that executes SYMBOL, SYMBOL+OFFSET or 0xADDRESS, or the last before.

    Symbols are those of the file and of the runtime. UsageError for what is none.
    """
    pc = resolve_in(run.rt, text)
    return run.recording.find(pc, at if backwards else min(at + 1, len(run)), back=backwards)


def who_wrote(
    run: RecordedRun, at: int, text: str, goid: int | None = None
) -> tuple[str, Writer | None]:
    """(what was meant, who wrote it last) of a register, 0xADDRESS, SYMBOL, SP or SP+OFFSET.

    SP is the pointer of the stack that is shown: `goid`'s, or the running one's.
    """
    name = text.upper()
    if f"R{name}" in LAYOUT and name != "SP":
        name = f"R{name}"
    try:
        run.registers(at)[name]
    except KeyError:
        pass
    else:
        return name, run.wrote_register(at, name)
    offset = re.fullmatch(r"SP(?:\+(?:0x([0-9a-f]+)|([0-9]+)))?", text, re.IGNORECASE)
    if offset is not None:
        distance = int(offset[1], 16) if offset[1] else int(offset[2] or 0)
        address = slots.pointer(run, at, goid)[1] + distance
    else:
        address = resolve_in(run.rt, text)
    return f"{address:#x}", run.wrote_memory(at, address)


def telling(run: RecordedRun, step: int) -> Event | None:
    """The event before a step that says most about who changed something there."""
    found = run.events_at(step)
    order = (PushedCall, SignalReturned, FrameBuilt, SystemCall)
    for kind in order:
        for event in found:
            if isinstance(event, kind):
                return event
    return found[0] if found else None


def number(run: RecordedRun, text: str) -> int:
    """The step of that number."""
    try:
        step = int(text.replace(",", "").replace("_", ""), 0)
    except ValueError:
        raise UsageError(f"{text}: not a number") from None
    if not 0 <= step <= len(run):
        raise UsageError(f"{text}: the run has steps 0 to {len(run)}")
    return step


def _next(steps: Sequence[int], at: int, otherwise: int) -> int:
    index = bisect.bisect_right(steps, at)
    return steps[index] if index < len(steps) else otherwise


def _last(steps: Sequence[int], at: int) -> int:
    index = bisect.bisect_left(steps, at) - 1
    return steps[index] if index >= 0 else 0


def _same(who: Span) -> Callable[[Span], bool]:
    if who.g > 0:
        return lambda span: span.g == who.g
    return lambda span: (span.tid, span.g) == (who.tid, who.g)


def _depth(run: RecordedRun, step: int) -> int:
    """How deep the stack is; a goroutine's may lie elsewhere when the call returns."""
    rt, rsp, goid = run.rt, run.registers(step)["RSP"], run.who(step).g
    address = run.goroutines.get(goid)
    if address is None:
        return -rsp
    return G(run.memory(step), rt.layout, address).stack_hi - rsp


def _next_same(run: RecordedRun, at: int) -> int | None:
    handling = run.interrupted(at, run.who(at).m) is not None
    step = at + 1
    for span in run.spans_of(at, _same(run.who(at)), back=False):
        step = max(step, span.start)
        while step < span.end:
            if (run.interrupted(step, span.m) is not None) == handling:
                return step
            step = run.frame_change(step, span.m, span.end)
    return None


def _last_same(run: RecordedRun, at: int) -> int | None:
    handling = run.interrupted(at, run.who(at).m) is not None
    step = at - 1
    for span in run.spans_of(at, _same(run.who(at)), back=True):
        step = min(step, span.end - 1)
        while step >= span.start:
            if (run.interrupted(step, span.m) is not None) == handling:
                return step
            step = run.frame_change(step, span.m, span.start, back=True)
    return None


def _calling(run: RecordedRun, pc: int) -> int | None:
    """The address of the CALL that returns to pc."""
    for image in (run.rt.user, run.rt.text):
        function = image.findfunc(pc - 1)
        if function is not None:
            found = function.instruction_holding(pc - 1)
            return found.address if found is not None and is_call(found) else None
    return None
