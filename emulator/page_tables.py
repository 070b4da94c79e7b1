"""What is mapped, and with which protection, as the hooks look it up (emulator.hooks).

Memory that the guest can write and execute is written freely until it is first executed; from then
on each write to the page is a fault, so that nothing translated from it goes stale unseen.
"""

from __future__ import annotations

import ctypes
from ctypes import c_uint64
from typing import TYPE_CHECKING

from emulator.hooks import Control, Field, host_address
from emulator.memory import PAGE, Prot, Region
from emulator.unicorn_raw import CTL_TLB_FLUSH, Engine

if TYPE_CHECKING:
    from emulator.code_marks import CodeMarks


class PageTables:
    """The tables of all engines that share a control block."""

    def __init__(self, control: Control, marks: CodeMarks) -> None:
        self.regions: list[Region] = []
        self.code_pages: set[int] = set()  # pages that the guest can write, and has executed
        self.open: set[int] = set()  # those that the next instruction may write
        self.engines: list[Engine] = []
        self._words = control.words
        self._marks = marks

    def add_engine(self, engine: Engine) -> None:
        """Maps everything into another engine."""
        for region in self.regions:
            engine.map(region.start, region.view)
        self.engines.append(engine)

    def attach(self, region: Region) -> None:
        """Maps a region into all engines."""
        for engine in self.engines:
            engine.map(region.start, region.view)
        self.regions.append(region)
        self.tell()

    def tell(self) -> None:
        """Writes the tables of what is mapped and of where the marks are."""
        rows: list[int] = []
        for page in self.code_pages:
            rows += [page, PAGE, Prot.RX | (Prot.WRITE if page in self.open else 0)]
        for region in self.regions:
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
