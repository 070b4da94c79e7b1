"""A Go binary: where its function table is, by which version, and what moduledata adds to it.

The table stands in .gopclntab (.data.rel.ro.gopclntab in older position-independent
executables); where section headers are stripped or the section was merged into another, its
first eight bytes find it. From 1.18 on the addresses in it count from moduledata's text and
gofunc (runtime/symtab.go); moduledata is the place in the data that points at the table.
"""

from __future__ import annotations

import itertools
import struct
from functools import cached_property
from typing import TYPE_CHECKING, Final, Self

from emulator.elf import Elf, ElfError
from runtime_model import layout
from runtime_model.buildinfo import build_version, named_version, version_in_schedinit
from runtime_model.pclntab import Pclntab
from runtime_model.pclntab_format import FORMATS, PclntabError, Rules, table_format
from runtime_model.version import NEWEST, OLDEST, GoVersion

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from runtime_model.func_info import GoFunc
    from runtime_model.pclntab_format import Format

_SECTIONS: Final = (".gopclntab", ".data.rel.ro.gopclntab")
_U64: Final = struct.Struct("<Q")


class NotGoError(ValueError):
    """An executable without Go's function table."""


class UnknownVersionError(ValueError):
    """A Go version that the binary does not tell, or that is not known here."""


class GoBinary:
    """A Go executable, mapped: its version and its functions.

    `version` overrides what the binary says. Raises ElfError, NotGoError, PclntabError,
    UnknownVersionError. Everything read is in addresses of the file (load address 0 for PIE).
    """

    def __init__(self, path: Path, version: GoVersion | None = None) -> None:
        self.path = path
        self.elf = Elf(path)
        address, self.format = self._find_pclntab()
        self.pclntab_address = address
        self.build_version = build_version(self.elf) or self._runtime_version()
        self.version = version or self._version()
        if not self.format.oldest <= self.version.number <= self.format.newest:
            raise UnknownVersionError(
                f"{path}: Go {self.version} does not write function tables of format "
                f"{self.format.name} (Go {_dotted(self.format.oldest)} to "
                f"{_dotted(self.format.newest)})"
            )
        view = self.elf.rest(address)
        rules = Rules(self.version.number)
        if not rules.asm_flag:
            self.table = Pclntab(view, address, rules, gofunc=self.elf.view)
            self._check_text(self.table)
            return
        place = self._find_moduledata(view)
        where = layout.load(self.version.number)
        text, etext, gofunc = (
            self.elf.u64(place + where.offset("moduledata", name))
            for name in ("text", "etext", "gofunc")
        )
        sections = self.elf.u64(place + where.offset("moduledata", "textsectmap") + 8)
        if sections > 1:
            raise PclntabError(f"{path}: {sections} text sections: amd64's linker writes one")
        self.table = Pclntab(
            view, address, rules, text, lambda at, size: self.elf.view(gofunc + at, size), etext
        )
        self._check_text(self.table)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the file."""
        self.elf.close()

    def findfunc(self, pc: int) -> GoFunc | None:
        """The function that holds pc; None if it is not Go code."""
        return self.table.findfunc(pc)

    def __iter__(self) -> Iterator[GoFunc]:
        return iter(self.table)

    @cached_property
    def names(self) -> dict[str, GoFunc]:
        """All functions by name; of two with one name the first."""
        found: dict[str, GoFunc] = {}
        for function in self.table:
            found.setdefault(function.name, function)
        return found

    def code(self, start: int, end: int) -> memoryview:
        """The bytes of a range of code."""
        return self.elf.view(start, end - start)

    def _find_pclntab(self) -> tuple[int, Format]:
        places = [
            section.address
            for name in _SECTIONS
            if (section := self.elf.sections.get(name)) is not None
        ]
        problem: ValueError | None = None
        for address in itertools.chain(places, self._by_magic()):
            try:
                return address, table_format(self.elf.rest(address), address)
            except (PclntabError, ElfError) as error:
                problem = problem or error
        if problem is not None:
            raise PclntabError(f"{self.path}: {problem}")
        raise NotGoError(f"{self.path}: no Go function table in it: not a Go program")

    def _by_magic(self) -> Iterator[int]:
        """Where a header of a known format stands that leads to a function in executable code."""
        for form in FORMATS.values():
            for address in self.elf.find(struct.pack("<I4B", form.magic, 0, 0, 1, 8), 8):
                try:
                    table = Pclntab(self.elf.rest(address), address, Rules(form.oldest))
                    if table.function(0) is not None:
                        yield address
                except (PclntabError, ElfError):
                    continue

    def _version(self) -> GoVersion:
        """From the build's own word, else from the format where all its versions agree."""
        oldest, newest = self.format.oldest, self.format.newest
        if self.build_version is not None:
            named = named_version(self.build_version)
            if named is not None and OLDEST <= named.number <= NEWEST:
                return named
            raise UnknownVersionError(
                f"{self.path}: built by {self.build_version}; known are Go {_dotted(OLDEST)} to "
                f"{_dotted(NEWEST)}: name the nearest with --go"
            )
        if self.format.name in ("1.16", "1.18"):  # the two versions of each have the same rules
            return GoVersion(*oldest)
        raise UnknownVersionError(
            f"{self.path}: it does not say which Go version built it; its function table is of "
            f"Go {_dotted(max(oldest, OLDEST))} to {_dotted(newest)}: name the version with --go"
        )

    def _runtime_version(self) -> str | None:
        """What runtime.buildVersion holds; None where it is not found."""
        view = self.elf.rest(self.pclntab_address)
        try:
            text = 0
            if self.format.functab == "I":  # moduledata.text is where it was in all of them
                text = layout.load(self.format.newest).offset("moduledata", "text")
                text = self.elf.u64(self._find_moduledata(view) + text)
            table = Pclntab(view, self.pclntab_address, Rules(self.format.newest), text)
            for function in table.named("runtime.schedinit"):
                return version_in_schedinit(self.elf, function.entry, function.end)
        except (PclntabError, ElfError):
            pass  # what is broken is told when it is read in earnest
        return None

    def _find_moduledata(self, view: memoryview) -> int:
        """The place that holds the header's address and behind it that of the names."""
        section = self.elf.sections.get(".go.module")
        places = [section.address] if section is not None else []
        header = self.pclntab_address
        names = _U64.unpack_from(view, 32)[0]
        pattern = struct.pack("<QQ", header, (header + names) & 0xFFFF_FFFF_FFFF_FFFF)
        for address in itertools.chain(places, self.elf.find(pattern, 8)):
            try:
                if self.elf.view(address, 16) == pattern:
                    return address
            except ElfError:
                continue
        raise PclntabError(
            f"{self.path}: no moduledata points at the function table at {header:#x}"
        )

    def _check_text(self, table: Pclntab) -> None:
        for address in (table.start, table.end - 1):
            segment = self.elf.segment_at(address)
            if segment is None or not segment.executable:
                raise PclntabError(
                    f"{self.path}: the function table speaks of {address:#x}, which is no code"
                )


def _dotted(number: tuple[int, int]) -> str:
    return "{}.{}".format(*number)
