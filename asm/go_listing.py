"""Listings that Go's tools print, read for the bytes in them.

go tool compile -S, go build -gcflags=-S, go tool asm -S (cmd/internal/obj/objfile.go,
writeSymDebug):

    main.sum STEXT nosplit size=30 args=0x18 locals=0x0 funcid=0x0 align=0x0
        0x0005 00005 (main.go:8)	XORL	CX, CX
        0x0000 48 89 44 24 08 31 c9 31 d2 eb 0a 48 8b 34 c8 48  H.D$.1.1...H.4.H
        rel 91+4 t=R_CALL runtime.panicIndex+0

go tool objdump (cmd/internal/disasm):

    TEXT main.sum(SB) /src/main.go
      main.go:8		0x480905		31c9			XORL CX, CX

Bytes are taken from the dump and the hex column, never from the text beside them: that has other
names, and in 1.19 the operands of CMP the other way round. Go 1.19 to 1.27.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple

from asm.image import Position, TextFlag
from asm.source import AsmError, Diagnostic, Source

MAX_SYMBOL = 1 << 28

_STATEMENT = re.compile(
    r"\s*0x(?P<at>[0-9a-f]{4,}) \d{5,} "
    r"\((?P<place>[^()]*(?:\([^()]*\)[^()]*)*)\)\s+(?P<text>\S.*)$"
)
_DUMP = re.compile(r"\s*0x(?P<at>[0-9a-f]{4,})(?P<data>(?: [0-9a-f]{2}){1,16})(?:\s{2}.*)?\s*$")
_RELOCATION = re.compile(
    r"\s*rel (?P<at>\d+)\+(?P<size>\d+) t=(?P<type>\S+) (?P<name>.*)(?P<add>[+-]\d+)\s*$"
)
_SIZE = re.compile(r" size=(\d+)(?: |$)")
_KIND = re.compile(r"S[A-Z0-9]+")
_FLAGS = frozenset({"static", "dupok", "cfunc", "nosplit", "topframe", "asm"})
_ABI = re.compile(r"<\w+>$")
_TEXT = re.compile(r"TEXT (?P<name>.*?)\(SB\)(?:\s|$)")
_CODE = re.compile(
    r"\s*(?P<file>\S.*?|\?):(?P<line>-?\d+)\s+0x(?P<pc>[0-9a-f]+)\s+(?P<data>(?:[0-9a-f]{2})+)"
    r"\s+(?P<text>\S.*)$"
)
# What the go command and the compiler print among the lines: packages, notes, our own settings.
_ASIDE = re.compile(r"\s*(?:#.*|//.*|\S+\.(?:go|s):\d+(?::\d+)?: .*)?$")
_PLACE = re.compile(r"(?P<file>.*?):(?P<line>\d+)(?::\d+)?$")
_DIRECTIVE = re.compile(
    r"TEXT\s+.*?\(SB\), (?P<flags>[\w|+()]*), \$(?P<frame>-?\d+)(?:-(?P<args>\d+))?\s*$"
)
_PCDATA = re.compile(r"PCDATA\s+\$(\d+), \$(-?\d+)\s*$")
_PSEUDO = ("TEXT", "PCDATA", "FUNCDATA")


class Line(NamedTuple):
    """The text of a machine instruction and where it came from; `at` counts from the function."""

    at: int
    text: str
    position: Position


class Relocation(NamedTuple):
    """A field that the linker fills in; `add` as the listing says it."""

    at: int
    size: int
    kind: str
    name: str
    add: int
    line: int


@dataclass
class Listed:
    """A symbol of a listing: a function if it has a TEXT line, else data."""

    name: str
    line: int
    kind: str
    size: int
    data: bytearray = field(default_factory=bytearray)
    lines: list[Line] = field(default_factory=list)
    relocations: list[Relocation] = field(default_factory=list)
    pcdata: list[tuple[int, int, int]] = field(default_factory=list)  # offset, table, value
    flags: TextFlag = TextFlag.NONE
    abi: str = "ABI0"
    frame: int = 0
    args: int | None = None
    address: int | None = None  # as linked, in an objdump
    key: str = ""  # its name in references

    @property
    def is_text(self) -> bool:
        """Whether it is a function."""
        return self.kind.startswith("STEXT")


class Listing:
    """A listing and what is in it."""

    def __init__(self, source: Source, symbols: list[Listed], *, linked: bool) -> None:
        """`linked`: from objdump, at final addresses, with no relocations said."""
        self.source = source
        self.linked = linked
        self.functions = [s for s in symbols if s.is_text]
        self.data = [s for s in symbols if not s.is_text]

    def error(self, line: int, message: str, note: str | None = None) -> AsmError:
        """The error that ends the reading of a listing."""
        return _error(self.source, line, message, note)


def is_listing(text: str) -> bool:
    """Whether a text is a listing of Go's tools, by its first line that says something."""
    return _tool(_lines(text)) is not None


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.split("\n")]


