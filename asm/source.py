"""Source texts and what is said about them: positions, carets, and all errors of a file at once."""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from asm.image import Position

if TYPE_CHECKING:
    from collections.abc import Iterable

# A file that is wrong from end to end says so this often and no more.
MAX_DIAGNOSTICS = 100


@dataclass(frozen=True)
class Source:
    """One assembly text and the name under which messages speak of it."""

    name: str
    text: str

    @cached_property
    def line_starts(self) -> tuple[int, ...]:
        """The offset at which each line begins."""
        starts = [0]
        find = self.text.find
        at = find("\n")
        while at >= 0:
            starts.append(at + 1)
            at = find("\n", at + 1)
        return tuple(starts)

    def position(self, offset: int) -> Position:
        """The line and column, both from 1, of a character offset."""
        line = bisect.bisect_right(self.line_starts, offset)
        return Position(self.name, line, offset - self.line_starts[line - 1] + 1)

    def line(self, number: int) -> str:
        """The text of a line, counted from 1, without its newline."""
        start = self.line_starts[number - 1]
        end = self.text.find("\n", start)
        return self.text[start : end if end >= 0 else len(self.text)].rstrip("\r")


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One error: where, what, and the line that it is about."""

    position: Position
    message: str
    line: str
    length: int = 1
    note: str | None = None
    lacks: str = ""  # the name that a go_asm.h is without, if that is the error

    def __str__(self) -> str:
        """`file:line:col: message`, the line, a caret under the fault, and the note if any."""
        text = f"{self.position}: {self.message}"
        if self.position.column and self.line:
            before = self.line[: self.position.column - 1]
            # A tab stays a tab, so that the caret stands right whatever its width.
            margin = "".join(c if c == "\t" else " " for c in before)
            rest = max(1, min(self.length, len(self.line) - len(before)))
            # What is no text must not reach a terminal as a command.
            shown = "".join(c if c.isprintable() or c == "\t" else "\ufffd" for c in self.line)
            text += f"\n{shown}\n{margin}^{'~' * (rest - 1)}"
        if self.note:
            text += f"\n{self.note}"
        return text


class AsmError(Exception):
    """An input that cannot be assembled; `diagnostics` holds every reason found, in order."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics = tuple(diagnostics)
        super().__init__("\n".join(str(d) for d in self.diagnostics))


class Span(NamedTuple):
    """A stretch of a source text; `origin` is the macro body that it was expanded from."""

    source: Source
    start: int
    end: int
    origin: Span | None = None

    @property
    def position(self) -> Position:
        """Where the stretch begins."""
        return self.source.position(self.start)


class Fault(Exception):  # noqa: N818  # caught within the package; AsmError is what leaves it
    """One thing that is wrong at one place; ends the statement, not the file."""

    def __init__(
        self, span: Span, message: str, note: str | None = None, *, lacks: str = ""
    ) -> None:
        super().__init__(message)
        self.span = span
        self.message = message
        self.note = note
        self.lacks = lacks


class TooManyFaults(Exception):  # noqa: N818  # control flow within the package
    """The limit on diagnostics is reached."""


class Diagnostics:
    """Collects the faults of an assembly."""

    def __init__(self) -> None:
        self._found: list[tuple[int, Diagnostic]] = []
        self._order: dict[str, int] = {}

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, fault: Fault) -> None:
        """Records a fault; the same words at the same place count once."""
        span = fault.span
        position = span.position
        note = fault.note
        if span.origin is not None:
            where = f"in a macro defined at {span.origin.position}"
            note = f"{note}\n{where}" if note else where
        diagnostic = Diagnostic(
            position,
            fault.message,
            span.source.line(position.line),
            max(1, span.end - span.start),
            note,
            fault.lacks,
        )
        order = self._order.setdefault(position.file, len(self._order))
        if all(known != diagnostic for _, known in self._found):
            self._found.append((order, diagnostic))
        if len(self._found) >= MAX_DIAGNOSTICS:
            raise TooManyFaults

    def raise_if_any(self) -> None:
        """Ends the assembly if anything was wrong."""
        if self._found:
            ordered = sorted(
                self._found, key=lambda d: (d[0], d[1].position.line, d[1].position.column)
            )
            raise AsmError(d for _, d in ordered)


def near_miss(word: str, known: Iterable[str]) -> str | None:
    """A note that offers the closest known word, or None if none is close."""
    import difflib  # only a wrong input needs it

    # Words of much another length cannot be close, and there are thousands of mnemonics.
    candidates = [k for k in known if abs(len(k) - len(word)) <= 2]
    close = difflib.get_close_matches(word, candidates, n=8, cutoff=0.6)
    if not close:
        return None
    best = min(close, key=lambda k: (_distance(word, k), -_same_start(word, k), len(k)))
    return f"did you mean {best}?"


def _same_start(one: str, other: str) -> int:
    """How many characters two words have in common from the start."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def _distance(one: str, other: str) -> int:
    """How many characters must be put in, left out or replaced."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]
