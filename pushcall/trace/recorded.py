"""A run recorded whole: what every view of a trace asks.

Step k is the k-th instruction of the run, over all threads, and also the boundary before it: its
registers, memory and events are those of that boundary. The last boundary is behind the last
instruction and has the number `len(run)`.
"""

from __future__ import annotations

import bisect
import dataclasses
import heapq
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from emulator.events import FrameBuilt, SignalReturned
from emulator.memory import UnmappedError
from emulator.run_log import Marked, RunLog
from pushcall.snippet import run as running
from pushcall.usage import UsageError
from runtime_model.events import Entered, PushedCall, StackChecked
from runtime_model.runtime import Runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from emulator.events import Event
    from emulator.history import PastMemory
    from emulator.registers import Registers
    from pushcall.snippet.crash import Running
    from pushcall.snippet.injection import Injection
    from pushcall.snippet.program import Program
    from pushcall.snippet.run import Outcome

LIMIT: Final = 1_000_000  # steps, unless asked for more: 50 to 100 bytes each


@dataclass(frozen=True, slots=True)
class Span:
    """Steps `[start, end)` that one thread executes with one g; m and g as events name them."""

    start: int
    end: int
    tid: int
    m: int
    g: int

    @property
    def actor(self) -> str:
        """M and g in words."""
        if self.m < 0:
            return ""
        return f"M{self.m} { {0: 'g0', -1: 'gsignal'}.get(self.g, f'G{self.g}') }"


@dataclass(frozen=True, slots=True)
class Writer:
    """Who changed something last: the instruction of a step, or else what came before that step."""

    step: int
    by_instruction: bool


