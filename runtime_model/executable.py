"""The code of a Go executable, as a program of the runtime: functions, instructions, safe points.

Addresses are those of the running program, which lies `base` above where the file says. Functions
come from the pclntab, instructions from the file's bytes in Intel's syntax.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from asm.image import Function, Instruction, PcTable, PcValue, Position, TextFlag
from emulator.disassembly import disassemble
from runtime_model.symtab import PointerMap

if TYPE_CHECKING:
    from asm.image import Segment
    from runtime_model.func_info import GoFunc
    from runtime_model.moduledata import GoBinary


class ExecutableCode:
    """What `asm.image.Code` asks for, decoded function by function when it is asked for."""

    def __init__(self, binary: GoBinary, base: int = 0, segments: tuple[Segment, ...] = ()) -> None:
        self.binary = binary
        self.base = base
        self.segments = segments
        self._known: dict[int, Function] = {}

    def findfunc(self, pc: int) -> Function | None:
        """The function whose code holds pc, if one does."""
        found = self.binary.findfunc(pc - self.base)
        return None if found is None else self._function(found)

    def function(self, name: str) -> Function | None:
        """The function of this linker name, if there is one."""
        found = next((f for f in self.binary.table.named(name) if f.name == name), None)
        return None if found is None else self._function(found)

    def address(self, name: str) -> int | None:
        """The address of a function, if there is one of that name."""
        found = self.function(name)
        return None if found is None else found.address

    def _function(self, found: GoFunc) -> Function:
        known = self._known.get(found.entry)
        if known is None:
            known = self._known[found.entry] = self._decoded(found)
        return known

    def _decoded(self, found: GoFunc) -> Function:
        entry, end, base = found.entry, found.end, self.base
        code = bytes(self.binary.code(entry, end))
        return Function(
            name=found.name,
            address=entry + base,
            end=end + base,
            flags=TextFlag.NONE,
            abi="",
            frame_size=0,
            args_size=None,
            instructions=tuple(
                Instruction(
                    each.address,
                    code[each.address - entry - base :][: each.size],
                    each.text,
                    _position(found, each.address - base),
                )
                for each in disassemble(code, entry + base)
            ),
            position=_position(found, entry),
            spdelta=PcTable(
                tuple(
                    PcValue(start + base, stop + base, value)
                    for start, stop, value in found.spdelta()
                )
            ),
        )


def _position(function: GoFunc, pc: int) -> Position:
    file, line = function.file_line(pc)
    return Position(file.rpartition("/")[2], line)


class ExecutableTable:
    """symtab.FuncTable of an executable whose code lies `base` above where the file says."""

    def __init__(self, binary: GoBinary, base: int = 0) -> None:
        self.binary = binary
        self.base = base
        self._known: dict[int, ExecutableFunc] = {}

    def findfunc(self, pc: int) -> ExecutableFunc | None:
        """The function that holds pc; None if it is not Go code."""
        found = self.binary.findfunc(pc - self.base)
        if found is None:
            return None
        known = self._known.get(found.entry)
        if known is None:
            known = self._known[found.entry] = ExecutableFunc(found, self.base)
        return known


class ExecutableFunc:
    """symtab.Func of an executable."""

    def __init__(self, function: GoFunc, base: int) -> None:
        self._function = function
        self._base = base
        self.name = function.name
        self.entry = function.entry + base
        self.has_locals_pointer_maps = function.has_locals_pointer_maps
        self.is_assembly = function.is_assembly
        self.top_frame = "TOPFRAME" in function.labels
        self.sp_write = "SPWRITE" in function.labels
        self.args = 0
        self.locals_pointer_map = PointerMap.ANY

    def pcdatavalue2(self, table: int, pc: int) -> tuple[int, int]:
        """The table's value at pc and where its run starts (GoFunc.pcdatavalue2)."""
        value, start = self._function.pcdatavalue2(table, pc - self._base)
        return value, start + self._base if start else 0

    def innermost_name(self, pc: int) -> str:
        """The name of the function inlined innermost at pc."""
        return self._function.innermost_name(pc - self._base)

    def funcspdelta(self, pc: int) -> int:
        """How far SP lies below its value at the entry, in bytes."""
        runs = self._function.spdelta()
        return next((value for start, end, value in runs if start <= pc - self._base < end), 0)

    @property
    def funcMaxSPDelta(self) -> int:
        """The largest funcspdelta."""
        return max((value for _, _, value in self._function.spdelta()), default=0)
