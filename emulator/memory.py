"""The guest's memory: mapped regions, each backed by host memory that engines map directly.

Protection is by page as in mmap(2). Reads and writes from Python go straight to the backing
buffer and see any mapped page, whatever its protection: they act as the kernel or a debugger.
All writes by Python pass `write` and `put_…`, which tell the journal, if there is one, what they
overwrite.
"""

from __future__ import annotations

import bisect
import mmap
import struct
from dataclasses import dataclass, field, replace
from enum import IntFlag
from typing import Final, Protocol

PAGE: Final = 4096

_SHARED: Final = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS
PRIVATE: Final = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000  # MAP_NORESERVE
_U64: Final = struct.Struct("<Q")
_U32: Final = struct.Struct("<I")


class Prot(IntFlag):
    """Page protection, with the numbers of mmap(2)."""

    NONE = 0
    READ = 1
    WRITE = 2
    EXEC = 4
    RW = READ | WRITE
    RX = READ | EXEC


class UnmappedError(LookupError):
    """An access by Python to guest memory that is not mapped."""

    def __init__(self, address: int, size: int) -> None:
        super().__init__(f"no memory is mapped at {address:#x} ({size} bytes)")
        self.address = address
        self.size = size


@dataclass(frozen=True, slots=True)
class Region:
    """A mapped range `[start, start + size)`, page-aligned. `view` is its backing memory.

    `host` is the mapping of the host that holds it, where it begins `offset` bytes in. A private
    one takes nothing of the host's memory before it is touched, whatever its size, and a forked
    process has a copy of it.
    """

    name: str
    start: int
    size: int
    prot: Prot
    view: memoryview
    host: mmap.mmap
    offset: int = 0
    private: bool = False
    written: bool = False  # whether it is writable, or was since it was zero
    end: int = field(init=False)  # the first address behind the region

    def __post_init__(self) -> None:
        object.__setattr__(self, "end", self.start + self.size)
        if self.prot & Prot.WRITE:
            object.__setattr__(self, "written", True)

    def part(self, start: int, end: int) -> Region:
        """The region `[start, end)` in it, on the same memory."""
        low = start - self.start
        return replace(
            self,
            start=start,
            size=end - start,
            view=self.view[low : end - self.start],
            offset=self.offset + low,
        )


class Journal(Protocol):
    """Who hears of all that Python changes."""

    def overwritten(self, address: int, before: bytes) -> None:
        """Bytes are about to be written."""

    def mapped(self, region: Region) -> None:
        """A region is new."""

    def unmapping(self, region: Region) -> None:
        """A region, or a part of one, is about to go."""