class RecordedRun:
    """One run of a program under its timers, with everything that it passed through.

    Of an executable it is one window of the run. `goroutines` are the addresses of all g, by goid;
    of an executable those that ran.
    """

    def __init__(self, rt: Running, outcome: Outcome, log: RunLog, limit: int) -> None:
        self.rt = rt
        self.outcome = outcome
        self.refused = ""  # why the preemption asked for was not made, of an executable
        self.log = log
        self.cut = outcome.starved and len(log.recording) >= limit  # there would be more
        self.recording = log.recording
        self.memory = lru_cache(maxsize=16)(self._memory)
        self.events: list[Marked] = log.events
        self.goroutines: dict[int, int] = {}
        if isinstance(rt, Runtime):
            self.goroutines = {rt.g(address).goid: address for address in rt.goroutines}
        self.spans = self._make_spans()
        self._span_starts = [span.start for span in self.spans]
        self._event_steps = [marked.step for marked in self.events]
        told = {m.step for m in self.events if not isinstance(m.event, Entered)}
        self.stops = sorted(told)  # steps before which an event came that says more than Entered
        self.preemptions = sorted(
            {
                m.step
                for m in self.events
                if isinstance(m.event, PushedCall)
                or (isinstance(m.event, StackChecked) and m.event.preempt)
            }
        )
        pushed = [m.event for m in self.events if isinstance(m.event, PushedCall)]
        self.pushed = {(event.rsp_after, event.resume) for event in pushed}
        self._frames = self._signal_frames()

    def __len__(self) -> int:
        return len(self.recording)

    # The state at a step.

    def registers(self, step: int) -> Registers:
        """The registers before the instruction."""
        return self.recording.registers(step)

    def behind(self, step: int) -> Registers:
        """The registers behind the instruction, before the kernel or the runtime changes them."""
        return self.log.behind(step)

    def _memory(self, step: int) -> PastMemory:
        return self.log.history.at(self.recording.records(step))

    def pc(self, step: int) -> int:
        """The instruction's address."""
        return self.registers(step)["RIP"]

    def who(self, step: int) -> Span:
        """Who executes the instruction; at the end, who executed the last one."""
        index = bisect.bisect_right(self._span_starts, step) - 1
        return self.spans[max(0, index)]

    def who_behind(self, step: int) -> Span:
        """Who the thread is behind the instruction, which may have changed g."""
        span, following = self.who(step), self.who(step + 1)
        return following if following.tid == span.tid else span

    def events_at(self, step: int) -> list[Event]:
        """The events before the instruction, in order."""
        low = bisect.bisect_left(self._event_steps, step)
        high = bisect.bisect_right(self._event_steps, step)
        return [marked.event for marked in self.events[low:high]]

    def interrupted(self, step: int, m: int) -> FrameBuilt | None:
        """The signal frame that the M's handler runs on at a step, if it runs."""
        steps, frames = self._frames.get(m, ([], []))
        index = bisect.bisect_right(steps, step) - 1
        return frames[index] if index >= 0 else None

    def frame_change(self, step: int, m: int, bound: int, *, back: bool = False) -> int:
        """Where the M's being in a handler changes next behind a step, or the step before that.

        `bound` where it does not change on the way there; back, one step less.
        """
        steps, _ = self._frames.get(m, ([], []))
        index = bisect.bisect_right(steps, step)
        if back:
            return max(steps[index - 1], bound) - 1 if index else bound - 1
        return min(steps[index], bound) if index < len(steps) else bound

    def _signal_frames(self) -> dict[int, tuple[list[int], list[FrameBuilt | None]]]:
        found: dict[int, tuple[list[int], list[FrameBuilt | None]]] = {}
        for marked in self.events:
            event = marked.event
            if isinstance(event, FrameBuilt | SignalReturned):
                steps, frames = found.setdefault(event.m, ([], []))
                steps.append(marked.step)
                frames.append(event if isinstance(event, FrameBuilt) else None)
        return found

    # Who runs when.

    def _make_spans(self) -> list[Span]:
        rt, history, steps = self.rt, self.log.history, self.recording.steps
        bases = {tid: t.registers["FS_BASE"] for tid, t in rt.machine.threads.items()}
        slots = {tid: base - 8 for tid, base in bases.items() if base}  # where TLS has g
        values = history.values(list(slots.values()))
        changes = {
            tid: [(0, self._word_at_first(slots[tid])), *((steps(place), g) for place, g in found)]
            for tid, found in zip(slots, values, strict=True)
        }
        threads = self.log.threads()
        ends = [start for start, _ in threads[1:]] + [len(self.recording)]
        spans: list[Span] = []
        for (start, tid), end in zip(threads, ends, strict=True):
            mine = changes.get(tid, [])
            index = bisect.bisect_right(mine, (start, 2**64))
            g = mine[index - 1][1] if index else 0
            for at, value in (*mine[index:], (end, 0)):
                at = min(at, end)  # noqa: PLW2901  # a later one is another span's
                if at > start:
                    self._extend(spans, Span(start, at, tid, *self._names(tid, g, start)))
                start, g = at, value  # noqa: PLW2901
                if at == end:
                    break
        return spans or [Span(0, 0, -1, -1, -1)]

    def _word_at_first(self, address: int) -> int:
        try:
            return self.memory(0).u64(address)
        except UnmappedError:
            return 0

    @staticmethod
    def _extend(spans: list[Span], span: Span) -> None:
        last = spans[-1] if spans else None
        if last is not None and (last.tid, last.m, last.g) == (span.tid, span.m, span.g):
            spans[-1] = dataclasses.replace(last, end=span.end)
        else:
            spans.append(span)

    def _names(self, tid: int, g: int, step: int) -> tuple[int, int]:
        if not g:
            return -1, -1
        if isinstance(self.rt, Runtime):
            return self.rt.identity(tid)[0], self.rt.number_of_g(g)
        goid = self.rt.number_of_g(g, self.memory(step))
        if goid > 0:
            self.goroutines[goid] = g
        return self.rt.identity(tid)[0], goid

    def spans_of(self, step: int, same: Callable[[Span], bool], *, back: bool) -> Iterator[Span]:
        """The spans from a step's own on, or back from it, that `same` chooses."""
        index = bisect.bisect_right(self._span_starts, step) - 1
        order = range(index, -1, -1) if back else range(max(0, index), len(self.spans))
        return (self.spans[i] for i in order if same(self.spans[i]))

    # Who wrote it last.

    def wrote_memory(self, step: int, address: int) -> Writer | None:
        """Who wrote to the aligned eight bytes that hold an address, last before a step."""
        change = self.log.history.last_change(self.recording.records(step), address)
        if change is None:
            return None
        place = change.place - change.by_instruction
        return Writer(self.recording.steps(place), change.by_instruction)

    def wrote_register(self, step: int, name: str) -> Writer | None:
        """Who changed a register of the step's thread last, before that step.

        A write of the value that was there already is no change.
        """
        tid = self.who(step).tid
        later: int | None = None  # where the thread goes on, in the part looked at last
        for first, last in self._parts(tid, step):
            if later is not None:
                found = self._changed_between(last - 1, later, name)
                if found is not None:
                    return found
            end = min(step, last - (later is not None))
            stopped = reversed(self.log.interrupted(first, end))
            for at in heapq.merge(self.recording.changes(name, end), stopped, reverse=True):
                if at <= first:
                    break
                found = self._changed_between(at - 1, at, name)
                if found is not None:
                    return found
            later = first
        return None

    def _parts(self, tid: int, step: int) -> Iterator[tuple[int, int]]:
        """The stretches [first, last) of steps of a thread up to a step, latest first."""
        part: tuple[int, int] | None = None
        for span in self.spans_of(step, lambda span: span.tid == tid, back=True):
            if part is not None and span.end == part[0]:
                part = (span.start, part[1])
            else:
                if part is not None:
                    yield part
                part = (span.start, span.end)
        if part is not None:
            yield part

    def _changed_between(self, step: int, following: int, name: str) -> Writer | None:
        """Whether a register changed from a step to the thread's following one, and by whom."""
        behind = self.behind(step)[name]
        if self.registers(following)[name] != behind:
            return Writer(following, by_instruction=False)
        if self.registers(step)[name] != behind:
            return Writer(step, by_instruction=True)
        return None


def record(
    program: Program,
    injection: Injection | None = None,
    *,
    limit: int = LIMIT,
    progress: Callable[[int], None] = lambda _: None,
) -> RecordedRun:
    """Runs a program as `pushcall.snippet.run.run` does, and records up to `limit` steps.

    `progress` is told the number of steps now and then. Ctrl-C ends the run; what was recorded by
    then is the recorded run.
    """
    if limit < 1:
        raise UsageError("a trace has at least one step")
    config = program.config
    budget = limit if config.budget is None else min(limit, config.budget)
    logs: list[RunLog] = []

    def prepare(rt: Runtime) -> None:
        logs.append(RunLog(rt.machine, progress))
        logs[0].start()

    limited = dataclasses.replace(program, config=dataclasses.replace(config, budget=budget))
    rt, outcome = running.run(limited, injection, prepare=prepare)
    logs[0].stop()
    return RecordedRun(rt, outcome, logs[0], limit)
