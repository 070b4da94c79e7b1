"""ELF executables for x86-64, through pyelftools, from the mapped file (System V ABI, gABI).

The file is mapped copy-on-write and nothing is copied out of it, except the pages that hold
relocated words: a position-independent executable gets its R_X86_64_RELATIVE relocations at
load address 0, so that readers see the words that a loaded program would see.
Every address and size is checked; what a lying header points at is an ElfError, never a crash.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")
_RELA: Final = struct.Struct("<QQq")  # r_offset, r_info, r_addend
_DYN: Final = struct.Struct("<QQ")  # d_tag, d_val
_DT_NEEDED: Final = 1
_DT_RELA: Final = 7
_DT_RELASZ: Final = 8
_DT_RELRSZ: Final = 35
_R_X86_64_RELATIVE: Final = 8
_MOST_HEADERS: Final = 10_000  # more segments or sections than any linker writes


class ElfError(ValueError):
    """A file that is no ELF executable for x86-64, or one whose headers lie."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A PT_LOAD segment: `file_size` bytes of the file at `offset`, then zeros to `size`."""

    address: int
    offset: int
    file_size: int
    size: int
    readable: bool
    writable: bool
    executable: bool


@dataclass(frozen=True, slots=True)
class Section:
    """A section header; `address` is 0 for what is not loaded."""

    name: str
    address: int
    offset: int
    size: int


