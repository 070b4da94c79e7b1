"""Go's function tables in a binary: functions, PC-value tables, names, lines, inlining.

Specified by cmd/link/internal/ld/pcln.go, which writes them, and runtime/symtab.go and
symtabinl.go, which read them. There are four formats, named after the first Go version that
wrote them: 1.2 (to 1.15), 1.16, 1.18 and 1.20. What differs between them stands in FORMATS;
what differs between the runtimes that read one format stands in Rules.

Everything is read from the mapped file when it is asked for. The file is not trusted: each
offset is checked, and a table that cannot be right is a PclntabError that says where.
"""

from __future__ import annotations

import bisect
import re
import struct
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Final, Literal

from asm.image import PCDATA_UnsafePoint, UnsafePointSafe, UnsafePointUnsafe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

PCDATA_InlTreeIndex: Final = 2
FUNCDATA_LocalsPointerMaps: Final = 1
FuncFlagTopFrame: Final = 1
FuncFlagSPWrite: Final = 2
FuncFlagAsm: Final = 4  # since 1.18

LONGEST_NAME: Final = 1 << 16  # bytes; more is a string without its end
_NO_FUNCDATA: Final = 0xFFFF_FFFF
_MOST_TABLES: Final = 64  # PCDATA tables of a function; Go has five
_CACHED_TABLES: Final = 1 << 15

_END: Final = 1 << 62

_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")


class PclntabError(ValueError):
    """A table of the binary that cannot be right; the message says which, and where."""


@cache
def _words(layout: str) -> struct.Struct:
    return struct.Struct(layout)


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


@dataclass(frozen=True, slots=True)
class PcValues:
    """A decoded PC-value table: value i holds up to `ends[i]`, counted from the function's entry.

    It begins at the entry and no run is empty; behind the last end it says nothing.
    """

    ends: Sequence[int]
    values: Sequence[int]

    def at(self, offset: int) -> int | None:
        """The index of the run that holds the offset, or None behind the last one."""
        index = bisect.bisect_right(self.ends, offset)
        return index if index < len(self.ends) else None


_NOTHING: Final = PcValues((), ())


@dataclass(frozen=True, slots=True)
class Frame:
    """A function at a PC: the innermost inlined one first, the physical function last."""

    function: str
    file: str
    line: int


