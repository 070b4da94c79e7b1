"""What the assembler hands on: code, data, symbols and what the runtime asks about each PC.

An image is the linked result: every symbol has its final address, every relocation is applied.
Tables follow Go's linker (cmd/link, cmd/internal/obj/pcln.go): a PC-value table is a list of
ranges, and a PC that no range covers has the value -1.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field
from enum import Enum, Flag
from typing import Protocol


class TextFlag(Flag):
    """Flags of a TEXT or GLOBL directive, with the numbers of Go's textflag.h."""

    NONE = 0
    NOPROF = 1
    DUPOK = 2
    NOSPLIT = 4
    RODATA = 8
    NOPTR = 16
    WRAPPER = 32
    NEEDCTXT = 64
    TLSBSS = 256
    NOFRAME = 512
    REFLECTMETHOD = 1024
    TOPFRAME = 2048
    ABIWRAPPER = 4096


# PCDATA tables and their values (internal/abi/symtab.go).
PCDATA_UnsafePoint = 0
UnsafePointSafe = -1
UnsafePointUnsafe = -2
UnsafePointRestart1 = -3
UnsafePointRestart2 = -4
UnsafePointRestartAtEntry = -5


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a source text; line and column count from 1, column 0 means the whole line."""

    file: str
    line: int
    column: int = 0

    def __str__(self) -> str:
        column = f":{self.column}" if self.column else ""
        return f"{self.file}:{self.line}{column}"


@dataclass(frozen=True, slots=True)
class Instruction:
    """One machine instruction: its address, bytes, and the source line that it came from.

    An instruction that the assembler inserted (prologue, epilogue, morestack call) has the
    position of its TEXT or RET line and `inserted` set; `source` is then its Go-style text.
    """

    address: int
    data: bytes
    source: str
    position: Position
    inserted: bool = False

    @property
    def end(self) -> int:
        """The address of the next instruction."""
        return self.address + len(self.data)


@dataclass(frozen=True, slots=True)
class PcValue:
    """One range `[start, end)` of a PC-value table."""

    start: int
    end: int
    value: int


@dataclass(frozen=True, slots=True)
class PcTable:
    """A PC-value table: disjoint ranges in rising order; -1 outside of them."""

    ranges: tuple[PcValue, ...] = ()

    def at(self, pc: int) -> PcValue | None:
        """The range that holds pc, or None where the table says nothing (-1)."""
        index = bisect.bisect_right(self.ranges, pc, key=lambda r: r.start) - 1
        if index >= 0 and pc < self.ranges[index].end:
            return self.ranges[index]
        return None


@dataclass(frozen=True, slots=True)
class Function:
    """One TEXT symbol. Names are the linker's: `main.loop`, `runtime.asyncPreempt`."""

    name: str
    address: int
    end: int
    flags: TextFlag
    abi: str  # "ABI0" or "ABIInternal"
    frame_size: int  # bytes of locals as declared
    args_size: int | None  # bytes of arguments and results; None where not declared
    instructions: tuple[Instruction, ...]
    position: Position
    pcdata: dict[int, PcTable] = field(default_factory=dict)  # by table number
    spdelta: PcTable = PcTable()  # bytes that SP lies below its value at entry
    static: bool = False  # name<>: known in its file only
    alignment: int = 16  # of its address
    funcdata: dict[int, str] = field(default_factory=dict)  # symbols by table number
    sp_write: bool = False  # SP is loaded with anything: spdelta cannot follow (FuncFlag_SPWRITE)

    @property
    def size(self) -> int:
        """Bytes from entry to end, padding excluded."""
        return self.end - self.address

    def instruction_at(self, pc: int) -> Instruction | None:
        """The instruction that starts at pc, if one does."""
        index = bisect.bisect_left(self.instructions, pc, key=lambda i: i.address)
        if index < len(self.instructions) and self.instructions[index].address == pc:
            return self.instructions[index]
        return None

    def instruction_holding(self, pc: int) -> Instruction | None:
        """The instruction that pc lies in, at its start or within."""
        index = bisect.bisect_right(self.instructions, pc, key=lambda i: i.address) - 1
        if index >= 0 and pc < self.instructions[index].end:
            return self.instructions[index]
        return None


class RelocationType(Enum):
    """How a field follows from its symbol (System V ABI, AMD64 supplement, 4.4.1)."""

    R_X86_64_64 = 1  # S + A, 8 bytes
    R_X86_64_PC32 = 2  # S + A - P, 4 bytes
    R_X86_64_PLT32 = 4  # the same, of a call or jump

    @property
    def size(self) -> int:
        """Bytes of the field."""
        return 8 if self is RelocationType.R_X86_64_64 else 4


@dataclass(frozen=True, slots=True)
class Relocation:
    """A field of code or data that holds where a symbol is.

    `target` is the symbol's address, None where nothing defines it: the field is then zero.
    """

    address: int
    type: RelocationType
    symbol: str
    addend: int
    target: int | None

    def __str__(self) -> str:
        """As `objdump -r` shows it."""
        sign = "-" if self.addend < 0 else "+"
        addend = f"{sign}{abs(self.addend):#x}" if self.addend else ""
        return f"{self.type.name} {self.symbol}{addend}"


@dataclass(frozen=True, slots=True)
class Segment:
    """Bytes to load at an address, with the protection they need."""

    name: str  # ".text", ".rodata", ".noptrdata", ".data", ".bss"
    address: int
    data: bytes
    writable: bool
    executable: bool


@dataclass(frozen=True, slots=True)
class Symbol:
    """A named address that is not a function: DATA/GLOBL."""

    name: str
    address: int
    size: int
    flags: TextFlag
    static: bool = False


class Code(Protocol):
    """What can be asked about linked code, wherever it comes from."""

    @property
    def segments(self) -> tuple[Segment, ...]:
        """What is to be loaded."""

    def findfunc(self, pc: int) -> Function | None:
        """The function whose code holds pc, if one does."""

    def function(self, name: str) -> Function | None:
        """The function of this linker name, if there is one."""

    def address(self, name: str) -> int | None:
        """The address of a function or data symbol, if there is one."""


@dataclass(frozen=True, slots=True)
class Image:
    """Assembled and linked code, ready to be loaded unless something is undefined."""

    functions: tuple[Function, ...]  # by rising address
    data: tuple[Symbol, ...]
    segments: tuple[Segment, ...]
    lines: dict[str, tuple[str, ...]] = field(default_factory=dict)  # source text by file name
    relocations: tuple[Relocation, ...] = ()  # by rising address

    @property
    def undefined(self) -> tuple[Relocation, ...]:
        """The fields whose symbols neither the image nor what it was linked against defines."""
        return tuple(r for r in self.relocations if r.target is None)

    def content(self, symbol: Symbol) -> bytes:
        """The bytes of a data symbol; none where no segment holds it."""
        for segment in self.segments:
            at = symbol.address - segment.address
            if 0 <= at < len(segment.data):
                return segment.data[at : at + symbol.size]
        return b""

    def findfunc(self, pc: int) -> Function | None:
        """The function whose code holds pc, if one does."""
        index = bisect.bisect_right(self.functions, pc, key=lambda f: f.address) - 1
        if index >= 0 and pc < self.functions[index].end:
            return self.functions[index]
        return None

    def function(self, name: str) -> Function | None:
        """The function of this linker name, if there is one."""
        return next((f for f in self.functions if f.name == name), None)

    def address(self, name: str) -> int | None:
        """The address of a function or data symbol, if there is one."""
        symbols: tuple[Function | Symbol, ...] = (*self.functions, *self.data)
        return next((s.address for s in symbols if s.name == name), None)
