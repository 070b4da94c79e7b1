"""`pushcall check --scan`: is a pointer that only a register holds found by the GC's stack scan?

At each boundary that the snippet executes, every general register (but RSP and RBP) and both halves
of every vector register get a pointer into a heap object of their own. The mark worker then stops
the goroutine as in Go: suspendG, signal, asyncPreempt, preemptPark, scanstack, resumeG. Each object
must have been marked, and each register be what it was; then the snippet's own values come back and
it executes one more instruction.

RBP is left out because Go's runtime takes it for a frame pointer, never for a pointer to the heap.
Go 1.26 keeps the vectors in g.xRegs and does not scan them: they are not looked for there.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from emulator.fault import GuestStopped
from emulator.registers import GENERAL, Registers
from pushcall.snippet.crash import Crash, Place, describe, place
from runtime_model import mgc, mheap
from runtime_model.boot import BadProgramError, boot
from runtime_model.events import Resumed, SafePointVerdict
from runtime_model.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Callable

    from emulator.events import Event
    from emulator.linux.threads import Thread
    from runtime_model.boot import Config

POINTERS: Final = tuple(n for n in GENERAL if n not in ("RSP", "RBP"))
VECTORS: Final = tuple(f"XMM{i}" for i in range(16))
BUDGET: Final = 200_000  # instructions of a program that is left alone
SCAN_BUDGET: Final = 100_000  # instructions that one scan may take
_OBJECT: Final = 32
_INTO: Final = 8  # pointers lead into the middle of their objects
_KEPT: Final = frozenset({"RIP", "RSP", "FS_BASE", "GS_BASE"})


@dataclass
class Missed:
    """A register whose pointer was not found (or that came back changed), and where first."""

    register: str
    index: int
    place: Place
    changed: bool
    points: int = 1


@dataclass
class ScanResult:
    """What became of a check."""

    go: str
    engine: str
    expected: tuple[str, ...]
    boundaries: int = 0
    points: int = 0  # scans at a preempted boundary
    refusals: dict[str, int] = field(default_factory=dict)
    missed: dict[str, Missed] = field(default_factory=dict)
    crash: Crash | None = None
    unfinished: str = ""
    interrupted: bool = False

    @property
    def verdict(self) -> str:
        """`found` if each pointer was, at each boundary; else `missed`."""
        bad = self.missed or self.crash or self.unfinished or self.interrupted or not self.points
        return "missed" if bad else "found"

    @property
    def status(self) -> int:
        """0 all found, 1 not, 130 interrupted."""
        return 130 if self.interrupted else int(self.verdict != "found")

    def lines(self) -> list[str]:
        """The report as text; styles as in show.py."""
        if self.missed:
            head = "! missed: a pointer that only a register held was not found, or was changed"
        elif self.crash is not None:
            head = "! missed: the program, or the scan of its stack, died"
        elif self.interrupted or self.unfinished:
            head = "nothing missed so far"
        elif not self.points:
            head = "no preemption was possible: nothing was scanned"
        else:
            head = "+ found: every pointer that only a register held, at every boundary"
        unsafe = sum(self.refusals.values())
        where = f"at {self.boundaries} executed boundaries, {unsafe} refused, Go {self.go}"
        lines = [head, f"{self.points} stack scans {where}"]
        lines += [f"{count} refused: {reason}" for reason, count in sorted(self.refusals.items())]
        for missed in self.missed.values():
            what = "came back changed" if missed.changed else "was not scanned"
            lines.append(
                f"{missed.register} {what} at {missed.points} boundaries, first {missed.place}"
            )
            if missed.place.source:
                lines.append(f"    {missed.place.source}")
        if len(self.expected) == len(POINTERS):
            lines.append(f"vectors are not scanned in Go {self.go}: XMM0 to XMM15 were left out")
        lines += [f"! {self.unfinished}"] if self.unfinished else []
        lines += [f"! {line}" for line in self.crash.lines()] if self.crash else []
        return lines + (["! interrupted: this is what is known so far"] * self.interrupted)

    def to_json(self) -> dict[str, Any]:
        """The document of `pushcall check --scan --json`."""
        document: dict[str, Any] = {
            "schema": "pushcall.check-scan/1",
            "go": self.go,
            "engine": self.engine,
            "verdict": self.verdict,
            "boundaries": self.boundaries,
            "points": self.points,
            "unsafe": sum(self.refusals.values()),
            "refusals": self.refusals,
            "registers": list(self.expected),
            "missed": [
                {
                    "register": missed.register,
                    "changed": missed.changed,
                    "points": missed.points,
                    "first": {
                        "index": missed.index,
                        "pc": f"{missed.place.pc:#x}",
                        "symbol": missed.place.symbol,
                        "source": missed.place.source,
                    },
                }
                for missed in self.missed.values()
            ],
            "unfinished": self.unfinished,
            "crash": self.crash.to_json() if self.crash else None,
        }
        return document | ({"interrupted": True} if self.interrupted else {})


class ScanCheck:
    """One run of the check: the machine's timer, stopping at each boundary."""

    def __init__(self, config: Config, budget: int | None = None) -> None:
        version = config.version
        if not version.asynchronous:
            raise BadProgramError(
                f"Go {version} has no asynchronous preemption: registers are never scanned"
            )
        alone = dataclasses.replace(
            config, goroutines=1, procs=1, policy=Policy(None), budget=None, gc=True, slice_ns=1000
        )
        self.rt = boot(alone)
        self.machine = self.rt.machine
        self.machine.timer = self
        self.machine.events.subscribe(self._listen)
        self.rt.watch.on_left = self._left
        scanned = not version.extended_registers or version.scans_extended_registers
        names = POINTERS + (VECTORS if scanned else ())
        self.result = ScanResult(str(version), self.machine.cpu.name, names)
        self.budget = budget or BUDGET
        self._objects: dict[str, tuple[int, ...]] = {
            name: tuple(mheap.mallocgc(self.rt, _OBJECT) for _ in range(1 + (name in VECTORS)))
            for name in names
        }
        self._target: int | None = 0
        self._thread: Thread | None = None
        self._resumed: Resumed | None = None
        self._refused = False

    def due(self, thread: Thread) -> int | None:  # noqa: ARG002  # there is one goroutine
        """Instructions until the next boundary; none while a scan goes on."""
        return None if self._target is None else self._target - self.machine.user_instructions

    def fire(self, thread: Thread) -> None:
        """At the boundary."""
        self._thread, self._target = thread, None
        self.machine.stop()

    def _left(self, thread: Thread) -> None:
        self._thread = thread
        if self._target is None:
            self.machine.stop()

    def _listen(self, event: Event) -> None:
        if isinstance(event, Resumed):
            self._resumed = event
        elif isinstance(event, SafePointVerdict) and not event.safe and self._target is None:
            self._refused = True
            self.result.refusals[event.reason] = self.result.refusals.get(event.reason, 0) + 1
            self._withdraw()

    def _withdraw(self) -> None:
        """The refused request is taken back, so that it is not granted somewhere else."""
        rt = self.rt
        frame, gp = mgc.worker(rt), rt.g(rt.goroutines[0])
        frame.wanted = frame.scanning = 0
        gp.preemptStop = gp.preempt = 0
        gp.stackguard0 = gp.stack_lo + rt.stackGuard

    def run(self, progress: Callable[[int], None] = lambda _: None) -> ScanResult:
        """Checks every boundary. Raises AsmError and BadProgramError for bad input."""
        result, machine = self.result, self.machine
        try:
            while machine.run() is None:
                self._scan(result.boundaries)
                progress(result.boundaries)
                result.boundaries += 1
                if machine.user_instructions > self.budget:
                    result.unfinished = (
                        f"the snippet does not end within {self.budget} instructions"
                    )
                    break
                self._target = machine.user_instructions + 1
        except GuestStopped as stopped:
            result.crash = describe(self.rt, stopped)
        except KeyboardInterrupt:
            result.interrupted = True
        return result

    def _scan(self, index: int) -> None:
        """A scan with pointers in all registers, at the boundary where the goroutine stands."""
        rt, machine = self.rt, self.machine
        assert self._thread is not None
        own = self._thread.registers.copy()
        with_pointers = self._thread.registers
        for name, objects in self._objects.items():
            with_pointers[name] = sum((o + _INTO) << 64 * i for i, o in enumerate(objects))
        self._resumed, self._refused = None, False
        mgc.gcStart(rt)
        worker = machine.threads[rt.m(rt.gcworker_m).procid]
        worker.time = max(worker.time, machine.now)
        with rt.acting(worker):
            mgc.gcDrain(rt)
        machine.budget = machine.instructions + SCAN_BUDGET
        ended = machine.run()
        machine.budget = None
        if ended is not None:
            return
        registers = self._thread.registers
        if not self._refused:
            self._judge(index, own["RIP"])
        self._restore(registers, own)

    def _judge(self, index: int, pc: int) -> None:
        resumed = self._resumed
        if resumed is None:
            return
        self.result.points += 1
        changed = {loss.register for loss in resumed.losses}
        for name, objects in self._objects.items():
            unmarked = not all(mheap.is_marked(self.rt, o) for o in objects)
            if name in changed or unmarked:
                known = self.result.missed.get(name)
                if known is None:
                    where = place(self.rt, pc)
                    self.result.missed[name] = Missed(name, index, where, name in changed)
                else:
                    known.points += 1

    @staticmethod
    def _restore(registers: Registers, own: Registers) -> None:
        """The snippet's own values, but for where it stands."""
        for name in own.diff(registers):
            if name not in _KEPT:
                registers[name] = own[name]


def check(
    config: Config, progress: Callable[[int], None] = lambda _: None, budget: int | None = None
) -> ScanResult:
    """Scans the stack at every boundary that the program executes. See the module's text."""
    return ScanCheck(config, budget).run(progress)


__all__ = ["ScanCheck", "ScanResult", "check"]
