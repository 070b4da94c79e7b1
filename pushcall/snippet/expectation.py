"""What a snippet's header, or `--expect`, says is to happen (docs/scenarios.md lists the words).

Which words stand there also says which command is meant: a check, a check of the stack scan, an
audit, or a run.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from pushcall.usage import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

COUNTS: Final = ("requests", "signals", "preemptions", "cooperative", "refused", "copies")


@dataclass(frozen=True)
class Expectation:
    """A register's value at the end of every goroutine; `text` is as it was written."""

    register: str
    value: int
    text: str


@dataclass(frozen=True)
class ExpectedVerdict:
    """What a check is to find: `lost` at all, and which names exactly, if they are given.

    `words` are how the two are called: preserved and lost, found and missed, stoppable and
    unstoppable.
    """

    lost: bool
    registers: frozenset[str] | None = None
    words: tuple[str, str] = ("preserved", "lost")

    def holds(self, lost: Iterable[str]) -> bool:
        """Whether a check that lost these registers found what was expected."""
        found = frozenset(lost)
        return bool(found) == self.lost and self.registers in {None, found}

    def __str__(self) -> str:
        if self.registers is not None:
            return f"{self.words[1]}:{','.join(sorted(self.registers))}"
        return self.words[self.lost]


@dataclass(frozen=True)
class ExpectedCount:
    """How often something happens in a run: `relation` is `<`, `>` or empty for exactly."""

    name: str
    relation: str
    value: int

    def holds(self, counts: Mapping[str, int]) -> bool:
        """Whether the count of that name is as expected."""
        found = counts[self.name]
        if self.relation:
            return found > self.value if self.relation == ">" else found < self.value
        return found == self.value

    def __str__(self) -> str:
        return f"{self.name}:{self.relation}{self.value}"


@dataclass(frozen=True)
class Expected:
    """All that is expected of a program. None and empty: nothing is said of it."""

    check: ExpectedVerdict | None = None
    scan: ExpectedVerdict | None = None
    audit: ExpectedVerdict | None = None
    end: str | None = None  # of a run: "ends", "starves", "fails", "dies" or "dies:WORD"
    counts: tuple[ExpectedCount, ...] = ()
    registers: tuple[Expectation, ...] = ()

    @property
    def of_run(self) -> bool:
        """Whether anything is expected of a run."""
        return bool(self.end or self.counts or self.registers)

    def __str__(self) -> str:
        parts = [self.check, self.scan, self.audit, self.end, *self.counts]
        return ", ".join([*(str(p) for p in parts if p), *(e.text for e in self.registers)])


_VERDICTS: Final = {
    "check": ("preserved", "lost"),
    "scan": ("found", "missed"),
    "audit": ("stoppable", "unstoppable"),
}
_COUNT: Final = re.compile(rf"({'|'.join(COUNTS)}):([<>]?)(\d+)")
_END: Final = re.compile(r"ends|starves|fails|dies(?::\S+)?")


@dataclass
class _Reader:
    macros: Mapping[str, str]
    expected: Expected = field(default_factory=Expected)

    def take(self, text: str) -> None:
        for kind, words in _VERDICTS.items():
            verdict = _verdict(text, words)
            if verdict is not None:
                known = getattr(self.expected, kind)
                if known is not None:
                    raise UsageError(f"expect {text}: {known} is expected already")
                named: dict[str, Any] = {kind: verdict}
                self.expected = replace(self.expected, **named)
                return
        if _END.fullmatch(text):
            self.expected = replace(self.expected, end=text)
        elif match := _COUNT.fullmatch(text):
            count = ExpectedCount(match[1], match[2], int(match[3]))
            self.expected = replace(self.expected, counts=(*self.expected.counts, count))
        else:
            register = _register(text, self.macros)
            self.expected = replace(self.expected, registers=(*self.expected.registers, register))


def parse(texts: Iterable[str], macros: Mapping[str, str]) -> Expected:
    """What these words expect; `macros` are those that values may name. Raises UsageError."""
    reader = _Reader(macros)
    for text in texts:
        reader.take(text)
    kinds = Counter(
        kind for kind in ("check", "scan", "audit") if getattr(reader.expected, kind) is not None
    )
    if len(kinds) > 1:
        raise UsageError(f"expect: {' and '.join(kinds)} are different commands")
    return reader.expected


def _verdict(text: str, words: tuple[str, str]) -> ExpectedVerdict | None:
    word, colon, names = text.partition(":")
    if word not in words or (colon and (word == words[0] or not names)):
        return None
    named = frozenset(names.split(",")) if colon else None
    return ExpectedVerdict(word == words[1], named, words)


_REGISTERS: Final = {f"R{i}" for i in range(8, 16)} | {
    f"R{n}" for n in ("AX", "BX", "CX", "DX", "SI", "DI", "BP", "SP")
}


def _register(text: str, macros: Mapping[str, str]) -> Expectation:
    register, colon, value = text.partition(":")
    name = register.upper()
    if name not in _REGISTERS and f"R{name}" in _REGISTERS:
        name = f"R{name}"
    if not colon or name not in _REGISTERS:
        raise UsageError(f"expect {text}: not REGISTER:VALUE with a general register")
    for _ in range(8):  # macros in macros
        value = re.sub(r"[A-Za-z_]\w*", lambda m: macros.get(m[0], m[0]), value)
    if not re.fullmatch(r"[0-9a-fA-FxX+*/() -]+", value):
        raise UsageError(f"expect {text}: {value} is not a number")
    try:
        number = _evaluate(value)
    except (ValueError, ZeroDivisionError):
        raise UsageError(f"expect {text}: {value} is not a number") from None
    return Expectation(name, number & 0xFFFF_FFFF_FFFF_FFFF, text)


def _evaluate(text: str) -> int:
    """An expression of integers, + - * / and parentheses, as Go's assembler evaluates it."""
    import ast  # only where a file expects something

    def value(node: ast.expr) -> int:
        match node:
            case ast.Constant(value=int(number)):
                return number
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -value(operand)
            case ast.BinOp(left=left, op=op, right=right):
                a, b = value(left), value(right)
                match op:
                    case ast.Add():
                        return a + b
                    case ast.Sub():
                        return a - b
                    case ast.Mult():
                        return a * b
                    case ast.Div():
                        return a // b
        raise ValueError(text)

    try:
        return value(ast.parse(text.strip(), mode="eval").body)
    except SyntaxError:
        raise ValueError(text) from None
