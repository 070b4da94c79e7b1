"""What is mapped, and with which protection, as the hooks look it up (emulator.hooks).

Memory that the guest can write and execute is written freely until it is first executed; from then
on each write to the page is a fault, so that nothing translated from it goes stale unseen.
"""

from __future__ import annotations

import ctypes
from ctypes import c_uint64
from typing import TYPE_CHECKING

from emulator.hooks import Control, Field, host_address
from emulator.memory import PAGE, Memory, Prot, Region
from emulator.unicorn_raw import CTL_TLB_FLUSH, Engine

if TYPE_CHECKING:
    from emulator.code_marks import CodeMarks


class PageTables:
    """The tables of all engines that share a control block.

    Engines keep what was ever attached, until other memory comes to its place: the tables say what
    may be accessed of it.
    """

    def __init__(self, control: Control, marks: CodeMarks, memory: Memory) -> None:
        self.memory = memory
        self._attached: list[Region] = []
        self.code_pages: set[int] = set()  # pages that the guest can write, and has executed
        self.open: set[int] = set()  # those that the next instruction may write
        self.engines: list[Engine] = []
        self._words = control.words
        self._marks = marks

    def add_engine(self, engine: Engine) -> None:
        """Maps everything into another engine."""
        for region in self._attached:
            engine.map(region.start, region.view)
        self.engines.append(engine)

    def attach(self, region: Region) -> None:
        """Maps a region into all engines, in place of what was unmapped there."""
        kept = []
        for old in self._attached:
            low, high = max(old.start, region.start), min(old.end, region.end)
            if low >= high:
                kept.append(old)
                continue
            for engine in self.engines:
                engine.unmap(low, high - low)
            kept += [old.part(old.start, low)] if old.start < low else []
            kept += [old.part(high, old.end)] if high < old.end else []
        self._attached = [*kept, region]
        for engine in self.engines:
            engine.map(region.start, region.view)
        self.tell()

    def tell(self) -> None:
        """Writes the tables of what is mapped and of where the marks are."""
        rows: list[int] = []
        for page in self.code_pages:
            rows += [page, PAGE, Prot.RX | (Prot.WRITE if page in self.open else 0)]
        for region in self.memory.regions:
            allowed = reach(region.prot)
            rows += [region.start, region.size, Prot.RW if allowed & Prot.WRITE else allowed]
        pages = (c_uint64 * (len(rows) + 3))(*rows)
        rows = []
        for marked in self._marks.regions:
            start = marked.region.start
            rows += [start, marked.region.size, (host_address(marked.marks) - start) % 2**64]
        ranges = (c_uint64 * (len(rows) + 3))(*rows)
        self._tables = (pages, ranges)
        self._words[Field.PAGES] = ctypes.addressof(pages)
        self._words[Field.RANGES] = ctypes.addressof(ranges)
        self._words[Field.SIZE] = 0
        for engine in self.engines:
            engine.control(CTL_TLB_FLUSH)


def reach(protection: Prot) -> int:
    """What a page allows: on x86 whatever can be written or executed can be read."""
    return int(protection | Prot.READ) if protection else 0


def denying(protection: Prot) -> int:
    """The same for a witness, which lets no write through that can be one to code."""
    allowed = reach(protection)
    return allowed & ~Prot.WRITE if allowed & Prot.EXEC else allowed
