"""`pushcall run --engine native --signals real`: SIGURGs of the kernel preempt a snippet.

The snippet runs twice on the real processor, from the first boundary of its goroutine on: left
alone, and with signals (child.py). These come from a timer of the kernel's, wherever it
hits, or after exact numbers of instructions, up to which the processor single-steps. At each signal
the state that it interrupted is kept, and compared with what the snippet's code goes on with; at
the end the two runs are compared. What no preemption touches is not modelled here: one goroutine,
no scheduler, no sysmon.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from emulator.engines import NATIVE
from emulator.fault import GuestStopped
from pushcall.signals.child import SignalChild
from pushcall.snippet.crash import Crash, Place, describe, place
from pushcall.snippet.event_json import registers_json
from pushcall.snippet.side import Side
from runtime_model.boot import BadProgramError
from runtime_model.events import Loss
from runtime_model.losses import memory_losses
from runtime_model.policy import Policy
from runtime_model.preempt import Reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emulator.registers import Registers
    from pushcall.snippet.program import Program
    from runtime_model.runtime import Runtime

SHORTEST: Final = 1_000_000  # ns between two signals: what following one takes
KEPT: Final = 10_000  # signals that are remembered

_THREADS_OWN: Final = frozenset({"FS_BASE", "GS_BASE"})


@dataclass(frozen=True)
class Signal:
    """A SIGURG: where it hit, why nothing came of it (empty: a preemption), and what was lost."""

    place: Place
    refused: str
    losses: tuple[Loss, ...]

    def to_json(self) -> dict[str, Any]:
        """An entry of `signals`."""
        return {
            "pc": f"{self.place.pc:#x}",
            "symbol": self.place.symbol,
            "source": self.place.source,
            "refused": self.refused or None,
            "losses": [_loss_json(loss) for loss in self.losses],
        }


@dataclass
class Signalled:
    """What a run with real signals was."""

    go: str
    engine: str
    when: str
    count: int = 0
    preemptions: int = 0
    refusals: dict[str, int] = field(default_factory=dict)
    lost: int = 0  # signals at which something was
    signals: list[Signal] = field(default_factory=list)  # the first KEPT
    differences: list[Loss] = field(default_factory=list)  # from the run that was left alone
    registers: Registers | None = None  # at the end
    crash: Crash | None = None
    alone: bool = False  # the crash was that of the run without signals
    failed: list[str] = field(default_factory=list)
    interrupted: bool = False

    @property
    def status(self) -> int:
        """0 all held, 1 something was found, 130 interrupted."""
        if self.interrupted:
            return 130
        return 1 if self.crash or self.lost or self.differences or self.failed else 0

    def to_json(self) -> dict[str, Any]:
        """The document of `pushcall run --signals real --json`."""
        document: dict[str, Any] = {
            "schema": "pushcall.run_signals/1",
            "go": self.go,
            "engine": self.engine,
            "when": self.when,
            "how": "interrupted"
            if self.interrupted
            else self.crash.title
            if self.crash
            else "exit",
            "count": self.count,
            "preemptions": self.preemptions,
            "refusals": self.refusals,
            "lost": self.lost,
            "signals": [each.to_json() for each in self.signals],
            "differences": [_loss_json(loss) for loss in self.differences],
            "registers": registers_json(self.registers) if self.registers is not None else None,
            "failed": self.failed,
        }
        if self.crash is not None:
            document["crash"] = self.crash.to_json()
        return document

    def lines(self) -> Iterator[str]:
        """The text of the command; styles as in show.py."""
        yield f"# Go {self.go}, {self.engine}: SIGURG {self.when}"
        refused = ", ".join(f"{count} {reason}" for reason, count in sorted(self.refusals.items()))
        yield (
            f"{self.count} signals, {self.preemptions} preemptions, "
            f"{self.count - self.preemptions} refused{f' ({refused})' if refused else ''}"
        )
        there: dict[Place, int] = {}
        for each in self.signals:
            if not each.refused:
                there[each.place] = there.get(each.place, 0) + 1
        for where, count in sorted(there.items(), key=lambda item: item[0].pc):
            yield f"  {count:6} at {where}  {where.source}".rstrip()
        lost: dict[str, list[tuple[Place, Loss]]] = {}
        for each in self.signals:
            for loss in each.losses:
                lost.setdefault(loss.register, []).append((each.place, loss))
        for register, found in lost.items():
            where, loss = found[0]
            yield f"! {register} lost {len(found)} times; first at {where}: {_words(loss)}"
        if self.crash is not None:
            yield f"! {'left alone' if self.alone else 'with signals'} it died"
            yield from (f"  {line}" for line in self.crash.lines())
        for loss in self.differences:
            yield f"! in the end: {_words(loss)}"
        yield from (f"! {text}" for text in self.failed)
        if self.interrupted:
            yield "! interrupted"
        elif self.status == 0:
            yield "+ every register, the stack and the data as without signals"


def _words(loss: Loss) -> str:
    at = f" at {loss.address:#x}" if loss.address is not None else ""
    return f"{loss.register}{at} was {loss.before:#x}, is {loss.after:#x}"


def _loss_json(loss: Loss) -> dict[str, Any]:
    found: dict[str, Any] = {"register": loss.register}
    if loss.address is not None:
        found["address"] = f"{loss.address:#x}"
    return found | {"before": f"{loss.before:#x}", "after": f"{loss.after:#x}"}


class _Run:
    """One of the two runs."""

    def __init__(self, program: Program, like: Side | None = None) -> None:
        config = replace(
            program.config, goroutines=1, policy=Policy(None), budget=None, engine=NATIVE
        )
        self.side = Side(config, like)
        if not self.side.begin():
            raise BadProgramError("the goroutine ends before its first instruction")
        self.rt: Runtime = self.side.rt
        self.child = SignalChild(self.side)

    def state(self, rsp: int) -> list[tuple[int, bytes]]:
        """Memory that no preemption may change: the stack from RSP up, and the data."""
        side, memory = self.side, self.rt.memory
        places = list(side.regions)
        if side.stack_lo <= rsp < side.stack_hi:
            places.append((rsp, side.stack_hi - rsp))
        return [(address, memory.read(address, size)) for address, size in places]

    def ended(self, rip: int) -> bool:
        """Whether the goroutine's function has returned to goexit, where INT3 stands."""
        return rip == self.rt.symbol("goexit") + 2

    def end(self) -> None:
        """Has the return to goexit trap."""
        self.rt.memory.write(self.rt.symbol("goexit") + 1, b"\xcc")