def read(source: Source) -> Listing | None:
    """Reads a listing; None if the text is none.

    Raises:
        AsmError: it is one, but incomplete or damaged.
    """
    lines = _lines(source.text)
    tool = _tool(lines)
    if tool is None:
        return None
    symbols = _read_compile(source, lines) if tool == "compile" else _read_objdump(source, lines)
    listing = Listing(source, symbols, linked=tool == "objdump")
    if not listing.functions:
        raise _error(source, 1, "the listing has no function")
    return listing


def _tool(lines: list[str]) -> str | None:
    rest = (line for line in lines if not _ASIDE.match(line))
    first = next(rest, "")
    if _STATEMENT.match(first) or _is_symbol(first):
        return "compile"
    if _CODE.match(first) or (_TEXT.match(first) and _CODE.match(next(rest, ""))):
        return "objdump"
    return None


class _Head(NamedTuple):
    name: str
    kind: str
    size: int


def _head(line: str) -> _Head | None:
    """The line that begins a symbol: its name may hold spaces, words with a meaning follow."""
    match = _SIZE.search(line)
    if match is None:
        return None
    words = line[: match.start()].split(" ")
    while words and words[-1] in _FLAGS:
        words.pop()
    kind = words.pop() if words and _KIND.fullmatch(words[-1]) else ""
    size = match[1] if len(match[1]) < len(str(MAX_SYMBOL)) + 2 else str(MAX_SYMBOL + 1)
    return _Head(_ABI.sub("", " ".join(words)), kind, int(size))


def _is_symbol(line: str) -> bool:
    head = _head(line)
    return head is not None and bool(head.kind or ":" in head.name)


def _error(source: Source, line: int, message: str, note: str | None = None) -> AsmError:
    text = source.line(line)
    position = Position(source.name, line, len(text) - len(text.lstrip()) + 1)
    return AsmError([Diagnostic(position, message, text, max(1, len(text.strip())), note)])


# go tool compile -S


def _read_compile(source: Source, lines: list[str]) -> list[Listed]:
    symbols: list[Listed] = []
    current: Listed | None = None
    for number, line in enumerate(lines, 1):
        if match := _STATEMENT.match(line):
            if current is None:
                raise _error(source, number, "the line of the function (… STEXT …) is missing")
            _statement(source, number, current, match)
        elif match := _DUMP.match(line):
            if current is None:
                raise _error(source, number, "the line of the symbol is missing")
            if int(match["at"], 16) != len(current.data):
                raise _error(source, number, f"the dump of {current.name} continues elsewhere")
            current.data += bytes.fromhex(match["data"])
        elif match := _RELOCATION.match(line):
            if current is None:
                raise _error(source, number, "the line of the symbol is missing")
            name = _name(match["name"])
            relocation = Relocation(
                int(match["at"]), int(match["size"]), match["type"], name, int(match["add"]), number
            )
            if relocation.at + relocation.size > current.size:
                raise _error(source, number, f"beyond the {current.size} bytes of {current.name}")
            current.relocations.append(relocation)
        elif head := _head(line):
            if current is not None:
                _complete(source, current)
            if head.size > MAX_SYMBOL:
                raise _error(source, number, f"a symbol of more than {MAX_SYMBOL >> 20} MiB")
            current = Listed(_name(head.name), number, head.kind, head.size)
            symbols.append(current)
        elif not _ASIDE.match(line):
            raise _error(source, number, "no line of a listing of go tool compile -S")
    if current is not None:
        _complete(source, current)
    for symbol in symbols:
        symbol.key = symbol.name
    # Debugging information is a symbol, too, and of no use to the machine.
    return [s for s in symbols if s.name and not s.kind.startswith("SDWARF")]


