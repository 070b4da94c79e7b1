"""What a check found: losses by register, their first boundaries and causes, and the verdict."""

from __future__ import annotations

import dataclasses
import textwrap
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from emulator.engines import NATIVE, UNICORN
from pushcall.snippet.text import where

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pushcall.check.provenance import Step
    from pushcall.snippet.crash import Crash, Place
    from runtime_model.events import Loss


WIDTH: Final = 94  # of a line of an explanation


@dataclass(frozen=True)
class Boundary:
    """The gap before an executed instruction: its number in the run, from 0, and its place."""

    index: int
    place: Place


@dataclass(frozen=True)
class Part:
    """What an instruction had to do with a loss.

    It `saved` or `restored` the register, `stored` something else where the restore looked,
    `overwrote` or `changed` it, `called` what did, or `died`; it `loaded` the slot of another one.
    """

    role: str
    step: Step
    address: int | None = None

    def to_json(self) -> dict[str, Any]:
        """An entry of `instructions`."""
        at = self.step.at
        entry: dict[str, Any] = {
            "role": self.role,
            "pc": f"{at.pc:#x}",
            "symbol": at.symbol,
            "source": at.source,
            "position": at.position,
            "disassembly": self.step.disassembly,
        }
        if self.address is not None:
            entry["address"] = f"{self.address:#x}"
        return entry

    def __str__(self) -> str:
        at = self.step.at
        return f"{self.role}: {at.pc:#x} {at.symbol}  {self.step.disassembly}  {at.position}"


