"""Go's function tables in a binary: functions, PC-value tables, names, lines, inlining.

Specified by cmd/link/internal/ld/pcln.go, which writes them, and runtime/symtab.go and
symtabinl.go, which read them; what differs between versions stands in pclntab_format.py.

Everything is read from the mapped file when it is asked for. The file is not trusted: each
offset is checked, and a table that cannot be right is a PclntabError that says where.
"""

from __future__ import annotations

import bisect
import itertools
import operator
import re
import struct
from functools import cache, cached_property
from typing import TYPE_CHECKING, Final

from runtime_model.func_info import GoFunc
from runtime_model.pclntab_format import (
    FIELDS,
    NO_FUNCDATA,
    FUNCDATA_LocalsPointerMaps,
    PclntabError,
    table_format,
)
from runtime_model.pcvalue import PcValueError, decode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from runtime_model.pclntab_format import Rules
    from runtime_model.pcvalue import PcValues

LONGEST_NAME: Final = 1 << 16  # bytes; more is a string without its end
_MOST_TABLES: Final = 64  # PCDATA tables of a function; Go has five
_REMEMBERED_RUNS: Final = 1 << 21  # of PC-value tables: a hundred MiB

_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")


@cache
def _words(layout: str) -> struct.Struct:
    return struct.Struct(layout)


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
        self._runs = 0  # in these tables
        self._strings: dict[int, str] = {}
        self._string_bytes = 0

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
        # runtime.moduledataverify1 throws at an unsorted table; so do bounds of what is read here.
        starts = self._entries.tolist()
        if any(map(operator.gt, starts, itertools.islice(starts, 1, None))):
            raise self.error("functab is not in the order of addresses", functab)
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
        """A string of the table, remembered: no two of them share bytes, so all of them fit."""
        known = self._strings.get(offset)
        if known is not None:
            return known
        if not 0 <= offset < len(self.view):
            raise self.error(f"{what} lies outside", offset)
        for length in (128, LONGEST_NAME):
            text = bytes(self.view[offset : offset + length])
            end = text.find(0)
            if end >= 0:
                break
        else:
            raise self.error(f"{what} has no end", offset)
        self._string_bytes += end + 1
        if self._string_bytes > len(self.view):
            raise self.error(f"{what} lies within others", offset)
        found = self._strings[offset] = text[:end].decode("utf-8", "backslashreplace")
        return found

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
        if offset in (NO_FUNCDATA, 0xFFFF_FFFF_FFFF_FFFF):
            return None
        entry, limit = int(self._entries[index]), int(self._entries[index + 1])
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
        names = bytes(self.view[start : self._cus] if self._cus > start else self.view[start:])
        wanted = set()
        for match in re.finditer(re.escape(ending.encode()) + rb"\0", names):
            # The whole name begins behind the zero of the one before.
            at = match.start()
            if at == 0 or names[at - 1] in b"\0./":
                wanted.add(names.rfind(b"\0", max(0, at - LONGEST_NAME), at) + 1)
        at = FIELDS.index("nameoff") * 4 + (4 if self.format.functab == "Q" else 0)
        found = []
        for index in range(self.count):
            place = self._functions + int(self._offsets[index]) + at
            if place <= len(self.view) - 4 and _U32.unpack_from(self.view, place)[0] in wanted:
                function = self.function(index)
                found += [function] if function is not None else []
        return found

    def name(self, offset: int) -> str:
        """The linker's name at an offset of the name table."""
        return self._string(self._names + offset, "a function's name")

    def runtime_name(self, offset: int) -> str:
        """The same as the runtime sees it: it takes offset 0 for no name (funcnameFromNameOff)."""
        return self.name(offset) if offset else ""

    def runtime_name_starts(self, offset: int, prefixes: tuple[bytes, ...]) -> bool:
        """Whether that begins with one of the prefixes, none of which is longer than 32 bytes."""
        if not offset:
            return False
        place = self._names + offset
        if not 0 <= place < len(self.view):
            raise self.error("a function's name lies outside", place)
        return bytes(self.view[place : place + 32]).startswith(prefixes)

    def fields(self, offset: int) -> tuple[int, ...]:
        """_func's fields at an offset of the table, in FIELDS' order; absent ones are 0."""
        form = self.format
        if not 0 <= offset <= len(self.view) - form.func.size:
            raise self.error("a function lies outside", offset)
        found = form.func.unpack_from(self.view, offset)
        if form.absent:
            values = iter(found)
            found = tuple(0 if field in form.absent else next(values) for field in FIELDS)
        if found[7] > _MOST_TABLES:
            raise self.error(f"a function with {found[7]} PCDATA tables", offset)
        return found

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
        if offset == NO_FUNCDATA:
            return "?"
        return self._string(self._files + offset, "a file's name")

    def inlined(self, place: int, index: int) -> tuple[int, int]:
        """(name's offset, parentPc) of an entry of the inlining tree whose FUNCDATA is `place`."""
        if self._gofunc is None:
            raise PclntabError("inlining trees cannot be read: no moduledata")
        layout = self.rules.inlined_call
        entry = self._gofunc(place + index * layout.size, layout.size)
        name = int(_U32.unpack_from(entry, layout.name)[0])
        return name, int(struct.unpack_from("<i", entry, layout.parent_pc)[0])

    def inlined_nameoffs(self, place: int, indices: set[int]) -> dict[int, int]:
        """The offsets of the names of some inlined calls; indices below 0 are none."""
        highest = max(indices)
        if highest < 0:
            return {}
        if self._gofunc is None:
            raise PclntabError("inlining trees cannot be read: no moduledata")
        layout = self.rules.inlined_call
        words = self._gofunc(place, (highest + 1) * layout.size).cast("I")
        names = words[layout.name // 4 :: layout.size // 4]
        return {index: names[index] for index in indices if index >= 0}

    def pcvalues(self, offset: int, size: int) -> PcValues:
        """The PC-value table at an offset of pctab, of a function of at most `size` bytes.

        Tables are shared between functions, so what is decoded is remembered by offset.
        """
        found = self._tables.get(offset)
        if found is None:
            try:
                found = self._tables[offset] = decode(self.view, self._pctab + offset, size)
            except PcValueError as error:
                raise self.error(str(error), self._pctab + offset) from None
            self._runs += len(found.ends)
            if self._runs > _REMEMBERED_RUNS:
                self._tables.clear()
                self._runs = 0
        if found.ends and found.ends[-1] > size:
            raise self.error(f"a PC-value table of {found.ends[-1]} bytes for {size}", offset)
        return found

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
