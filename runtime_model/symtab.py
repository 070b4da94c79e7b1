"""What the runtime asks about a PC: findfunc, pcdatavalue2, funcdata, names (runtime/symtab.go).

Whoever supplies code supplies a FuncTable. A snippet's comes from the assembler's image; a Go
binary's comes from its pclntab.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from functools import cached_property
from typing import TYPE_CHECKING, Final, Protocol

from asm.image import TextFlag
from asm.sp_flow import sp_flow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asm.image import Function, Image, PcTable
    from runtime_model.executable import ExecutableFunc, ExecutableTable


def funcpkgpath(name: str) -> str:
    """The import path in a linker's name: `a/b.(*T).m[go.shape.int]` is of `a/b`; "" if none."""
    head = name.partition("[")[0]
    slash = head.rfind("/") + 1
    dot = head.find(".", slash)
    return head[:dot] if dot >= 0 else ""


class Func(Protocol):
    """runtime.funcInfo: one function and its tables."""

    @property
    def name(self) -> str:
        """The linker's name: `main.loop`."""

    @property
    def entry(self) -> int:
        """The address of its first instruction."""

    @property
    def has_locals_pointer_maps(self) -> bool:
        """Whether FUNCDATA_LocalsPointerMaps is there."""

    @property
    def is_assembly(self) -> bool:
        """Whether FuncFlagAsm is set."""

    def pcdatavalue2(self, table: int, pc: int) -> tuple[int, int]:
        """The table's value at pc (-1: nothing said) and the PC where that value's run starts."""

    def innermost_name(self, pc: int) -> str:
        """The name of the function inlined innermost at pc."""


class FuncTable(Protocol):
    """All functions of the program."""

    def findfunc(self, pc: int) -> Func | None:
        """The function that holds pc; None if it is not Go code."""


FUNCDATA_LocalsPointerMaps: Final = 1  # in every version
NO_POINTERS: Final = "no_pointers_stackmap"


class PointerMap(Enum):
    """What is known of a frame's pointers."""

    NONE = auto()  # no word of it is one
    MISSING = auto()  # no map: the runtime throws where it needs one
    ANY = auto()  # any word may be one: what a compiler's maps would say is not in the text


@dataclass(frozen=True)
class SnippetFunc:
    """A function of an assembled image, seen as the compiler's or as assembly.

    `compiled` functions have pointer maps, as a compiled function of the same text would.
    Go's own assembler gives none, and Go's runtime never preempts such a function.
    """

    function: Function
    compiled: bool

    @property
    def name(self) -> str:
        """The linker's name."""
        return self.function.name

    @property
    def entry(self) -> int:
        """The address of its first instruction."""
        return self.function.address

    @property
    def has_locals_pointer_maps(self) -> bool:
        """True for code that counts as compiled."""
        return self.compiled

    @property
    def is_assembly(self) -> bool:
        """True where Go's rule for assembly functions is asked for."""
        return not self.compiled

    def pcdatavalue2(self, table: int, pc: int) -> tuple[int, int]:
        """The value of the image's PCDATA table and the start of its run."""
        pctable = self.function.pcdata.get(table)
        found = pctable.at(pc) if pctable is not None else None
        return (found.value, found.start) if found is not None else (-1, self.entry)

    def innermost_name(self, pc: int) -> str:  # noqa: ARG002  # assembly inlines nothing
        """The function's own name."""
        return self.function.name

    # Frames.

    @property
    def top_frame(self) -> bool:
        """FuncFlag_TOPFRAME: nothing has called it."""
        return TextFlag.TOPFRAME in self.function.flags

    @property
    def sp_write(self) -> bool:
        """FuncFlag_SPWRITE: it loads SP, so its caller cannot be told from the tables."""
        return self.function.sp_write or self._pcsp is None

    @cached_property
    def _pcsp(self) -> PcTable | None:
        table = self.function.spdelta
        return table if table.ranges else sp_flow(self.function)

    def funcspdelta(self, pc: int) -> int:
        """How far SP lies below its value at the entry, in bytes."""
        found = self._pcsp.at(pc) if self._pcsp is not None else None
        return found.value if found is not None else 0

    @cached_property
    def funcMaxSPDelta(self) -> int:
        """The largest funcspdelta."""
        ranges = self._pcsp.ranges if self._pcsp is not None else ()
        return max((r.value for r in ranges), default=0)

    @property
    def args(self) -> int:
        """Bytes of arguments and results; 0 where they are not declared."""
        return self.function.args_size or 0

    @property
    def locals_pointer_map(self) -> PointerMap:
        """NO_LOCAL_POINTERS says none. A compiler's maps are not in the text: any may be one."""
        if self.function.funcdata.get(FUNCDATA_LocalsPointerMaps) == NO_POINTERS:
            return PointerMap.NONE
        return PointerMap.ANY if self.compiled else PointerMap.MISSING


@dataclass(frozen=True, slots=True)
class ImageTable:
    """The functions of several images: (image, whether its functions count as compiled).

    What none of them has is looked up in an executable's table, if there is one.
    """

    images: Sequence[tuple[Image, bool]]
    executable: ExecutableTable | None = None
    _known: dict[int, SnippetFunc] = field(default_factory=dict, compare=False, repr=False)

    def findfunc(self, pc: int) -> SnippetFunc | ExecutableFunc | None:
        """The function that holds pc, in whichever image."""
        for image, compiled in self.images:
            function = image.findfunc(pc)
            if function is not None:
                known = self._known.get(function.address)
                if known is None:
                    known = SnippetFunc(function, compiled)
                    self._known[function.address] = known
                return known
        return None if self.executable is None else self.executable.findfunc(pc)