@dataclass(frozen=True)
class Explanation:
    """One or two sentences, and the instructions that they speak of."""

    text: str
    parts: tuple[Part, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """`explanation` of a loss."""
        return {"text": self.text, "instructions": [part.to_json() for part in self.parts]}

    def lines(self) -> Iterable[str]:
        """The text output."""
        yield from textwrap.wrap(self.text, WIDTH, break_long_words=False, break_on_hyphens=False)
        yield from map(str, self.parts)


@dataclass
class RegisterLoss:
    """All losses of one register, or of memory; `first` is the first of them."""

    register: str
    points: int
    first: Boundary
    before: int
    after: int
    address: int | None = None
    note: str = ""
    explanation: Explanation | None = None  # of the first loss (explain.attach)

    def to_json(self) -> dict[str, Any]:
        """An entry of `losses`."""
        at = self.first.place
        entry: dict[str, Any] = {"register": self.register, "points": self.points}
        if self.address is not None:
            entry["address"] = f"{self.address:#x}"
        entry["first"] = {
            "index": self.first.index,
            "pc": f"{at.pc:#x}",
            "symbol": at.symbol,
            "source": at.source,
            "before": f"{self.before:#x}",
            "after": f"{self.after:#x}",
        }
        if self.note:
            entry["note"] = self.note
        if self.explanation is not None:
            entry["explanation"] = self.explanation.to_json()
        return entry

    def __str__(self) -> str:
        at = f" at {self.address:#x}" if self.address is not None else ""
        note = f" ({self.note})" if self.note else ""
        return (
            f"{self.register}{at} lost at {self.points} boundaries{note}; first at boundary "
            f"{self.first.index}, {where(self.first.place)}: was {self.before:#x}, "
            f"is {self.after:#x}"
        )


@dataclass
class CheckResult:
    """The verdict on a snippet or trampoline."""

    go: str
    engine: str
    points: int = 0
    direct: int = 0  # of the points, those that went through the whole runtime
    boundaries: int = 0
    of: int | None = None  # the boundaries that these were chosen from, if not all were tried
    unsafe: int = 0
    refusals: dict[str, int] = field(default_factory=dict)
    losses: list[RegisterLoss] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    crash: Crash | None = None  # of the undisturbed run: then nothing was proven
    finished: bool = False  # the snippet was followed to its end
    interrupted: bool = False
    compared: str = "every register, the stack and the data"
    visited: set[int] = field(default_factory=set)  # PCs of boundaries that were tried
    notes: list[str] = field(default_factory=list)  # what limits the verdict, and is no finding
    recorded: dict[str, int] = field(default_factory=dict)  # states, by engine, if not all by one
    repeat: str = ""  # the command that repeats it, of an executable

    @property
    def verdict(self) -> str:
        """`preserved` or `lost`."""
        return "lost" if self.losses else "preserved"

    @property
    def ok(self) -> bool:
        """Whether nothing at all was found."""
        return not self.losses and not self.findings and self.crash is None

    @property
    def status(self) -> int:
        """The exit status of the command."""
        if self.interrupted:
            return 130
        return 0 if self.ok else 1

    def to_json(self) -> dict[str, Any]:
        """The document of `pushcall check --json`."""
        document: dict[str, Any] = {
            "schema": "pushcall.check/1",
            "go": self.go,
            "engine": self.engine,
            "verdict": self.verdict,
            "points": self.points,
            "direct": self.direct,
            "boundaries": self.boundaries,
            "unsafe": self.unsafe,
            "refusals": self.refusals,
            "losses": [loss.to_json() for loss in self.losses],
            "findings": self.findings,
        }
        if self.recorded:
            document["recorded"] = self.recorded
        if self.of is not None:
            document["sample"] = {"boundaries": self.points + self.unsafe, "of": self.of}
        if self.notes:
            document["notes"] = self.notes
        if self.repeat:
            document["repeat"] = self.repeat
        if self.crash is not None:
            document["crash"] = self.crash.to_json()
        if self.interrupted:
            document["interrupted"] = True
        return document

    def add(self, other: CheckResult) -> None:
        """Takes over what another part of the check found, at other boundaries."""
        self.points += other.points
        self.direct += other.direct
        self.visited |= other.visited
        self.interrupted |= other.interrupted
        for engine, count in other.recorded.items():
            self.recorded[engine] = self.recorded.get(engine, 0) + count
        for reason, count in other.refusals.items():
            self.refuse(reason, count)
        for loss in other.losses:
            mine = next((each for each in self.losses if each.register == loss.register), None)
            if mine is None:
                self.losses.append(dataclasses.replace(loss))
                continue
            points = mine.points + loss.points
            first = loss if loss.first.index < mine.first.index else mine
            self.losses[self.losses.index(mine)] = dataclasses.replace(first, points=points)
        self.findings += [each for each in other.findings if each not in self.findings]
        self.losses.sort(key=lambda each: each.first.index)

    def lose(self, boundary: Boundary, loss: Loss, note: str = "") -> None:
        """Takes up a loss; of a register's losses the first is shown."""
        found = next((each for each in self.losses if each.register == loss.register), None)
        if found is None:
            self.losses.append(
                RegisterLoss(
                    loss.register, 1, boundary, loss.before, loss.after, loss.address, note
                )
            )
            return
        found.points += 1
        if boundary.index < found.first.index:
            found.first, found.before, found.after = boundary, loss.before, loss.after
            found.address, found.note = loss.address, note

    def refuse(self, reason: str, count: int = 1) -> None:
        """Counts boundaries at which the runtime refuses."""
        self.unsafe += count
        self.refusals[reason] = self.refusals.get(reason, 0) + count

    def _recorders(self) -> str:
        """Which engines recorded the states that batches tried."""
        names = {NATIVE: "it", UNICORN: "the emulator"}
        by = " and ".join(f"{n} by {names[engine]}" for engine, n in self.recorded.items() if n)
        return f"; boundaries recorded for it: {by}" if by else ""

    def lines(self) -> Iterable[str]:
        """The text of the command; styles as in show.py."""
        if self.crash is not None:
            yield "! the snippet does not run to its end even when left alone:"
            for line in self.crash.lines():
                yield f"! {line}"
        if self.losses:
            yield f"! lost: {', '.join(loss.register for loss in self.losses)}"
            for loss in self.losses:
                yield f"!   {loss}"
                if loss.explanation is not None:
                    yield from (f"      {line}" for line in loss.explanation.lines())
        elif self.points and not self.finished:
            yield "no loss so far"
        elif self.points and self.of is not None:
            yield (
                f"+ preserved: {self.compared}, at "
                f"{self.points + self.unsafe} boundaries, evenly spread over {self.of}"
            )
        elif self.points:
            yield f"+ preserved: {self.compared}, at every boundary"
        else:
            yield "no preemption was possible: nothing was checked"
        for text in self.findings:
            yield f"! {text}"
        yield (
            f"{self.points} preemptions at {self.boundaries} executed boundaries "
            f"({self.direct} through the whole runtime), {self.unsafe} refused, Go {self.go}"
        )
        for reason, count in sorted(self.refusals.items(), key=lambda item: -item[1]):
            yield f"{count} refused: {reason}"
        if self.engine == NATIVE:
            yield f"tried on this host's processor{self._recorders()}"
        yield from self.notes
        if self.interrupted:
            yield "! interrupted: this is what is known so far"
        if self.repeat:
            yield f"again: {self.repeat}"