def _differences(
    one: Registers, other: Registers, before: list[tuple[int, bytes]], run: _Run
) -> list[Loss]:
    losses = [
        Loss(register=name, before=one[name], after=other[name])
        for name in one.diff(other)
        if name not in _THREADS_OWN
    ]
    for address, data in before:
        losses += memory_losses(address, data, run.rt.memory.read(address, len(data)))
    return losses


class RealSignals:
    """Both runs of a program, which never gives way but to signals."""

    def __init__(self, program: Program, when: str) -> None:
        version = program.config.version
        if not version.asynchronous:
            raise BadProgramError(f"Go {version} has no asynchronous preemption")
        self.program = program
        self.result = Signalled(str(version), NATIVE, when)

    def run(self, quantum: int | None, every: int | None, at: tuple[int, ...]) -> Signalled:
        """Runs it alone, then under a timer (ns) or after exact numbers of instructions.

        Raises AsmError, BadProgramError and NativeUnavailableError.
        """
        result = self.result
        alone = _Run(self.program)
        try:
            alone.child.load(alone.side.registers)
            alone.end()
            good = self._to_the_end(alone)
            if good is None:
                result.alone = True
                return result
            run = _Run(self.program, alone.side)
            end = self._timed(run, quantum) if quantum else self._exact(run, every, at)
            if end is not None:
                result.registers = end
                self._compare_ends(alone, good, run, end)
        except KeyboardInterrupt:
            result.interrupted = True
        return result

    def _compare_ends(self, alone: _Run, good: Registers, run: _Run, end: Registers) -> None:
        result = self.result
        result.differences = _differences(good, end, alone.state(good["RSP"]), run)
        for expectation in self.program.expected.registers:
            if end[expectation.register] != expectation.value:
                result.failed.append(
                    f"{expectation.register} is {end[expectation.register]:#x}, "
                    f"not {expectation.value:#x} ({expectation.text})"
                )

    def _timed(self, run: _Run, quantum: int) -> Registers | None:
        run.end()
        run.child.start_timer(quantum)
        run.child.load(run.side.registers)
        return self._to_the_end(run)

    def _exact(self, run: _Run, every: int | None, at: tuple[int, ...]) -> Registers | None:
        side = run.side
        numbers = iter(sorted(set(at))) if at else None
        index = next(numbers) if numbers is not None else every or 0
        while True:
            try:
                alive = side.advance(index - side.at)
            except GuestStopped as stopped:
                self.result.crash = describe(run.rt, stopped)
                return None
            if not alive:
                return side.exited
            run.child.load(side.registers)
            run.child.send()
            if not self._preempt(run):
                return None
            registers = run.child.save()
            side.registers.block[:] = registers.block
            side.registers.extended = registers.extended
            following = next(numbers, None) if numbers is not None else index + (every or 1)
            if following is None:
                run.end()
                return self._to_the_end(run)
            index = following

    def _to_the_end(self, run: _Run) -> Registers | None:
        """Runs on, preempted by whatever SIGURG comes; None if it dies: `result` says of what."""
        while True:
            halt = run.child.run()
            if halt.signo == signal.SIGTRAP and run.ended(run.child.child.rip()):
                registers = run.child.save()
                registers["RIP"] -= 1
                return registers
            if halt.signo != signal.SIGURG:
                self.result.crash = describe(run.rt, run.child.explain(halt))
                return None
            if not self._preempt(run):
                return None

    def _preempt(self, run: _Run) -> bool:
        """Lets the SIGURG that has stopped the child have its way, and compares; False: it died."""
        result, child = self.result, run.child
        before = child.save()
        pc = before["RIP"]
        memory = run.state(before["RSP"])
        verdict, pushed = child.verdict(pc), child.pushed()
        stack = before["RSP"] >= run.side.stack_lo + run.rt.asyncPreemptStack
        landing = verdict.resume if verdict.safe and stack else pc
        halt = child.deliver(landing)
        result.count += 1
        if child.pushed() > pushed:
            refused = ""
            result.preemptions += 1
        else:
            refused = (Reason.NO_STACK if verdict.safe else verdict.reason).value
            result.refusals[refused] = result.refusals.get(refused, 0) + 1
        losses: list[Loss] = []
        if halt is None:
            after = child.save()
            before["RIP"] = landing
            losses = _differences(before, after, memory, run)
        else:
            stopped = child.explain(halt)
            result.crash = describe(run.rt, stopped)
            losses = [Loss(register="RIP", before=landing, after=child.save()["RIP"])]
        result.lost += bool(losses)
        if len(result.signals) < KEPT:
            result.signals.append(Signal(place(run.rt, pc), refused, tuple(losses)))
        return halt is None


def run(
    program: Program, *, quantum: int | None, every: int | None = None, at: tuple[int, ...] = ()
) -> Signalled:
    """Runs a program under real signals: one of a timer (ns), every N instructions, or these."""
    if quantum is not None:
        when = f"of a timer every {quantum / 1e6:g} ms"
    elif every is not None:
        when = f"after every {every} instructions"
    else:
        when = f"at instructions {', '.join(map(str, at))}" if at else "never"
    return RealSignals(program, when).run(quantum, every, at)