def _name(text: str) -> str:
    """The linker name; an unlinked object calls its own package "" (up to 1.19)."""
    return text.replace('"".', "main.")


def _statement(source: Source, number: int, function: Listed, match: re.Match[str]) -> None:
    at, text = int(match["at"], 16), match["text"].rstrip()
    place = _PLACE.match(match["place"])
    position = Position(place["file"], int(place["line"])) if place else Position(match["place"], 0)
    word = text.split(None, 1)[0]
    if word == "TEXT":
        directive = _DIRECTIVE.match(text)
        if directive is None:
            raise _error(source, number, "a TEXT line that cannot be read")
        names = directive["flags"].split("|")
        known = [TextFlag[name] for name in names if name in TextFlag.__members__]
        for flag in known:
            function.flags |= flag
        function.abi = "ABIInternal" if "ABIInternal" in names else "ABI0"
        function.frame = int(directive["frame"])
        function.args = int(directive["args"]) if directive["args"] else None
    elif word == "PCDATA":
        values = _PCDATA.match(text)
        if values is None:
            raise _error(source, number, "a PCDATA line that cannot be read")
        function.pcdata.append((at, int(values[1]), int(values[2])))
    if word not in _PSEUDO:
        function.lines.append(Line(at, re.sub(r"\s+", " ", text), position))


def _complete(source: Source, symbol: Listed) -> None:
    if symbol.kind.startswith("SDWARF"):
        return  # its size is that of another section
    if symbol.is_text:
        if len(symbol.data) != symbol.size:
            raise _error(
                source,
                symbol.line,
                f"the listing has {len(symbol.data)} of the {symbol.size} bytes of {symbol.name}",
                "the lines with the hex dump belong to it",
            )
        if not symbol.lines and symbol.size:
            raise _error(source, symbol.line, f"the listing has no statement of {symbol.name}")
    elif len(symbol.data) > symbol.size:
        raise _error(source, symbol.line, f"more than the {symbol.size} bytes of {symbol.name}")
    else:
        symbol.data += bytes(symbol.size - len(symbol.data))  # zeros are not dumped


# go tool objdump


def _read_objdump(source: Source, lines: list[str]) -> list[Listed]:
    symbols: list[Listed] = []
    for number, line in enumerate(lines, 1):
        if match := _TEXT.match(line):
            symbols.append(Listed(match["name"], number, "STEXT", 0, abi="ABIInternal"))
        elif match := _CODE.match(line):
            if not symbols:
                raise _error(source, number, "the line of the function (TEXT …(SB)) is missing")
            function, pc = symbols[-1], int(match["pc"], 16)
            if function.address is None:
                function.address = pc
            if pc != function.address + len(function.data):
                raise _error(source, number, f"a gap in {function.name} before {pc:#x}")
            position = Position(match["file"], max(0, int(match["line"])))
            function.lines.append(Line(len(function.data), match["text"], position))
            function.data += bytes.fromhex(match["data"])
        elif not _ASIDE.match(line):
            raise _error(source, number, "no line of a listing of go tool objdump")
    for function in symbols:
        function.size = len(function.data)
        function.key = function.name
        if function.name.endswith(".abi0"):
            function.name, function.abi = function.name.removesuffix(".abi0"), "ABI0"
    return [s for s in symbols if s.size]
