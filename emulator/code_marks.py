"""What is special about which instruction: a byte for every byte of executable memory.

The hooks of a Unicorn engine look the byte up before each instruction (emulator.hooks says what
it holds). An instruction is examined by emulator.fence when it is reached for the first time.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from emulator import fence
from emulator.checks import is_always_aligned
from emulator.hooks import GUARDED, Mark
from emulator.memory import PRIVATE, UnmappedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from emulator.memory import Memory, Region

_EXAMINED: Final = int(Mark.EXAMINED)  # plain numbers: operators of IntFlag are slow
_FENCE: Final = int(Mark.FENCE)
_FOUND: Final = Mark.EXAMINED | Mark.FENCE | Mark.REPEAT | Mark.ALONE
_FORGET: Final = bytes(i & ~int(_FOUND) for i in range(256))


@dataclass(frozen=True, slots=True)
class MarkedRegion:
    """An executable region and the marks of its bytes, in host memory that stays where it is.

    The lengths of instructions that an engine has translated lie behind the marks, with GUARDED
    where a fence need not end a block.
    """

    region: Region
    marks: memoryview
    lengths: memoryview


class CodeMarks:
    """The marks of all executable regions, attached or to come."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.regions: list[MarkedRegion] = []
        self._ranges: list[tuple[int, int, Mark]] = []
        self.changed: Callable[[], object] = lambda: None  # called when marks were changed
        self.guard: Callable[[int], object] | None = None  # called before GUARDED is set

    def attach(self, region: Region) -> None:
        """Keeps marks for an executable region from now on, in place of what was there."""
        self.regions = [
            marked
            for marked in self.regions
            if marked.region.end <= region.start or region.end <= marked.region.start
        ]
        both = memoryview(mmap.mmap(-1, 2 * region.size, flags=PRIVATE))
        marked = MarkedRegion(region, both[: region.size], both[region.size :])
        self.regions.append(marked)
        for start, end, mark in self._ranges:
            _put(marked, start, end, mark)

    def find(self, address: int) -> tuple[MarkedRegion, int] | None:
        """The region that holds address, and the offset in it."""
        for marked in self.regions:
            if marked.region.start <= address < marked.region.end:
                return marked, address - marked.region.start
        return None

    def add(self, start: int, end: int, mark: Mark) -> None:
        """Marks `[start, end)`, now and in regions that follow."""
        self._ranges.append((start, end, mark))
        for marked in self.regions:
            _put(marked, start, end, mark)
        self.changed()

    def remove(self, address: int, mark: Mark) -> None:
        """Takes back what `add(address, address + 1, mark)` did."""
        self._ranges.remove((address, address + 1, mark))
        place = self.find(address)
        if place is not None:
            place[0].marks[place[1]] &= ~mark
        self.changed()

    def has(self, address: int, mark: Mark) -> bool:
        """Whether an address is in a range with this mark, executable or not."""
        return any(m is mark and start <= address < end for start, end, m in self._ranges)

    def code(self, address: int) -> bytes:
        """The bytes at address that one instruction can have, fewer where memory ends."""
        return self.memory.read_some(address, fence.MAX_LENGTH)

    def examine(self, address: int, length: int) -> int:
        """The marks of an instruction that was not examined yet, without EXAMINED.

        `length` is what the engine found, or no number of bytes that an instruction can have.
        """
        for marked in self.regions:
            offset = address - marked.region.start
            if 0 <= offset < marked.region.size:
                code = bytes(marked.region.view[offset : offset + fence.MAX_LENGTH])
                if len(code) < fence.MAX_LENGTH:
                    code = self.code(address)
                own = fence.marks(code)
                if own & _FENCE and is_always_aligned(code, address):
                    own &= ~_FENCE
                found = marked.marks[offset] | own
                marked.marks[offset] = found
                length = length if length <= fence.MAX_LENGTH else 0
                guard = self.guard if length and found & _FENCE else None
                if guard is not None and fence.is_guarded(code):
                    guard(address)
                    length |= GUARDED
                marked.lengths[offset] = length
                return found & ~_EXAMINED
        raise UnmappedError(address, 1)

    def forget(self, start: int, size: int) -> None:
        """Has instructions examined again that lie in a range, or reach into it."""
        low = start - fence.MAX_LENGTH + 1
        for marked in self.regions:
            first = max(low - marked.region.start, 0)
            last = min(start + size, marked.region.end) - marked.region.start
            if first < last:
                marked.marks[first:last] = bytes(marked.marks[first:last]).translate(_FORGET)
        self.changed()


def _put(marked: MarkedRegion, start: int, end: int, mark: Mark) -> None:
    first = max(start - marked.region.start, 0)
    last = min(end, marked.region.end) - marked.region.start
    if first < last:
        table = bytes(i | int(mark) for i in range(256))
        marked.marks[first:last] = bytes(marked.marks[first:last]).translate(table)
