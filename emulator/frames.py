"""Boundaries in host memory: registers and a window of the stack, in lists of equal PC.

Frames are named by their host addresses, as the machine code that fills and reads them does; a list
is linked through them from its last frame to its first.
"""

from __future__ import annotations

import bisect
import mmap
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from emulator.hooks import host_address
from emulator.registers import LAYOUT, SIZE, Registers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emulator.extended_images import Images

# A frame: a register block, then
NEXT: Final = SIZE  # host address of the next frame, 0 for none
WORDS: Final = SIZE + 8  # number of words in its stack window
POISON: Final = SIZE + 16  # eight bytes for memory that may be overwritten at this boundary
INDEX: Final = SIZE + 24  # of the boundary
EXTENDED: Final = SIZE + 32  # host address of the image of what AVX adds, 0 where that is unused
WINDOW: Final = SIZE + 48  # the stack from RSP upwards
WINDOW_WORDS: Final = 62
FRAME: Final = WINDOW + 8 * WINDOW_WORDS

_RIP: Final = LAYOUT["RIP"][0]
_TAIL: Final = struct.Struct("<QQ8sQQ")  # NEXT, WORDS, POISON, INDEX, EXTENDED

POISONS: Final = (0xDB, 0x24)  # complements of each other
GOLDEN: Final = 0x9E37_79B9_7F4A_7C15  # 2**64 by the golden ratio: its multiples are all over
_VECTORS: Final = LAYOUT["XMM0"][0]


def poison(index: int, registers: bytes | bytearray) -> bytes:
    """The byte that memory is overwritten with at a boundary.

    The two complements take turns, in no rhythm that a loop could have. Where four aligned bytes of
    a general or vector register happen to be that byte, so that a value which was never saved would
    be found again, the next byte is taken of which that is not so: there are 96 such fours, and 256
    bytes.
    """
    value = POISONS[index * GOLDEN >> 63 & 1]
    block = bytes(registers)
    fours = {block[at : at + 4] for at in (*range(0, 128, 4), *range(_VECTORS, SIZE, 4))}
    while bytes([value]) * 4 in fours:
        value = (value + 1) & 0xFF
    return bytes([value])


@dataclass(slots=True)
class FrameList:
    """The frames of one PC: the first in their links, the last one, and how many there are."""

    pc: int
    head: int
    tail: int
    count: int


class Frames:
    """Room for frames; with `images` also for those at which AVX registers are in use."""

    def __init__(self, count: int, images: Images | None = None) -> None:
        self.count = count
        self.images = images
        self.host = mmap.mmap(-1, count * FRAME)  # others may map it, too
        self.view = memoryview(self.host)
        self.base = host_address(self.view)

    def address(self, slot: int) -> int:
        """Where a frame lies."""
        return self.base + slot * FRAME

    def put(
        self,
        slot: int,
        index: int,
        registers: bytes | bytearray,
        window: bytes,
        poison: bytes,
        extended: int = 0,
    ) -> None:
        """Fills a frame: a boundary's number, registers, the stack from RSP up, and an image."""
        start = slot * FRAME
        used = min(len(window) // 8, WINDOW_WORDS)
        self.view[start : start + SIZE] = registers
        _TAIL.pack_into(self.view, start + NEXT, 0, used, 8 * poison, index, extended)
        self.view[start + WINDOW : start + WINDOW + 8 * used] = window[: 8 * used]

    def link(self, address: int, following: int) -> None:
        """Says which frame comes after one; 0 for none."""
        struct.pack_into("<Q", self.view, address - self.base + NEXT, following)

    def next(self, address: int) -> int:
        """The frame that comes after one; 0 for none."""
        found: int = struct.unpack_from("<Q", self.view, address - self.base + NEXT)[0]
        return found

    def walk(self, frames: FrameList) -> Iterator[int]:
        """The frames of a list."""
        address = frames.head
        for _ in range(frames.count):
            yield address
            address = self.next(address)

    def index(self, address: int) -> int:
        """The boundary's number."""
        found: int = struct.unpack_from("<Q", self.view, address - self.base + INDEX)[0]
        return found

    def find(self, index: int, count: int) -> int | None:
        """The frame of a boundary among the first so many, which were filled in order."""
        slot = bisect.bisect_left(range(count), index, key=lambda s: self.index(self.address(s)))
        if slot == count or self.index(self.address(slot)) != index:
            return None
        return self.address(slot)

    def pc(self, address: int) -> int:
        """The boundary's PC."""
        found: int = struct.unpack_from("<Q", self.view, address - self.base + _RIP)[0]
        return found

    def registers(self, address: int) -> Registers:
        """The boundary's registers."""
        start = address - self.base
        image: int = struct.unpack_from("<Q", self.view, start + EXTENDED)[0]
        state = self.images.state(image) if image and self.images is not None else b""
        return Registers(bytes(self.view[start : start + SIZE]), state)

    def window(self, address: int) -> bytes:
        """The part of the stack that was recorded, from RSP up."""
        start = address - self.base
        used: int = struct.unpack_from("<Q", self.view, start + WORDS)[0]
        return bytes(self.view[start + WINDOW : start + WINDOW + 8 * used])

    def listed(self, slots: int) -> list[FrameList]:
        """Links the first so many frames by PC."""
        lists: dict[int, FrameList] = {}
        for slot in range(slots):
            address = self.address(slot)
            pc = self.pc(address)
            known = lists.get(pc)
            if known is None:
                self.link(address, 0)
                lists[pc] = FrameList(pc, address, address, 1)
            else:
                self.link(address, known.head)
                known.head = address
                known.count += 1
        return list(lists.values())
