"""What AVX and AVX-512 add, as XSAVE areas that machine code loads and stores.

An image is an area in the standard format (SDM volume 1, 13.4), at the offsets that this
processor's CPUID tells, and behind it one whose components in use are inverted. Images are named by
their host addresses. They stay where they are until `clear`.
"""

from __future__ import annotations

import mmap
from typing import Final

from emulator import extended
from emulator.hooks import host_address
from emulator.host_cpuid import cpuid

AREA: Final = 2688  # bytes, a multiple of 64
_MXCSR: Final = slice(24, 28)
_HEADER: Final = slice(512, 520)
_INITIAL_MXCSR: Final = (0x1F80).to_bytes(4, "little")


class Images:
    """Room for so many images, the initial one, and the area of what landed."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.features = extended.FEATURES & cpuid(0xD)[0]
        self._offsets = {
            bit: cpuid(0xD, bit.bit_length() - 1)[1]
            for bit in extended.COMPONENTS
            if self.features & bit
        }
        self.host = mmap.mmap(-1, 2 * AREA * (count + 1))
        self._view = memoryview(self.host)
        self.initial = host_address(self._view)
        self.landed = self.initial + AREA  # the initial state's complement is of no use
        self._view[:AREA] = self._area(extended.INITIAL)
        self._states: dict[bytes, int] = {}

    def place(self, state: bytes) -> int | None:
        """The image of a state, 0 for the initial one; None if there is no room for it."""
        if not state:
            return 0
        known = self._states.get(state)
        if known is not None:
            return known
        if len(self._states) == self.count or extended.in_use(state) & ~self.features:
            return None
        at = 2 * AREA * (len(self._states) + 1)
        self._view[at : at + AREA] = self._area(state)
        self._view[at + AREA : at + 2 * AREA] = self._area(extended.complement(state, state))
        self._states[state] = self.initial + at
        return self.initial + at

    def state(self, address: int) -> bytes:
        """The state in an area."""
        area = self._view[address - self.initial :]
        state = bytearray(extended.SIZE)
        for bit, at in self._offsets.items():
            offset, size = extended.COMPONENTS[bit]
            state[offset : offset + size] = area[at : at + size]
        return extended.normal(state)

    def clear(self) -> None:
        """Forgets all images but the initial one."""
        self._states.clear()

    def _area(self, state: bytes) -> bytes:
        area = bytearray(AREA)
        area[_MXCSR] = _INITIAL_MXCSR
        area[_HEADER] = extended.in_use(state).to_bytes(8, "little")
        whole = extended.whole(state)
        for bit, at in self._offsets.items():
            offset, size = extended.COMPONENTS[bit]
            area[at : at + size] = whole[offset : offset + size]
        return bytes(area)
