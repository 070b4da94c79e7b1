"""The formats of Go's function table, and how each version's runtime reads them, as data.

There are four formats, named after the first Go version that wrote them: 1.2 (to 1.15), 1.16,
1.18 and 1.20 (cmd/link/internal/ld/pcln.go, debug/gosym). What differs between them stands in
FORMATS; what differs between the runtimes that read one format stands in Rules.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, Literal

FUNCDATA_LocalsPointerMaps: Final = 1
PCDATA_InlTreeIndex: Final = 2
FuncFlagTopFrame: Final = 1  # a stack ends here; since 1.17
FuncFlagSPWrite: Final = 2  # writes an arbitrary value to SP; since 1.17
FuncFlagAsm: Final = 4  # since 1.18
NO_FUNCDATA: Final = 0xFFFF_FFFF  # an offset that means none, since 1.18

_U32: Final = struct.Struct("<I")


class PclntabError(ValueError):
    """A table of the binary that cannot be right; the message says which, and where."""


@dataclass(frozen=True, slots=True)
class Format:
    """One format of the table: how runtime.pcHeader, functab and _func lie in it."""

    name: str
    magic: int
    header: int  # bytes of the header in front of the offsets of the parts
    parts: bool  # whether the header gives the offsets of names, files, pctab and functions
    functab: Literal["Q", "I"]  # typecode of a functab word: (entry, offset) pairs of them
    func: struct.Struct  # _func as far as nfuncdata, in FIELDS' order with `absent` left out
    absent: tuple[str, ...]  # fields that this format does not have
    newest: tuple[int, int]  # the last Go version that wrote it
    oldest: tuple[int, int]


FIELDS: Final = (
    "entry",
    "nameoff",
    "args",
    "deferreturn",
    "pcsp",
    "pcfile",
    "pcln",
    "npcdata",
    "cuOffset",
    "startLine",
    "funcID",
    "flag",
    "nfuncdata",
)


def _format(
    name: str, magic: int, func: str, absent: tuple[str, ...], *versions: tuple[int, int]
) -> Format:
    absolute = func[1] == "Q"
    header = 16 if name == "1.2" else 24 if name == "1.16" else 32
    typecode: Literal["Q", "I"] = "Q" if absolute else "I"
    oldest, newest = versions
    return Format(
        name, magic, header, name != "1.2", typecode, struct.Struct(func), absent, newest, oldest
    )


FORMATS: Final = {
    each.magic: each
    for each in (
        _format(
            "1.2",
            0xFFFF_FFFB,
            "<QiiIIIIIB2xB",
            ("cuOffset", "startLine", "flag"),
            (1, 2),
            (1, 15),
        ),
        _format("1.16", 0xFFFF_FFFA, "<QiiIIIIIIBBxB", ("startLine",), (1, 16), (1, 17)),
        _format("1.18", 0xFFFF_FFF0, "<IiiIIIIIIBBxB", ("startLine",), (1, 18), (1, 19)),
        _format("1.20", 0xFFFF_FFF1, "<IiiIIIIIIiBBxB", (), (1, 20), (1, 27)),
    )
}


@dataclass(frozen=True, slots=True)
class Rules:
    """How the runtime of a Go version reads the tables (preempt.go, symtab.go, symtabinl.go)."""

    number: tuple[int, int]

    @property
    def register_maps(self) -> bool:
        """Whether PCDATA table 0 holds register map indices, of which only -2 says unsafe."""
        return self.number <= (1, 14)

    @property
    def FUNCDATA_InlTree(self) -> int:
        """The number of the inlining tree: the register pointer maps went with 1.16."""
        return 4 if self.number <= (1, 15) else 3

    @property
    def FuncIDWrapper(self) -> int:
        """The FuncID of wrappers, which tracebacks leave out."""
        minor = self.number[1]
        return 20 if minor <= 13 else 21 if 18 <= minor <= 21 else 22 if minor <= 24 else 23

    @property
    def asm_flag(self) -> bool:
        """Whether a flag marks assembly; before, &no_pointers_stackmap counted as no map."""
        return self.number >= (1, 18)

    @property
    def inlined_call(self) -> InlinedCallLayout:
        """How an entry of the inlining tree lies."""
        return INLINED_CALL_20 if self.number >= (1, 20) else INLINED_CALL_9


@dataclass(frozen=True, slots=True)
class InlinedCallLayout:
    """runtime.inlinedCall: its size, and the offsets of the callee's name and of parentPc."""

    size: int
    name: int
    parent_pc: int


INLINED_CALL_9: Final = InlinedCallLayout(20, 12, 16)
INLINED_CALL_20: Final = InlinedCallLayout(16, 4, 8)


def table_format(view: memoryview, address: int) -> Format:
    """The format of a table that begins here; PclntabError if none does."""
    if len(view) < 64:
        raise PclntabError(f"pclntab at {address:#x}: only {len(view)} bytes")
    magic = _U32.unpack_from(view)[0]
    if magic not in FORMATS:
        raise PclntabError(f"pclntab at {address:#x}: unknown magic {magic:#010x}")
    if bytes(view[4:8]) != b"\0\0\1\x08":
        raise PclntabError(f"pclntab at {address:#x}: not of 64-bit x86: {bytes(view[4:8]).hex()}")
    return FORMATS[magic]