class Elf:
    """A mapped executable. Addresses are the file's own (load address 0 for PIE)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except OSError as error:
            raise ElfError(f"{path}: {error.strerror}") from None
        except ValueError:
            raise ElfError(f"{path}: an empty file") from None
        self._bytes = memoryview(self._map)
        try:
            self._read_headers()
        except ElfError:
            raise
        except Exception as error:  # pyelftools raises what its parsers raise
            raise ElfError(f"{path}: not a sound ELF file: {error or type(error).__name__}") from (
                error
            )
        self._relocate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Unmaps the file, unless views of it are still in use: then they keep it mapped."""
        self._bytes.release()
        try:
            self._map.close()
        except BufferError:
            return

    def _read_headers(self) -> None:
        from elftools.elf.elffile import ELFFile

        if self._map[:4] != b"\x7fELF":
            raise ElfError(f"{self.path}: not an ELF file")
        self._elf: Any = ELFFile(self._map)
        header = self._elf.header
        if header["e_machine"] != "EM_X86_64" or not self._elf.little_endian:
            raise ElfError(f"{self.path}: for {header['e_machine']}, not for x86-64")
        if header["e_type"] not in ("ET_EXEC", "ET_DYN"):
            raise ElfError(f"{self.path}: {header['e_type']}, not an executable")
        self.position_independent = header["e_type"] == "ET_DYN"
        self.entry = int(header["e_entry"])
        if max(self._elf.num_segments(), self._elf.num_sections()) > _MOST_HEADERS:
            raise ElfError(f"{self.path}: more than {_MOST_HEADERS} segments or sections")
        self.program_headers = 0  # their address, for AT_PHDR
        self.program_header_count = int(header["e_phnum"])
        self.interpreter: str | None = None
        self.needed = False  # whether it asks for shared libraries
        self._rela: memoryview | None = None
        self.segments: tuple[Segment, ...] = ()
        self._dynamic: tuple[int, int] | None = None
        for segment in self._elf.iter_segments():
            place = (int(segment["p_offset"]), int(segment["p_filesz"]))
            if segment["p_type"] == "PT_DYNAMIC":
                self._dynamic = place
            if segment["p_type"] == "PT_INTERP":
                self._check_place("the interpreter's name", *place)
                name = bytes(self._bytes[place[0] : sum(place)])
                self.interpreter = name.split(b"\0")[0].decode("utf-8", "replace")
            if segment["p_type"] != "PT_LOAD":
                continue
            flags = int(segment["p_flags"])
            self._check_place("segment", *place)
            found = Segment(
                int(segment["p_vaddr"]),
                *place,
                int(segment["p_memsz"]),
                bool(flags & 4),
                bool(flags & 2),
                bool(flags & 1),
            )
            if found.size < found.file_size or found.address + found.size > 1 << 47:
                raise ElfError(f"{self.path}: segment at {found.address:#x} has impossible sizes")
            self.segments += (found,)
            if found.offset <= header["e_phoff"] < found.offset + found.file_size:
                self.program_headers = header["e_phoff"] - found.offset + found.address
        if not self.segments:
            raise ElfError(f"{self.path}: nothing to load in it")

    @cached_property
    def sections(self) -> dict[str, Section]:
        """Sections by name; empty where the headers are stripped or unreadable."""
        found: dict[str, Section] = {}
        try:
            for section in self._elf.iter_sections():
                place = (
                    int(section["sh_addr"]),
                    int(section["sh_offset"]),
                    int(section["sh_size"]),
                )
                found.setdefault(section.name, Section(section.name, *place))
        except Exception:  # noqa: BLE001  # sections are a convenience; segments are the program
            return {}
        return found

    @cached_property
    def symbols(self) -> dict[str, tuple[int, int]]:
        """(address, size) by name, from .symtab; empty in stripped files."""
        table = self._elf.get_section_by_name(".symtab")
        if table is None:
            return {}
        return {s.name: (int(s["st_value"]), int(s["st_size"])) for s in table.iter_symbols()}

    def _check_place(self, what: str, offset: int, size: int) -> None:
        if offset + size > len(self._map):
            end = len(self._map)
            raise ElfError(
                f"{self.path}: {what} at file offset {offset:#x}, {size:#x} bytes, "
                f"goes past the file's end at {end:#x}"
            )

    def segment_at(self, address: int) -> Segment | None:
        """The segment that holds address, bytes behind its file part included."""
        for segment in self.segments:
            if segment.address <= address < segment.address + segment.size:
                return segment
        return None

    def rest(self, address: int) -> memoryview:
        """The file's bytes from address to the end of its segment; ElfError where none are."""
        for segment in self.segments:
            skip = address - segment.address
            if 0 <= skip < segment.file_size:
                return self._bytes[segment.offset + skip : segment.offset + segment.file_size]
        raise ElfError(f"{self.path}: no bytes of the file are at address {address:#x}")

    def view(self, address: int, size: int) -> memoryview:
        """`size` bytes of the file at address; ElfError where they do not lie in one segment."""
        found = self.rest(address)[:size]
        if len(found) < size:
            raise ElfError(f"{self.path}: {size:#x} bytes at {address:#x} leave their segment")
        return found

    def u64(self, address: int) -> int:
        """The 8-byte word at address."""
        value: int = _U64.unpack(self.view(address, 8))[0]
        return value

    def find(self, pattern: bytes, align: int) -> Iterator[int]:
        """Addresses, multiples of `align`, at which loaded bytes of the file are `pattern`."""
        for segment in self.segments:
            at = segment.offset - 1
            end = segment.offset + segment.file_size
            while (at := self._map.find(pattern, at + 1, end)) >= 0:
                address = at - segment.offset + segment.address
                if address % align == 0:
                    yield address

    def relocations(self) -> Iterator[tuple[int, int]]:
        """(address, value) of each word that moves with the load address, for load address 0."""
        for place, info, addend in _RELA.iter_unpack(self._rela or b""):
            if info == _R_X86_64_RELATIVE:
                yield place, addend

    def _relocate(self) -> None:
        if not self.position_independent or self._dynamic is None:
            return
        self._check_place("the dynamic segment", *self._dynamic)
        offset, size = self._dynamic
        entries = self._bytes[offset : offset + size // _DYN.size * _DYN.size]
        tags = dict(_DYN.iter_unpack(entries))
        self.needed = _DT_NEEDED in tags
        if tags.get(_DT_RELRSZ):
            raise ElfError(f"{self.path}: packed relative relocations (DT_RELR) are not read")
        if not tags.get(_DT_RELASZ):
            return
        table = self.view(tags.get(_DT_RELA, 0), tags[_DT_RELASZ] // _RELA.size * _RELA.size)
        self._rela = table
        home = self.segments[0]
        for place, info, addend in _RELA.iter_unpack(table):
            if info != _R_X86_64_RELATIVE:
                continue
            if not home.address <= place <= home.address + home.file_size - 8:
                found = self.segment_at(place)
                if found is None or place + 8 > found.address + found.file_size:
                    raise ElfError(f"{self.path}: a relocation at {place:#x}, outside of the file")
                home = found
            at = home.offset + place - home.address
            _U64.pack_into(self._map, at, addend & 0xFFFF_FFFF_FFFF_FFFF)
