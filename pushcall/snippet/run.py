"""`pushcall run`: a program under preemption, and what happened.

The events of the whole run feed counters; the first preemption's are kept for its path, those of
switches for the timeline.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from asm.image import Image
from emulator.events import Event, SignalSent
from emulator.fault import BudgetExhausted, GuestStopped
from pushcall.snippet.crash import Crash, describe
from pushcall.snippet.event_json import event_json, registers_json
from pushcall.snippet.path import FirstPreemption
from pushcall.snippet.text import call_rule_broken
from pushcall.usage import UsageError
from runtime_model.assembly import linker_name
from runtime_model.boot import boot
from runtime_model.events import (
    CallRuleBroken,
    Descheduled,
    Executing,
    ExitedSyscall,
    GoroutineExited,
    HandedOff,
    PreemptRequested,
    PushedCall,
    Resumed,
    SafePointVerdict,
    StackCopied,
)
from runtime_model.invariants import Invariants
from runtime_model.schedule import Scheduled
from runtime_model.timers import At, AtPC, Every, Random

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from asm.image import Code
    from emulator.observer import InstructionTimer
    from emulator.registers import Registers
    from pushcall.snippet.crash import Running
    from pushcall.snippet.injection import Injection
    from pushcall.snippet.program import Program
    from runtime_model.runtime import Runtime

MAX_LOSSES = 100


@dataclass
class Slice:
    """One stretch of a goroutine on an M and P, in virtual ns; `why` it ended."""

    goid: int
    m: int
    p: int
    start: int
    end: int = -1
    why: str = ""


@dataclass
class Outcome:
    """What a run was: `exit` is the status, None where it died; then `crash` says of what."""

    exit: int | None
    crash: Crash | None
    interrupted: bool
    instructions: int
    user_instructions: int
    time: int
    requests: int = 0
    signals: int = 0
    preemptions: int = 0  # asynchronous: pushCall happened
    cooperative: int = 0
    copies: int = 0  # of stacks
    refusals: dict[str, int] = field(default_factory=dict)  # reason -> count
    resumed: int = 0
    lost: int = 0  # of the resumed, those that lost state
    losses: list[Resumed] = field(default_factory=list)  # the first MAX_LOSSES of them
    goroutines: dict[int, Registers | None] = field(default_factory=dict)  # at their end
    waiting: list[int] = field(default_factory=list)  # goroutines that never ran
    slices: list[Slice] = field(default_factory=list)
    path: list[Event] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    as_compiled: bool = False  # assembly functions were preempted as if Go had compiled them
    starved: bool = False  # the budget ran out: somebody may have waited in vain
    expected: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)  # expectations that do not hold
    findings: list[str] = field(default_factory=list)  # rules of calls that asyncPreempt broke

    @property
    def counts(self) -> dict[str, int]:
        """What an expectation may count (expectation.COUNTS)."""
        return {
            "requests": self.requests,
            "signals": self.signals,
            "preemptions": self.preemptions,
            "cooperative": self.cooperative,
            "refused": sum(self.refusals.values()),
            "copies": self.copies,
        }

    @property
    def status(self) -> int:
        """0 all held, 1 something was found, 130 interrupted."""
        if self.interrupted:
            return 130
        return 1 if self.exit != 0 or self.losses or self.failed or self.findings else 0


class Collector:
    """Listener that builds an Outcome's counters, path and timeline."""

    def __init__(self, keep_events: bool) -> None:
        self.keep_events = keep_events
        self.outcome = Outcome(None, None, False, 0, 0, 0)
        self._running: dict[int, Slice] = {}  # by M

    def listen(self, event: Event) -> None:
        """Takes one event."""
        if self.keep_events:
            self.outcome.events.append(event)
        self._count(event)

    def _count(self, event: Event) -> None:
        out = self.outcome
        match event:
            case PreemptRequested():
                out.requests += 1
            case SignalSent():
                out.signals += 1
            case PushedCall():
                out.preemptions += 1
            case SafePointVerdict(safe=False):
                out.refusals[event.reason] = out.refusals.get(event.reason, 0) + 1
            case StackCopied():
                out.copies += 1
            case Resumed():
                out.resumed += 1
                if event.losses:
                    out.lost += 1
                    if out.lost <= MAX_LOSSES:
                        out.losses.append(event)
            case CallRuleBroken():
                finding = call_rule_broken(event)
                if finding not in out.findings:
                    out.findings.append(finding)
            case Executing():
                self._running[event.m] = Slice(event.goid, event.m, event.p, event.time)
                out.slices.append(self._running[event.m])
            case Descheduled():
                if event.why == "cooperative":
                    out.cooperative += 1
                running = self._running.pop(event.m, None)
                if running is not None:
                    running.end, running.why = event.time, event.why
            case HandedOff():
                held = [piece for piece in self._running.values() if piece.p == event.p]
                for piece in held:
                    piece.end, piece.why = event.time, "handed off"
                self._running = {m: p for m, p in self._running.items() if p not in held}
            case ExitedSyscall() if event.m not in self._running:
                self._running[event.m] = Slice(event.goid, event.m, event.p, event.time)
                out.slices.append(self._running[event.m])
            case GoroutineExited():
                out.goroutines[event.goid] = event.registers