class Pclntab:
    """A binary's function table.

    `view` begins at the header and goes to the end of its segment. `text` is the address that
    entries count from (1.18 on). `gofunc(offset_or_address, size)` reads FUNCDATA: an offset
    from moduledata.gofunc since 1.18, an address before. `no_pointers_stackmap` is the address
    of that symbol, for the rule of 1.14 to 1.17; found by itself where it is not given.
    """

    def __init__(
        self,
        view: memoryview,
        address: int,
        rules: Rules,
        text: int = 0,
        gofunc: Callable[[int, int], memoryview] | None = None,
        text_end: int | None = None,
    ) -> None:
        self.view = view
        self.address = address
        self.rules = rules
        self.format = table_format(view, address)
        self._gofunc = gofunc
        self._read_header()
        self.text = text if self.format.functab == "I" else 0
        self.text_end = text_end
        self._tables: dict[int, PcValues] = {}
        self._inlined_names: dict[tuple[int, int], str] = {}

    def error(self, what: str, offset: int) -> PclntabError:
        """An error at an offset from the header."""
        return PclntabError(f"pclntab at {self.address:#x}: {what} (offset {offset:#x})")

    def _read_header(self) -> None:
        form = self.format
        size = len(self.view)
        count = self._word(8, "nfunc")
        if form.parts:
            names, cus, files, pctab, functab = (
                self._word(form.header + 8 * i, "header") for i in range(5)
            )
            for what, offset in (("funcnametab", names), ("functab", functab), ("pctab", pctab)):
                if not form.header <= offset < size:
                    raise self.error(f"{what} lies outside", offset)
        else:
            names = pctab = files = cus = 0
            functab = form.header
        self._names, self._cus, self._files, self._pctab = names, cus, files, pctab
        self._functions = functab if form.parts else 0
        width = struct.calcsize(form.functab)
        end = functab + (2 * count + 1) * width
        if count == 0 or end > size:
            raise self.error(f"{count} functions do not fit", functab)
        words = self.view[functab:end].cast(form.functab)
        self._entries = words[0::2]
        self._offsets = words[1::2]
        self.count = count
        if not form.parts:
            self._files = self._u32(end, "file table")

    # Bytes of the table, checked.

    def _word(self, offset: int, what: str) -> int:
        if not 0 <= offset <= len(self.view) - 8:
            raise self.error(f"{what} lies outside", offset)
        value: int = _U64.unpack_from(self.view, offset)[0]
        return value

    def _u32(self, offset: int, what: str) -> int:
        if not 0 <= offset <= len(self.view) - 4:
            raise self.error(f"{what} lies outside", offset)
        value: int = _U32.unpack_from(self.view, offset)[0]
        return value

    def _string(self, offset: int, what: str) -> str:
        if not 0 <= offset < len(self.view):
            raise self.error(f"{what} lies outside", offset)
        for length in (128, LONGEST_NAME):
            text = bytes(self.view[offset : offset + length])
            end = text.find(0)
            if end >= 0:
                return text[:end].decode("utf-8", "backslashreplace")
        raise self.error(f"{what} has no end", offset)

    # Functions.

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[GoFunc]:
        for index in range(self.count):
            found = self.function(index)
            if found is not None:
                yield found

    @property
    def start(self) -> int:
        """The first function's address."""
        return self.text + int(self._entries[0])

    @property
    def end(self) -> int:
        """The address behind the last function."""
        return self.text + int(self._entries[self.count])

    def function(self, index: int) -> GoFunc | None:
        """The function of a functab entry; None for a hole that the external linker left."""
        offset = int(self._offsets[index])
        if offset in (_NO_FUNCDATA, 0xFFFF_FFFF_FFFF_FFFF):
            return None
        entry, limit = int(self._entries[index]), int(self._entries[index + 1])
        if limit < entry:
            raise self.error(f"function {index} ends before it begins", self._functions + offset)
        if self.text_end is not None and self.text + limit > self.text_end:
            raise self.error(f"function {index} leaves the text", self._functions + offset)
        return GoFunc(self, index, self._functions + offset, self.text + entry, self.text + limit)

    def findfunc(self, pc: int) -> GoFunc | None:
        """The function that holds pc; None if it is not Go code (runtime.findfunc)."""
        offset = pc - self.text
        if not int(self._entries[0]) <= offset < int(self._entries[self.count]):
            return None
        index = bisect.bisect_right(self._entries, offset) - 1
        return self.function(index) if 0 <= index < self.count else None

    def named(self, ending: str) -> list[GoFunc]:
        """Functions of this name, or whose name ends in it behind a dot or a slash.

        The names are searched as bytes: of a hundred thousand functions only these are read.
        """
        start = self._names
        names = self.view[start : self._cus] if self._cus > start else self.view[start:]
        wanted = set()
        for match in re.finditer(re.escape(ending.encode()) + rb"\0", names):
            # The whole name begins behind the zero of the one before.
            first = max(0, match.start() - LONGEST_NAME)
            head = bytes(names[first : match.start()])
            if not head or head[-1] in b"\0./":
                wanted.add(first + head.rfind(0) + 1)
        at = FIELDS.index("nameoff") * 4 + (4 if self.format.functab == "Q" else 0)
        found = []
        for index in range(self.count):
            place = self._functions + int(self._offsets[index]) + at
            if place <= len(self.view) - 4 and _U32.unpack_from(self.view, place)[0] in wanted:
                function = self.function(index)
                found += [function] if function is not None else []
        return found

    def name(self, offset: int) -> str:
        """The name at an offset of the name table (funcnameFromNameOff)."""
        return self._string(self._names + offset, "a function's name") if offset else ""

    def fields(self, offset: int) -> tuple[int, ...]:
        """_func's fields at an offset of the table, in FIELDS' order; absent ones are 0."""
        form = self.format
        if not 0 <= offset <= len(self.view) - form.func.size:
            raise self.error("a function lies outside", offset)
        found = list(form.func.unpack_from(self.view, offset))
        for field in form.absent:
            found.insert(FIELDS.index(field), 0)
        if found[7] > _MOST_TABLES:
            raise self.error(f"a function with {found[7]} PCDATA tables", offset)
        return tuple(found)

    def words(self, offset: int, npcdata: int, nfuncdata: int) -> tuple[int, ...]:
        """The PCDATA offsets and the FUNCDATA of the function at an offset (runtime.funcdata)."""
        at = offset + self.format.func.size
        if self.format.functab == "I":
            layout = _words(f"<{npcdata + nfuncdata}I")
        else:
            # Pointers are aligned; what is aligned is the address, not the offset.
            pad = (self.address + at + 4 * npcdata) & 4
            layout = _words(f"<{npcdata}I{pad}x{nfuncdata}Q")
        if at > len(self.view) - layout.size:
            raise self.error("a function's PCDATA and FUNCDATA lie outside", offset)
        return layout.unpack_from(self.view, at)

    def file(self, cu_offset: int, number: int) -> str:
        """A file's path by its number in the compilation unit (runtime.funcfile)."""
        if not self.format.parts:
            return self._string(self._u32(self._files + 4 * number, "a file's offset"), "a file")
        offset = self._u32(self._cus + 4 * (cu_offset + number), "a file's offset")
        if offset == _NO_FUNCDATA:
            return "?"
        return self._string(self._files + offset, "a file's name")

    def inlined(self, place: int, index: int) -> tuple[str, int]:
        """(name, parentPc) of an entry of the inlining tree whose FUNCDATA is `place`."""
        if self._gofunc is None:
            raise PclntabError("inlining trees cannot be read: no moduledata")
        layout = self.rules.inlined_call
        entry = self._gofunc(place + index * layout.size, layout.size)
        name = self.name(_U32.unpack_from(entry, layout.name)[0])
        return name, int(struct.unpack_from("<i", entry, layout.parent_pc)[0])

    def inlined_name(self, place: int, index: int) -> str:
        """The name in an entry of the inlining tree, remembered."""
        found = self._inlined_names.get((place, index))
        if found is None:
            if len(self._inlined_names) >= _CACHED_TABLES:
                self._inlined_names.clear()
            found = self._inlined_names[place, index] = self.inlined(place, index)[0]
        return found

    def pcvalues(self, offset: int, size: int) -> PcValues:
        """The PC-value table at an offset of pctab, of a function of at most `size` bytes.

        Tables are shared between functions, so what is decoded is remembered by offset.
        """
        found = self._tables.get(offset)
        if found is None:
            if len(self._tables) >= _CACHED_TABLES:
                self._tables.clear()
            found = self._tables[offset] = self._decode(self._pctab + offset, size)
        if found.ends and found.ends[-1] > size:
            raise self.error(f"a PC-value table of {found.ends[-1]} bytes for {size}", offset)
        return found

    def _decode(self, at: int, size: int) -> PcValues:
        """runtime.step, to the end: (zigzag delta of the value, delta of the PC) as uvarints."""
        view = self.view
        start = at
        ends: list[int] = []
        values: list[int] = []
        value = -1
        pc = 0
        try:
            while True:
                delta = view[at]
                at += 1
                if delta == 0 and pc != 0:
                    break
                if delta >= 0x80:
                    delta, at = self._uvarint(delta, at)
                value += -(delta >> 1) - 1 if delta & 1 else delta >> 1
                step = view[at]
                at += 1
                if step >= 0x80:
                    step, at = self._uvarint(step, at)
                pc += step
                if pc > size or (step == 0 and at - start > 4 * size + 64):
                    raise self.error(f"a PC-value table goes past its function's {size}", start)
                if step:  # what is empty holds at no PC
                    ends.append(pc)
                    values.append(value)
        except IndexError:
            raise self.error("a PC-value table has no end", start) from None
        if any(not -(1 << 31) <= each < 1 << 31 for each in (min(values), max(values))):
            values = [(each + (1 << 31)) % (1 << 32) - (1 << 31) for each in values]
        return PcValues(ends, values)

    def _uvarint(self, first: int, at: int) -> tuple[int, int]:
        value = first & 0x7F
        for shift in (7, 14, 21, 28):
            byte = self.view[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFF_FFFF, at
        raise self.error("a number of more than five bytes", at)

    @cached_property
    def no_pointers_stackmap(self) -> int:
        """The address of runtime.no_pointers_stackmap, or 0: what runtime.call32 has as its map.

        Only 1.14 to 1.17 ask for it. reflectcall's call32, in assembly, is linked into every
        program and is declared NO_LOCAL_POINTERS.
        """
        for function in self:
            if function.name == "runtime.call32":
                return function.funcdata(FUNCDATA_LocalsPointerMaps)
        return 0


class GoFunc:
    """runtime.funcInfo of one function. `limit` is where the next function begins."""

    __slots__ = (
        "_fields",
        "_name",
        "_words",
        "entry",
        "index",
        "limit",
        "offset",
        "table",
    )

    def __init__(self, table: Pclntab, index: int, offset: int, entry: int, limit: int) -> None:
        self.table = table
        self.index = index
        self.offset = offset  # of its _func, from the header
        self.entry = entry
        self.limit = limit
        self._name: str | None = None
        self._words: tuple[int, ...] | None = None
        self._fields = table.fields(offset)
        if self._fields[0] != entry - table.text:
            raise table.error(
                f"function {index} begins at {self._fields[0]:#x} by its own account, "
                f"at {entry - table.text:#x} by functab's",
                offset,
            )

    def __repr__(self) -> str:
        return f"GoFunc({self.name}, {self.entry:#x})"

    @property
    def name(self) -> str:
        """The linker's name."""
        if self._name is None:
            self._name = self.table.name(self._fields[1] & 0xFFFF_FFFF)
        return self._name

    @property
    def id(self) -> int:
        """FuncID: the numbers change with the Go version; 0 is an ordinary function."""
        return self._fields[10]

    @property
    def flag(self) -> int:
        """FuncFlag bits; 0 before 1.17."""
        return self._fields[11]

    @property
    def end(self) -> int:
        """The address behind its code, without the padding: where its PC-value tables end."""
        for offset in (self._fields[4], self._fields[5], self._fields[6]):
            if offset:
                return self.entry + self._pcvalues(offset).ends[-1]
        return self.limit

    def _pcvalues(self, offset: int) -> PcValues:
        return self.table.pcvalues(offset, self.limit - self.entry)

    @property
    def words(self) -> tuple[int, ...]:
        """What stands behind _func: npcdata offsets of PCDATA tables, then nfuncdata FUNCDATA."""
        if self._words is None:
            self._words = self.table.words(self.offset, self._fields[7], self._fields[12])
        return self._words

    def pcdata(self, number: int) -> PcValues | None:
        """The PCDATA table of that number; None where there is none."""
        offset = self.words[number] if number < self._fields[7] else 0
        return self.table.pcvalues(offset, self.limit - self.entry) if offset else None

    def funcdata(self, number: int) -> int:
        """FUNCDATA: its address up to 1.17, since then 1 + its offset from gofunc; 0 for none."""
        if number >= self._fields[12]:
            return 0
        found = self.words[self._fields[7] + number]
        if self.table.format.functab == "Q":
            return found
        return 0 if found == _NO_FUNCDATA else found + 1

    @property
    def has_locals_pointer_maps(self) -> bool:
        """Whether FUNCDATA_LocalsPointerMaps is there, in the sense of the version's runtime."""
        found = self.funcdata(FUNCDATA_LocalsPointerMaps)
        if self.table.rules.asm_flag or not found:
            return found != 0
        return found != self.table.no_pointers_stackmap

    @property
    def is_assembly(self) -> bool:
        """Whether FuncFlagAsm is set (1.18 on)."""
        return self.table.rules.asm_flag and bool(self.flag & FuncFlagAsm)

    def pcdatavalue2(self, table: int, pc: int) -> tuple[int, int]:
        """The table's value at pc (-1: nothing said) and the PC where that value's run starts.

        PclntabError where the table ends before pc: the runtime throws there.
        """
        found = self.pcdata(table)
        if found is None:
            return -1, 0
        run = found.at(pc - self.entry)
        if run is None:
            raise self.table.error(
                f"PCDATA table {table} of {self.name} says nothing of {pc:#x}", self.offset
            )
        value = found.values[run]
        if table == PCDATA_UnsafePoint and self.table.rules.register_maps:
            value = value if value == UnsafePointUnsafe else UnsafePointSafe
        return value, self.entry + (found.ends[run - 1] if run else 0)

    def inline_tree(self) -> int | None:
        """The FUNCDATA of its inlining tree, as gofunc() takes it; None without one."""
        tree = self.funcdata(self.table.rules.FUNCDATA_InlTree)
        if not tree:
            return None
        return tree - 1 if self.table.format.functab == "I" else tree

    def _inlined_at(self, pc: int) -> tuple[int, int] | None:
        """(FUNCDATA, index in the tree) of the innermost inlined call at pc."""
        tree = self.inline_tree()
        indices = self.pcdata(PCDATA_InlTreeIndex) if tree is not None else None
        run = indices.at(pc - self.entry) if indices is not None else None
        if tree is None or indices is None or run is None or indices.values[run] < 0:
            return None
        return tree, indices.values[run]

    def innermost_name(self, pc: int) -> str:
        """The name of the function inlined innermost at pc."""
        found = self._inlined_at(pc)
        return self.table.inlined_name(*found) if found is not None else self.name

    def file_line(self, pc: int) -> tuple[str, int]:
        """The source line of pc, that of the innermost inlined function; ("?", 0) if unknown."""
        if not self._fields[5] or not self._fields[6]:
            return "?", 0
        files, lines = self._pcvalues(self._fields[5]), self._pcvalues(self._fields[6])
        file, line = files.at(pc - self.entry), lines.at(pc - self.entry)
        if file is None or line is None or files.values[file] < 0 or lines.values[line] < 0:
            return "?", 0
        return self.table.file(self._fields[8], files.values[file]), lines.values[line]

    def frames(self, pc: int) -> tuple[Frame, ...]:
        """The functions at pc, the innermost inlined one first, each with its line."""
        found = self._inlined_at(pc)
        frames: list[Frame] = []
        while found is not None:
            name, parent_pc = self.table.inlined(*found)
            frames.append(Frame(name, *self.file_line(pc)))
            if not 0 <= parent_pc < self.limit - self.entry or len(frames) > 1000:
                raise self.table.error(f"inlining of {name} into {self.name}", self.offset)
            pc = self.entry + parent_pc
            found = self._inlined_at(pc)
        return (*frames, Frame(self.name, *self.file_line(pc)))

    def settled(self) -> SettledFunc:
        """This function for many questions."""
        return SettledFunc(self)


class SettledFunc:
    """A function that answers as the GoFunc does, with what does not change looked up once."""

    __slots__ = (
        "_calls",
        "_points",
        "_tree",
        "entry",
        "function",
        "has_locals_pointer_maps",
        "is_assembly",
        "name",
    )

    def __init__(self, function: GoFunc) -> None:
        self.function = function
        self.name = function.name
        self.entry = function.entry
        self.has_locals_pointer_maps = function.has_locals_pointer_maps
        self.is_assembly = function.is_assembly
        self._points = function.pcdata(PCDATA_UnsafePoint)
        self._tree = function.inline_tree()
        self._calls = function.pcdata(PCDATA_InlTreeIndex) if self._tree is not None else None

    def pcdatavalue2(self, table: int, pc: int) -> tuple[int, int]:
        """As GoFunc's."""
        return self.function.pcdatavalue2(table, pc)

    def innermost_name(self, pc: int) -> str:
        """As GoFunc's."""
        if self._calls is None or self._tree is None:
            return self.name
        run = self._calls.at(pc - self.entry)
        if run is None or self._calls.values[run] < 0:
            return self.name
        return self.function.table.inlined_name(self._tree, self._calls.values[run])

    def runs(self, end: int) -> list[tuple[int, tuple[int, int]]]:
        """Where the answers change, up to `end`: (PC, (UnsafePoint, index of the inlined call))."""
        points, calls, size = self._points, self._calls, end - self.entry
        if points is None and calls is None:
            return [(self.entry, (-1, -1))]
        # Behind the last run of a table nothing is said: a run of -1 without an end.
        points, calls = points or _NOTHING, calls or _NOTHING
        point_ends, point_values = (*points.ends, _END), (*points.values, -1)
        call_ends, call_values = (*calls.ends, _END), (*calls.values, -1)
        found = []
        point = call = start = 0
        while start < size:
            found.append((self.entry + start, (point_values[point], call_values[call])))
            point_end, call_end = point_ends[point], call_ends[call]
            start = min(point_end, call_end)
            if point_end == start:
                point += 1
            if call_end == start:
                call += 1
        return found


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
