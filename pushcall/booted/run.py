"""`pushcall run BINARY`: an unmodified Go executable in the emulator, and its preemptions.

The program's own output goes where ours goes, as it comes; the report follows on standard error.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from emulator.events import Event, SignalSent, SystemCall
from emulator.fault import BudgetExhausted, GuestStopped
from pushcall.booted import gdb_server, system_calls
from pushcall.booted.instruction_stop import InstructionStop
from pushcall.snippet.event_json import event_json
from pushcall.snippet.text import loss_text, milliseconds
from runtime_model.booted import Booted, Settings
from runtime_model.events import Descheduled, PreemptRequested, PushedCall, Resumed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path
    from socket import socket

    from pushcall.booted.saved import SavedRun
    from runtime_model.moduledata import GoBinary

SHOWN: Final = 20  # preemptions in the text


@dataclass(frozen=True)
class Preemption:
    """One asynchronous preemption: where it hit, in whom, and who had asked for it."""

    number: int
    time: int
    m: int
    goid: int
    pc: int
    function: str
    source: str
    why: str

    def to_json(self) -> dict[str, Any]:
        """An entry of `preempted`."""
        return {
            "number": self.number,
            "time": self.time,
            "m": self.m,
            "goroutine": self.goid,
            "pc": f"{self.pc:#x}",
            "function": self.function,
            "source": self.source,
            "asked_by": self.why,
        }

    def __str__(self) -> str:
        return (
            f"{self.number:>4}  {milliseconds(self.time):>14}  M{self.m} G{self.goid:<5} "
            f"{self.pc:#x} {self.function}  {self.source}  asked by {self.why}"
        )


@dataclass(kw_only=True)
class Report:
    """What is known of a run from its events, so far."""

    requests: int = 0
    signals: int = 0
    cooperative: int = 0
    resumed: int = 0
    losses: list[Resumed] = field(default_factory=list)
    preempted: list[Preemption] = field(default_factory=list)
    calls: dict[str, int] = field(default_factory=dict)  # system calls by name
    missing: dict[str, int] = field(default_factory=dict)  # answered with ENOSYS: which, how often
    asked: dict[int, str] = field(default_factory=dict)  # who asked last, by target M


@dataclass
class BinaryOutcome(Report):
    """What the run of an executable was. `exit` is its status, None where it did not end."""

    go: str
    engine: str
    repeat: str  # the command that repeats it
    exit: int | None = None
    died: str = ""
    interrupted: bool = False
    instructions: int = 0
    time: int = 0
    threads: int = 0
    saved: str = ""  # the file that the run goes on from
    unsaved: str = ""  # why there is none, though one was wanted
    output: dict[int, bytes] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)

    @property
    def status(self) -> int:
        """0 it ended well or was saved as asked, 1 otherwise, 130 interrupted."""
        if self.interrupted:
            return 130
        ended = self.exit == 0 if not self.saved else not self.died
        return 0 if ended and not self.losses and not self.unsaved else 1

    def lines(self) -> Iterable[str]:
        """The report; styles as in show.py."""
        if self.preempted:
            yield "# Asynchronous preemptions"
            yield from (str(each) for each in self.preempted[:SHOWN])
            if len(self.preempted) > SHOWN:
                yield f"      … {len(self.preempted) - SHOWN} more (--json has them all)"
        yield "# Totals"
        yield (
            f"{self.instructions} instructions in {milliseconds(self.time)} of virtual time, "
            f"{self.threads} threads, Go {self.go}"
        )
        yield (
            f"{self.requests} requests, {self.signals} SIGURG: {len(self.preempted)} "
            f"asynchronous preemptions, {self.cooperative} at stack checks"
        )
        if self.losses:
            yield f"! {len(self.losses)} of {self.resumed} preemptions lost state:"
            for event in self.losses[:SHOWN]:
                lost = "; ".join(loss_text(loss) for loss in event.losses[:4])
                yield f"!   G{event.goid} at {event.pc:#x}: {lost}"
        elif self.resumed:
            yield f"+ after {self.resumed} preemptions every register and the stack survived"
        yield from (f"! {text}" for text in self._missing())
        if self.died:
            yield f"! {self.died}"
        elif self.exit:
            yield f"! exit status {self.exit}"
        elif self.exit == 0:
            yield "+ exit status 0"
        if self.interrupted:
            yield "! interrupted: this is what is known so far"
        if self.unsaved:
            yield f"! nothing was saved: {self.unsaved}"
        if self.saved:
            yield f"goes on with: {shlex.join(['pushcall', 'run', self.saved])}"
        yield f"again: {self.repeat}"

    def to_json(self) -> dict[str, Any]:
        """The document of `pushcall run --json`."""
        document: dict[str, Any] = {
            "schema": "pushcall.run/1",
            "go": self.go,
            "engine": self.engine,
            "repeat": self.repeat,
            "exit": {
                "status": self.exit,
                "how": "interrupted" if self.interrupted else self.died or self._how(),
            },
            "instructions": self.instructions,
            "time_ns": self.time,
            "threads": self.threads,
            "requests": self.requests,
            "signals": self.signals,
            "preemptions": len(self.preempted),
            "cooperative": self.cooperative,
            "survived": self.resumed - len(self.losses),
            "losses": [event_json(event) for event in self.losses],
            "preempted": [each.to_json() for each in self.preempted],
            "system_calls": self.calls,
            "missing": self._missing(),
            "stdout": self.output.get(1, b"").decode("utf-8", "replace"),
            "stderr": self.output.get(2, b"").decode("utf-8", "replace"),
        }
        if self.saved or self.unsaved:
            document["saved"] = self.saved or None
        if self.events:
            document["events"] = [event_json(event) for event in self.events]
        return document

    def _missing(self) -> list[str]:
        return [f"{text}, {n} times" if n > 1 else text for text, n in self.missing.items()]

    def _how(self) -> str:
        return "saved" if self.saved else "exit"


class _Collector:
    def __init__(self, booted: Booted, out: BinaryOutcome, keep: bool, told: Told) -> None:
        self.booted = booted
        self.out = out
        self.keep = keep
        self.told = told

    def listen(self, event: Event) -> None:
        out = self.out
        if self.keep:
            out.events.append(event)
        if self.told.events or (self.told.calls and isinstance(event, SystemCall)):
            self._tell(event)
        match event:
            case SystemCall():
                out.calls[event.name] = out.calls.get(event.name, 0) + 1
                if event.missing:
                    registers = self.booted.machine.threads[event.tid].registers
                    by = system_calls.place(system_calls.maker(self.booted, registers))
                    text = f"{event.missing}: ENOSYS to {by}"
                    out.missing[text] = out.missing.get(text, 0) + 1
            case PreemptRequested():
                out.requests += 1
                out.asked[event.target_m] = event.why
            case SignalSent(signal=23):
                out.signals += 1
            case PushedCall():
                function, source = self._place(event.resume)
                why = out.asked.get(event.m, "nobody")
                found = Preemption(
                    len(out.preempted) + 1,
                    event.time,
                    event.m,
                    event.g,
                    event.resume,
                    function,
                    source,
                    why,
                )
                out.preempted.append(found)
            case Resumed():
                out.resumed += 1
                if event.losses:
                    out.losses.append(event)
            case Descheduled(why="cooperative"):
                out.cooperative += 1

    def _tell(self, event: Event) -> None:
        from pushcall.snippet.text import actor, describe  # for who looks on

        if isinstance(event, SystemCall):
            words = [system_calls.call_text(self.booted.memory, event)]
        else:
            words = describe(self.booted, event)
        head = f"{milliseconds(event.time):>16}  {actor(event) or f'thread {event.tid}':<11}"
        for number, line in enumerate(words):
            self.told.tell(f"{head if not number else '':<29} {line}")

    def _place(self, pc: int) -> tuple[str, str]:
        frames = self.booted.frames(pc)
        if not frames:
            return "?", "?"
        return frames[0].function, f"{frames[0].file.rpartition('/')[2]}:{frames[0].line}"


@dataclass(frozen=True)
class Told:
    """What is told as it happens, a line at a time: all events, or system calls only."""

    tell: Callable[[str], None] = lambda _: None
    events: bool = False
    calls: bool = False


@dataclass(frozen=True)
class Pause:
    """Where a run is saved: in `file`, and at which point, unless Ctrl-C or the budget is first.

    `at` is after so many instructions, `preemption` before the SYSCALL that sends its signal.
    """

    file: Path
    at: int | None = None
    preemption: int | None = None


def run_binary(
    binary: GoBinary,
    settings: Settings,
    repeat: list[str],
    *,
    sink: Any = None,
    keep_events: bool = False,
    told: Told = Told(),
    gdb: socket | None = None,
    pause: Pause | None = None,
    begun: SavedRun | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> tuple[Booted, BinaryOutcome]:
    """Boots an executable and runs it to its end, or to where it is saved.

    `sink` gets (1 or 2, bytes) of its output as it comes, `told` says what is told meanwhile.
    With a socket for `gdb` nothing runs before gdb has connected there. A run that has `begun`
    goes on from there. Ctrl-C ends the run with what is known so far. `progress` hears now and
    then how many instructions were executed.
    """
    booted = Booted(binary, settings)
    machine = booted.machine
    out = BinaryOutcome(str(binary.version), machine.cpu.name, shlex.join(repeat))
    if begun is not None:
        begun.restore(booted, out)
    machine.linux.sink = sink
    machine.events.subscribe(_Collector(booted, out, keep_events, told).listen)
    stop = InstructionStop(machine, None, progress)
    try:
        if pause is not None:
            stop.at = _where(booted, settings, out, pause, begun, progress)
        if gdb is not None:
            out.exit = gdb_server.run(booted, gdb)
        else:
            with stop.installed():
                out.exit = machine.run()
        out.interrupted = stop.interrupted
    except GuestStopped as stopped:
        out.died = describe(booted, stopped)
        if pause is not None and isinstance(stopped, BudgetExhausted):
            stop.reached = True
    except KeyboardInterrupt:
        out.interrupted = True
    out.instructions = machine.instructions
    out.time = machine.now
    out.threads = len(machine.threads)
    out.output = {fd: bytes(data) for fd, data in machine.linux.output.items()}
    if pause is not None:
        _save(booted, settings, out, pause, reached=stop.reached)
    return booted, out


def _where(
    booted: Booted,
    settings: Settings,
    out: BinaryOutcome,
    pause: Pause,
    begun: SavedRun | None,
    progress: Callable[[int], None],
) -> int | None:
    """After how many instructions to stop; for a preemption, a run of its own finds that out."""
    if pause.preemption is None:
        return pause.at
    from pushcall.booted.trace import NotReachedError, Search, Wanted
    from pushcall.usage import UsageError

    passed = len(out.preempted)
    if pause.preemption <= passed:
        raise UsageError(f"--preemption {pause.preemption}: the saved run has had {passed} already")
    scout = Booted(booted.binary, settings)
    if begun is not None:
        begun.restore(scout, Report())
    scout.machine.timer = InstructionStop(scout.machine, None, progress)
    try:
        return Search(scout, Wanted(pause.preemption), passed).asked - 1
    except NotReachedError as error:
        out.unsaved = str(error)  # and the run shows what comes instead
        return None


def _save(
    booted: Booted, settings: Settings, out: BinaryOutcome, pause: Pause, *, reached: bool
) -> None:
    from pushcall.booted import saved as saved_run

    if reached:
        saved_run.save(pause.file, booted, settings, out)
        out.saved, out.unsaved = str(pause.file), ""
    elif not out.unsaved:
        died = "was broken off" if out.interrupted else "died"
        ended = died if out.exit is None else "ended"
        out.unsaved = f"the program {ended} after {out.instructions} instructions"


def describe(booted: Booted, stopped: GuestStopped) -> str:
    """Why the guest stopped, and in which function."""
    registers = stopped.registers
    if registers is None:
        return str(stopped)
    pc = registers["RIP"]
    frames = booted.frames(pc)
    m, g = booted.identity(stopped.tid) if stopped.tid in booted.machine.threads else (-1, -1)
    place = f"{frames[0].function} ({frames[0].file}:{frames[0].line})" if frames else "no Go code"
    at = "" if f"{pc:#x}" in str(stopped) else f"at {pc:#x} "
    by = system_calls.maker(booted, registers)
    if by is not None and frames and by.function != frames[0].function:
        place += f" for {system_calls.place(by)}"
    return f"{stopped}: {at}in {place}, M{m} G{g}"
