"""Recorded boundaries in host memory, as a batch takes them, in lists of equal PC.

A frame is laid out as batch_hooks says. Frames are named by their host addresses, as the machine
code that fills and reads them does; a list is linked through them from its last frame to its first.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from emulator.hooks import host_address
from emulator.registers import LAYOUT, SIZE, Registers
from pushcall.batch_hooks import FRAME, INDEX, NEXT, POISON, WINDOW, WINDOW_WORDS, WORDS

if TYPE_CHECKING:
    from collections.abc import Iterator

_RIP: Final = LAYOUT["RIP"][0]
_TAIL: Final = struct.Struct("<QQ8sQ")  # NEXT, WORDS, POISON, INDEX
assert (NEXT, WORDS, POISON, INDEX, WINDOW) == (SIZE, SIZE + 8, SIZE + 16, SIZE + 24, SIZE + 32)


@dataclass(slots=True)
class FrameList:
    """The frames of one PC: the first in their links, the last one, and how many there are."""

    pc: int
    head: int
    tail: int
    count: int


class Frames:
    """Room for frames."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.view = memoryview(mmap.mmap(-1, count * FRAME))
        self.base = host_address(self.view)

    def address(self, slot: int) -> int:
        """Where a frame lies."""
        return self.base + slot * FRAME

    def put(
        self, slot: int, index: int, registers: bytes | bytearray, window: bytes, poison: bytes
    ) -> None:
        """Fills a frame: a boundary's number, registers and the stack from RSP up."""
        start = slot * FRAME
        used = min(len(window) // 8, WINDOW_WORDS)
        self.view[start : start + SIZE] = registers
        _TAIL.pack_into(self.view, start + NEXT, 0, used, 8 * poison, index)
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

    def pc(self, address: int) -> int:
        """The boundary's PC."""
        found: int = struct.unpack_from("<Q", self.view, address - self.base + _RIP)[0]
        return found

    def registers(self, address: int) -> Registers:
        """The boundary's registers."""
        start = address - self.base
        return Registers(bytes(self.view[start : start + SIZE]))

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