class Memory:
    """All regions of one address space."""

    def __init__(self) -> None:
        self.journal: Journal | None = None
        self.shared = False  # whether even regions that may be private are shared with children
        self.regions: list[Region] = []
        self._starts: list[int] = []
        self._last: Region | None = None

    def map(self, name: str, start: int, size: int, prot: Prot, *, private: bool = False) -> Region:
        """Maps zeroed memory; start and size must be page-aligned and overlap nothing."""
        if start % PAGE or size % PAGE or size <= 0:
            raise ValueError(f"{name}: {start:#x}+{size:#x} is not page-aligned")
        index = self._free(name, start, size)
        private = private and not self.shared
        host = mmap.mmap(-1, size, flags=PRIVATE if private else _SHARED)
        return self._insert(
            index, Region(name, start, size, prot, memoryview(host), host, private=private)
        )

    def adopt(self, name: str, start: int, host: mmap.mmap, prot: Prot) -> Region:
        """Maps host memory that is there already, and shared with whoever has it."""
        size = -(-len(host) // PAGE) * PAGE
        index = self._free(name, start, size)
        return self._insert(index, Region(name, start, size, prot, memoryview(host), host))

    def share(self, region: Region) -> None:
        """Maps another memory's region, where it is there."""
        self._insert(self._free(region.name, region.start, region.size), region)

    def _free(self, name: str, start: int, size: int) -> int:
        """Where a region that overlaps nothing comes among the others; raises ValueError."""
        index = bisect.bisect_left(self._starts, start)
        before = self.regions[index - 1] if index else None
        after = self.regions[index] if index < len(self.regions) else None
        for other in (before, after):
            if other is not None and start < other.end and other.start < start + size:
                raise ValueError(f"{name}: {start:#x}+{size:#x} overlaps {other.name}")
        return index

    def _insert(self, index: int, region: Region) -> Region:
        self.regions.insert(index, region)
        self._starts.insert(index, region.start)
        if self.journal is not None:
            self.journal.mapped(region)
        return region

    def overlapping(self, start: int, size: int) -> list[Region]:
        """The parts of regions that lie in a page-aligned range, in order."""
        end = start + size
        first = max(bisect.bisect_right(self._starts, start) - 1, 0)
        found = []
        for region in self.regions[first:]:
            if region.start >= end:
                break
            if region.end > start:
                found.append(region.part(max(region.start, start), min(region.end, end)))
        return found

    def unmap(self, start: int, size: int) -> list[Region]:
        """Takes a page-aligned range out of what is mapped; returns the parts that were."""
        return self._replace(start, size, None)

    def protect(self, start: int, size: int, prot: Prot, *, fresh: bool = False) -> None:
        """Changes the protection of what is mapped in a page-aligned range; `fresh`: it is zero."""
        self._replace(start, size, prot, fresh=fresh)

    def _replace(
        self, start: int, size: int, prot: Prot | None, *, fresh: bool = False
    ) -> list[Region]:
        taken = self.overlapping(start, size)
        if self.journal is not None and prot is None:
            for part in taken:
                self.journal.unmapping(part)
        end = start + size
        for part in taken:
            index = bisect.bisect_right(self._starts, part.start) - 1
            whole = self.regions[index]
            written = part.written and not fresh
            pieces = [
                *([whole.part(whole.start, start)] if whole.start < start else []),
                *([replace(part, prot=prot, written=written)] if prot is not None else []),
                *([whole.part(end, whole.end)] if whole.end > end else []),
            ]
            self.regions[index : index + 1] = pieces
            self._starts[index : index + 1] = [piece.start for piece in pieces]
        self._last = None
        return taken

    def zero(self, start: int, size: int) -> None:
        """Makes what is mapped in a page-aligned range zero, and gives it back to the host."""
        for part in self.overlapping(start, size):
            if self.journal is not None:
                self.journal.overwritten(part.start, bytes(part.view))
            advice = mmap.MADV_DONTNEED if part.private else mmap.MADV_REMOVE
            part.host.madvise(advice, part.offset, part.size)

    def find(self, address: int) -> Region | None:
        """The region that holds address, if one does."""
        last = self._last
        if last is not None and last.start <= address < last.start + last.size:
            return last
        index = bisect.bisect_right(self._starts, address) - 1
        if index >= 0 and address < self.regions[index].end:
            self._last = self.regions[index]
            return self._last
        return None

    def locate(self, address: int, size: int) -> tuple[memoryview, int]:
        """The backing memory of `[address, address + size)` and the offset in it.

        Raises UnmappedError where the range does not lie inside one region.
        """
        region = self._last
        if region is None or not region.start <= address < region.end:
            region = self.find(address)
        if region is None or address + size > region.end:
            raise UnmappedError(address, size)
        return region.view, address - region.start

    def view(self, address: int, size: int) -> memoryview:
        """The backing memory of a range, live; it cannot be written through."""
        view, offset = self.locate(address, size)
        return view[offset : offset + size].toreadonly()

    def read(self, address: int, size: int) -> bytes:
        """Bytes of a range that lies inside one region."""
        view, offset = self.locate(address, size)
        return bytes(view[offset : offset + size])

    def read_some(self, address: int, most: int) -> bytes:
        """As many bytes as there are, up to `most`: fewer where memory ends."""
        found = b""
        while len(found) < most:
            region = self.find(address + len(found))
            if region is None:
                break
            start = address + len(found) - region.start
            found += region.view[start : start + most - len(found)]
        return found

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Writes bytes; code that an engine has translated must be flushed by the engine."""
        view, offset = self.locate(address, len(data))
        if self.journal is not None:
            self.journal.overwritten(address, bytes(view[offset : offset + len(data)]))
        view[offset : offset + len(data)] = data

    def u64(self, address: int) -> int:
        """Reads 8 bytes, little-endian, unsigned."""
        view, offset = self.locate(address, 8)
        value: int = _U64.unpack_from(view, offset)[0]
        return value

    def u32(self, address: int) -> int:
        """Reads 4 bytes, little-endian, unsigned."""
        view, offset = self.locate(address, 4)
        value: int = _U32.unpack_from(view, offset)[0]
        return value

    def u8(self, address: int) -> int:
        """Reads one byte."""
        view, offset = self.locate(address, 1)
        return view[offset]

    def put_u64(self, address: int, value: int) -> None:
        """Writes 8 bytes, little-endian; the value is taken modulo 2**64."""
        view, offset = self.locate(address, 8)
        if self.journal is not None:
            self.journal.overwritten(address, bytes(view[offset : offset + 8]))
        _U64.pack_into(view, offset, value & 0xFFFF_FFFF_FFFF_FFFF)

    def put_u32(self, address: int, value: int) -> None:
        """Writes 4 bytes, little-endian; the value is taken modulo 2**32."""
        view, offset = self.locate(address, 4)
        if self.journal is not None:
            self.journal.overwritten(address, bytes(view[offset : offset + 4]))
        _U32.pack_into(view, offset, value & 0xFFFF_FFFF)

    def put_u8(self, address: int, value: int) -> None:
        """Writes one byte."""
        view, offset = self.locate(address, 1)
        if self.journal is not None:
            self.journal.overwritten(address, bytes(view[offset : offset + 1]))
        view[offset] = value & 0xFF
