"""What the runtime asks about a PC: findfunc, pcdatavalue2, funcdata, names (runtime/symtab.go).

Whoever supplies code supplies a FuncTable. A snippet's comes from the assembler's image; a Go
binary's comes from its pclntab.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asm.image import Function, Image


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


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class ImageTable:
    """The functions of several images: (image, whether its functions count as compiled)."""

    images: Sequence[tuple[Image, bool]]

    def findfunc(self, pc: int) -> SnippetFunc | None:
        """The function that holds pc, in whichever image."""
        for image, compiled in self.images:
            function = image.findfunc(pc)
            if function is not None:
                return SnippetFunc(function, compiled)
        return None
