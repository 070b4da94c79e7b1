"""One function of a Go binary and what its tables say of a PC (runtime/symtab.go's funcInfo).

It is a symtab.Func, so that preempt.static_verdict judges files as it judges programs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from asm.image import PCDATA_UnsafePoint, UnsafePointSafe, UnsafePointUnsafe
from runtime_model.pclntab_format import (
    NO_FUNCDATA,
    FUNCDATA_LocalsPointerMaps,
    FuncFlagAsm,
    FuncFlagSPWrite,
    FuncFlagTopFrame,
    PCDATA_InlTreeIndex,
)
from runtime_model.pcvalue import PcValues

if TYPE_CHECKING:
    from runtime_model.pclntab import Pclntab


@dataclass(frozen=True, slots=True)
class Frame:
    """A function at a PC: the innermost inlined one first, the physical function last."""

    function: str
    file: str
    line: int


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
            self._name = self.table.name(self.nameoff)
        return self._name

    @property
    def nameoff(self) -> int:
        """Where its name stands in the table of names."""
        return self._fields[1] & 0xFFFF_FFFF

    @property
    def id(self) -> int:
        """FuncID: the numbers change with the Go version; 0 is an ordinary function."""
        return self._fields[10]

    @property
    def flag(self) -> int:
        """FuncFlag bits; 0 before 1.17."""
        return self._fields[11]

    @property
    def labels(self) -> tuple[str, ...]:
        """What FuncID and FuncFlag say: "wrapper", and the flags as textflag.h has them, "ASM"."""
        names = {
            "wrapper": self.id == self.table.rules.FuncIDWrapper,
            "TOPFRAME": self.flag & FuncFlagTopFrame,
            "SPWRITE": self.flag & FuncFlagSPWrite,
            "ASM": self.is_assembly,
        }
        return tuple(name for name, holds in names.items() if holds)

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

    @property
    def funcMaxSPDelta(self) -> int:
        """How far SP lies below its value at the entry at most, in bytes."""
        return max(self._pcvalues(self._fields[4]).values, default=0) if self._fields[4] else 0

    def pcdata_offset(self, number: int) -> int:
        """Where the PCDATA table of that number begins in pctab; 0 where there is none."""
        return self.words[number] if number < self._fields[7] else 0

    def pcdata(self, number: int) -> PcValues | None:
        """The PCDATA table of that number; None where there is none."""
        offset = self.pcdata_offset(number)
        return self.table.pcvalues(offset, self.limit - self.entry) if offset else None

    def funcdata(self, number: int) -> int:
        """FUNCDATA: its address up to 1.17, since then 1 + its offset from gofunc; 0 for none."""
        if number >= self._fields[12]:
            return 0
        found = self.words[self._fields[7] + number]
        if self.table.format.functab == "Q":
            return found
        return 0 if found == NO_FUNCDATA else found + 1

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
        found = self.unsafe_points() if table == PCDATA_UnsafePoint else self.pcdata(table)
        if found is None:
            return -1, 0
        run = found.at(pc - self.entry)
        if run is None:
            raise self.table.error(
                f"PCDATA table {table} of {self.name} says nothing of {pc:#x}", self.offset
            )
        return found.values[run], self.entry + (found.ends[run - 1] if run else 0)

    def unsafe_points(self) -> PcValues | None:
        """PCDATA_UnsafePoint. Up to 1.14 it holds register maps, of which all but -2 are safe."""
        found = self.pcdata(PCDATA_UnsafePoint)
        if found is None or not self.table.rules.register_maps:
            return found
        unsafe = UnsafePointUnsafe
        return PcValues(
            found.ends, [unsafe if v == unsafe else UnsafePointSafe for v in found.values]
        )

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

    def inlined_runs(self) -> tuple[PcValues, dict[int, int]] | None:
        """PCDATA_InlTreeIndex, and for each index in it the offset of the inlined call's name."""
        tree = self.inline_tree()
        indices = self.pcdata(PCDATA_InlTreeIndex) if tree is not None else None
        if tree is None or indices is None:
            return None
        return indices, self.table.inlined_nameoffs(tree, set(indices.values))

    def innermost_name(self, pc: int) -> str:
        """The name of the function inlined innermost at pc, as the runtime sees it."""
        found = self._inlined_at(pc)
        nameoff = self.table.inlined(*found)[0] if found is not None else self.nameoff
        return self.table.runtime_name(nameoff)

    def spdelta(self) -> list[tuple[int, int, int]]:
        """(start, end, value) of pcsp: how far SP lies below its value at the entry, in bytes."""
        if not self._fields[4]:
            return []
        table = self._pcvalues(self._fields[4])
        starts = (0, *table.ends)
        return [
            (self.entry + start, self.entry + end, value)
            for start, end, value in zip(starts, table.ends, table.values, strict=False)
        ]

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
            nameoff, parent_pc = self.table.inlined(*found)
            name = self.table.name(nameoff)
            frames.append(Frame(name, *self.file_line(pc)))
            if not 0 <= parent_pc < self.limit - self.entry or len(frames) > 1000:
                raise self.table.error(f"inlining of {name} into {self.name}", self.offset)
            pc = self.entry + parent_pc
            found = self._inlined_at(pc)
        return (*frames, Frame(self.name, *self.file_line(pc)))
