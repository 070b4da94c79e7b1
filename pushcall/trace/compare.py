"""`pushcall compare`: a program on both engines, step by step, and the first step that differs.

Both runs are recorded whole. Compared are, at each step, the thread, all registers and the events
before the instruction; at the end, how it ended. What may differ is named in emulator.agreement.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from emulator.agreement import Agreement
from emulator.disassembly import disassemble
from emulator.engines import ENGINES
from emulator.events import FrameBuilt, SignalReturned
from emulator.registers import Registers
from pushcall.snippet.crash import Place, place
from pushcall.snippet.event_json import event_json
from pushcall.snippet.text import actor, describe
from pushcall.trace.plain import instruction_line
from pushcall.trace.recorded import record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from emulator.events import Event
    from pushcall.snippet.injection import Injection
    from pushcall.snippet.program import Program
    from pushcall.trace.recorded import RecordedRun, Span

LIMIT: Final = 200_000  # steps, unless asked for more
AROUND: Final = 4  # steps shown before the one that differs
_LONGEST: Final = 15  # bytes of an instruction


@dataclass(frozen=True)
class Difference:
    """The first one: at the boundary before `step`, that is behind the instruction at `place`.

    `registers` are (name, Unicorn's, the processor's); `events` and `ends` those of each engine
    where they differ.
    """

    step: int
    place: Place
    disassembly: str
    registers: tuple[tuple[str, int, int], ...] = ()
    events: tuple[tuple[str, ...], ...] = ()
    ends: tuple[str, ...] = ()


@dataclass
class Comparison:
    """Both runs, in the order of ENGINES, and what came of comparing them."""

    runs: tuple[RecordedRun, ...]
    steps: int = 0  # that agree
    difference: Difference | None = None
    known: set[str] = field(default_factory=set)  # reasons for which something was let differ

    @property
    def status(self) -> int:
        """0 the same, 1 different, 130 interrupted."""
        if any(run.outcome.interrupted for run in self.runs):
            return 130
        return 0 if self.difference is None else 1


def compare(
    program: Program,
    injection: Injection | None = None,
    limit: int = LIMIT,
    progress: Callable[[int], None] = lambda _: None,
) -> Comparison:
    """Runs a program on both engines and compares them; raises NativeUnavailableError.

    `progress` is told the number of steps of each run now and then. Ctrl-C ends it: nothing is
    compared then.
    """
    runs = []
    for engine in reversed(ENGINES):  # what this host may refuse first
        config = dataclasses.replace(program.config, engine=engine)
        chosen = dataclasses.replace(program, config=config)
        runs.append(record(chosen, injection, limit=limit, progress=progress))
        if runs[-1].outcome.interrupted:
            return Comparison((runs[-1], runs[-1]))
    result = Comparison(tuple(reversed(runs)))
    _compare(result)
    return result


class _Side:
    """What the threads of both runs need not agree on, as they go along."""

    def __init__(self) -> None:
        saved: dict[int, int] = {}
        self.agreements: defaultdict[int, Agreement] = defaultdict(lambda: Agreement(saved))
        self._last: dict[int, tuple[bytes, Registers]] = {}  # by thread: what it executes
        self._frames: dict[int, int] = {}  # by g: the last signal frame

    def at(self, tid: int, rip: int) -> Agreement:
        """A thread's, at the boundary before this RIP."""
        last = self._last.pop(tid, None)
        if last is not None:
            self.agreements[tid].executed(*last, rip)
        return self.agreements[tid]

    def executes(self, tid: int, code: bytes, before: Registers) -> None:
        """A thread's next instruction."""
        self._last[tid] = (code, before)

    def signal(self, event: Event) -> None:
        """A signal frame keeps the flags, and gives them back."""
        if isinstance(event, FrameBuilt) and event.interrupted is not None:
            self.at(event.tid, event.interrupted["RIP"]).kept(event.frame)
            self._frames[event.g] = event.frame
        elif isinstance(event, SignalReturned):
            self.at(event.tid, 0).taken(event.frame)

    def poisoned(self, who: Span) -> None:
        """The runtime has written registers: complements of what was interrupted, among others."""
        if who.g in self._frames:
            self.agreements[who.tid].taken(self._frames[who.g], more=True)


def _compare(result: Comparison) -> None:
    one, other = result.runs
    side = _Side()
    steps = min(len(one), len(other))
    for step in range(steps + 1):
        tid = one.who(step).tid
        differs = _events(result, step, side)
        if step < steps:
            mine, theirs = one.registers(step), other.registers(step)
            agreement = side.at(tid, mine["RIP"])
            if one.log.interrupted(step - 1, step):
                side.poisoned(one.who(step))
            differs |= bool(agreement.differing(mine, theirs)) or tid != other.who(step).tid
            side.executes(tid, _code(one, mine["RIP"]), mine)
        else:
            differs |= len(one) != len(other) or _end(one) != _end(other)
        if differs:
            result.difference = _difference(result, step, side)
            break
    result.steps = steps if result.difference is None else result.difference.step
    met = (reason for each in side.agreements.values() for reason in each.met)
    result.known = {reason.value for reason in met}