def run(
    program: Program,
    injection: Injection | None = None,
    *,
    keep_events: bool = False,
    prepare: Callable[[Runtime], None] | None = None,
) -> tuple[Runtime, Outcome]:
    """Boots the program, runs it to its end, and collects what happened.

    injection: the timer to use in place of the program's own.

    `prepare` sees the runtime before its first instruction. Ctrl-C ends the run with what is
    known so far. Raises AsmError and BadProgramError for bad input.
    """
    injection = injection or program.injection
    config = program.config
    rt = boot(replace(config, gc=config.gc or bool(injection.schedule)))
    machine = rt.machine
    collector = Collector(keep_events)
    first = FirstPreemption(lambda pc: rt.user.findfunc(pc) is not None)
    machine.events.subscribe(collector.listen)
    machine.events.subscribe(first.listen)
    inject(rt, injection)
    invariants = Invariants(rt) if injection.schedule else None
    if prepare is not None:
        prepare(rt)
    out = collector.outcome
    try:
        status = machine.run()
        if invariants is not None and status == 0:
            invariants.finish()
        out.exit = status
    except GuestStopped as stopped:
        out.crash = describe(rt, stopped)
        out.starved = isinstance(stopped, BudgetExhausted)
    except KeyboardInterrupt:
        out.interrupted = True
    out.path = first.events if first.complete else []
    out.instructions = machine.instructions
    out.user_instructions = machine.user_instructions
    out.time = machine.now
    ran = {piece.goid for piece in out.slices}
    out.waiting = [g for g in (rt.g(a).goid for a in rt.goroutines) if g not in ran]
    for piece in out.slices:
        if piece.end < 0:
            piece.end = machine.now
    out.as_compiled = not program.config.as_assembly and out.preemptions > 0
    expected = program.expected
    out.expected = [*(e.text for e in expected.registers), *map(str, expected.counts)]
    out.failed = _unmet(program, out)
    return rt, out


def inject(rt: Runtime, injection: Injection) -> None:
    """Sets the machine's exact timer or breakpoint."""
    timer: InstructionTimer | None = None
    if injection.every is not None:
        timer = Every(rt, injection.every)
    elif injection.at:
        timer = At(rt, sorted(injection.at))
    elif injection.random is not None:
        timer = Random(rt, injection.random)
    elif injection.schedule:
        timer = Scheduled(rt, list(injection.schedule))
    elif injection.at_pc is not None:
        breakpoint_ = AtPC(rt, resolve(rt, injection.at_pc))
        rt.machine.add_breakpoint(breakpoint_.address, breakpoint_.reached)
    rt.machine.timer = timer


def resolve(rt: Running, text: str) -> int:
    """The address of SYM+OFF or 0xADDRESS in the program; it must start an instruction."""
    try:
        address = _address(text, (rt.user,))
    except UsageError as error:
        raise UsageError(f"--at-pc {error}") from None
    function = rt.user.findfunc(address)
    if function is None or function.instruction_at(address) is None:
        raise UsageError(f"--at-pc {text}: no instruction of the file starts at {address:#x}")
    return address


def resolve_in(rt: Running, text: str) -> int:
    """The address of SYM+OFF or 0xADDRESS in the program or the runtime's assembly."""
    return _address(text, (rt.user, rt.text))


def _address(text: str, images: Sequence[Code]) -> int:
    name, _, offset = text.partition("+")
    try:
        if name.startswith("0x"):
            address = int(name, 16)
        else:
            wanted = linker_name(name)
            found = [
                base
                for candidate in (wanted, f"main.{wanted}", f"runtime.{wanted}")
                for image in images
                if (base := image.address(candidate)) is not None
            ]
            if not found:
                first = images[0]
                names = [f.name for f in first.functions] if isinstance(first, Image) else []
                known = f"; there are: {', '.join(names)}" if names else ""
                raise UsageError(f"{text}: no symbol {name}{known}")
            address = found[0]
        return address + (int(offset, 0) if offset else 0)
    except ValueError:
        raise UsageError(f"{text}: not SYMBOL+OFFSET or 0xADDRESS") from None


def _unmet(program: Program, out: Outcome) -> list[str]:
    failed = []
    for expectation in program.expected.registers:
        for goid, registers in sorted(out.goroutines.items()):
            found = registers[expectation.register] if registers is not None else None
            if found != expectation.value:
                failed.append(
                    f"goroutine {goid}: {expectation.register} is {found:#x}, "
                    f"not {expectation.value:#x} ({expectation.text})"
                )
    counts = out.counts
    failed += [
        f"{counts[expected.name]} {expected.name}, not {expected.relation}{expected.value}"
        for expected in program.expected.counts
        if not expected.holds(counts)
    ]
    return failed


def to_json(rt: Runtime, out: Outcome) -> dict[str, Any]:
    """The document of `pushcall run --json`."""
    document: dict[str, Any] = {
        "schema": "pushcall.run/1",
        "go": str(rt.version),
        "engine": rt.machine.cpu.name,
        "exit": {
            "status": out.exit,
            "how": "interrupted" if out.interrupted else out.crash.title if out.crash else "exit",
        },
        "instructions": out.instructions,
        "user_instructions": out.user_instructions,
        "time_ns": out.time,
        "preemptions": out.preemptions,
        "cooperative": out.cooperative,
        "requests": out.requests,
        "refusals": out.refusals,
        "signals": out.signals,
        "survived": out.resumed - out.lost,
        "losses": [event_json(event) for event in out.losses],
        "goroutines": [
            {
                "id": rt.g(address).goid,
                "registers": registers_json(registers) if registers is not None else None,
            }
            for address in rt.goroutines
            for registers in [out.goroutines.get(rt.g(address).goid)]
        ],
        "failed": out.failed,
    }
    if out.findings:
        document["findings"] = out.findings
    if out.crash is not None:
        document["crash"] = out.crash.to_json()
    if out.events:
        document["events"] = [event_json(event) for event in out.events]
    return document