def _code(run: RecordedRun, rip: int) -> bytes:
    region = run.rt.memory.find(rip)
    if region is None:
        return b""
    return run.rt.memory.read(rip, min(_LONGEST, region.end - rip))


def _events(result: Comparison, step: int, side: _Side) -> bool:
    """Whether the events before a step differ."""
    mine, theirs = (run.events_at(step) for run in result.runs)
    if len(mine) != len(theirs):
        return True
    for one, other in zip(mine, theirs, strict=True):
        side.signal(one)
        if not _same(one, other, side.agreements[one.tid]):
            return True
    return False


def _same(one: Event, other: Event, agreement: Agreement) -> bool:
    if type(one) is not type(other):
        return False
    for name in (f.name for f in dataclasses.fields(one)):
        mine, theirs = getattr(one, name), getattr(other, name)
        if isinstance(mine, Registers) and isinstance(theirs, Registers):
            if agreement.differing(mine, theirs):
                return False
        elif mine != theirs:
            return False
    return True


def _end(run: RecordedRun) -> str:
    """How a run ended."""
    out = run.outcome
    if run.cut:
        return "goes on"
    return f"exit status {out.exit}" if out.crash is None else out.crash.title


def _difference(result: Comparison, step: int, side: _Side) -> Difference:
    one, other = result.runs
    at = max(0, step - 1)
    rip = one.pc(at) if at < len(one) else 0
    where = place(one.rt, rip)
    decoded = disassemble(_code(one, rip), rip, 1)
    text = decoded[0].text if decoded else ""
    registers: tuple[tuple[str, int, int], ...] = ()
    events: tuple[tuple[str, ...], ...] = ()
    ends: tuple[str, ...] = ()
    if step <= min(len(one), len(other)):
        mine, theirs = one.registers(step), other.registers(step)
        names = side.agreements[one.who(step).tid].differing(mine, theirs)
        registers = tuple((name, mine[name], theirs[name]) for name in names)
    if _events(result, step, side):
        events = tuple(
            tuple(
                f"{actor(event)}: {line}"
                for event in run.events_at(step)
                for line in describe(run.rt, event)
            )
            for run in result.runs
        )
    if step >= min(len(one), len(other)):
        ends = tuple(f"{_end(run)} after {len(run)} steps" for run in result.runs)
    return Difference(step, where, text, registers, events, ends)


def lines(result: Comparison) -> Iterator[str]:
    """The report as text."""
    one, found = result.runs[0], result.difference
    reasons = [f"  let differ: {reason}" for reason in sorted(result.known)]
    if result.status == 130:
        yield "interrupted: nothing was compared"
        return
    if found is None:
        yield f"+ The same on both engines: {result.steps} steps, {_end(one)}."
        yield from reasons
        return
    yield f"! The engines differ behind step {found.step - 1}: {found.place}"
    if found.disassembly:
        yield f"    {found.disassembly}"
    yield ""
    for step in range(max(0, found.step - AROUND), min(found.step, len(one))):
        yield instruction_line(one, step)
    if found.registers:
        yield ""
        width = max(16, *(len(f"{value:x}") for _, *values in found.registers for value in values))
        yield f"{'':<9} {ENGINES[0]:>{width}}  {ENGINES[1]:>{width}}"
        for name, mine, theirs in found.registers:
            yield f"{name:<9} {mine:>{width}x}  {theirs:>{width}x}"
    for number, engine in enumerate(ENGINES):
        for kind in (found.events, found.ends):
            if kind:
                said = kind[number] if isinstance(kind[number], tuple) else (kind[number],)
                yield ""
                yield f"{engine}:"
                yield from (f"  {line}" for line in said or ("no event",))
    yield from reasons


def to_json(result: Comparison) -> dict[str, Any]:
    """The document of `pushcall compare --json`."""
    found = result.difference
    one = result.runs[0]
    return {
        "schema": "pushcall.compare/1",
        "go": str(one.rt.version),
        "engines": [run.rt.machine.cpu.name for run in result.runs],
        "verdict": None if result.status == 130 else "same" if found is None else "different",
        "steps": result.steps,
        "ends": [_end(run) for run in result.runs],
        "known": sorted(result.known),
        "difference": None if found is None else _difference_json(result, found),
    }


def _difference_json(result: Comparison, found: Difference) -> dict[str, Any]:
    return {
        "step": found.step,
        "pc": f"{found.place.pc:#x}",
        "symbol": found.place.symbol,
        "source": found.place.source,
        "position": found.place.position,
        "disassembly": found.disassembly,
        "registers": [
            {"register": name, ENGINES[0]: f"{mine:#x}", ENGINES[1]: f"{theirs:#x}"}
            for name, mine, theirs in found.registers
        ],
        "events": {
            engine: [event_json(event) for event in run.events_at(found.step)]
            for engine, run in zip(ENGINES, result.runs, strict=True)
        },
    }
