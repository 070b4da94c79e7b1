"""The architectural registers of an x86-64 thread, as one flat block of bytes.

Specified in Intel's Software Developer's Manual, volume 1, chapter 3 (general registers, RFLAGS)
and chapters 8 and 10 (x87, SSE). The block has a fixed layout, so that copying, comparing and
handing it to an engine are each one operation; names address fields of it. What AVX and AVX-512
add lies beside it and is empty until used (emulator.extended).
"""

from __future__ import annotations

from enum import IntFlag
from typing import Final

from emulator import extended

GENERAL: Final = (
    "RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI",
    "R8", "R9", "R10", "R11", "R12", "R13", "R14", "R15",
)  # fmt: skip
XMM: Final = tuple(f"XMM{i}" for i in range(16))
ST: Final = tuple(f"ST{i}" for i in range(8))  # R0-R7 of the x87 register file, physical order

# Name -> (offset, size) in bytes. x87 and SSE control first, then the wide registers.
LAYOUT: Final[dict[str, tuple[int, int]]] = (
    {name: (8 * i, 8) for i, name in enumerate(GENERAL)}
    | {
        "RIP": (128, 8),
        "RFLAGS": (136, 8),
        "FS_BASE": (144, 8),
        "GS_BASE": (152, 8),
        "MXCSR": (160, 4),
        "FCW": (164, 2),
        "FSW": (166, 2),
        "FTW": (168, 2),  # full tag word, two bits a register
    }
    | {name: (176 + 16 * i, 10) for i, name in enumerate(ST)}
    | {name: (304 + 16 * i, 16) for i, name in enumerate(XMM)}
)
SIZE: Final = 560


class Flags(IntFlag):
    """Bits of RFLAGS (SDM volume 1, 3.4.3)."""

    CF = 1 << 0
    RESERVED = 1 << 1
    PF = 1 << 2
    AF = 1 << 4
    ZF = 1 << 6
    SF = 1 << 7
    TF = 1 << 8
    IF = 1 << 9
    DF = 1 << 10
    OF = 1 << 11
    RF = 1 << 16
    AC = 1 << 18
    ID = 1 << 21


ARITHMETIC_FLAGS: Final = Flags.CF | Flags.PF | Flags.AF | Flags.ZF | Flags.SF | Flags.OF

# What the kernel gives a new user thread (Linux arch/x86: start_thread, fpstate init).
USER_RFLAGS: Final = int(Flags.IF | Flags.RESERVED)  # 0x202
USER_MXCSR: Final = 0x1F80
USER_FCW: Final = 0x37F
USER_FTW: Final = 0xFFFF  # all empty

# What a program can have in RFLAGS; bit 14 is NT.
_USER_FLAGS: Final = int(ARITHMETIC_FLAGS | Flags.TF | Flags.DF | Flags.AC | Flags.ID) | 1 << 14


def loadable_flags(flags: int) -> int:
    """RFLAGS as a program has them; ValueError for flags that none can have.

    RF is dropped: the first instruction clears it.
    """
    if flags & ~(_USER_FLAGS | Flags.RF) != USER_RFLAGS:
        raise ValueError(f"RFLAGS {flags:#x} is not a user program's")
    return flags & ~int(Flags.RF)


class Registers:
    """A copy of a thread's registers. Values are unsigned integers; names are Intel's.

    `extended` is the state of emulator.extended, whose registers have names here, too.
    """

    __slots__ = ("block", "extended")

    def __init__(
        self, block: bytes | bytearray | None = None, state: bytes = extended.INITIAL
    ) -> None:
        self.extended = state
        if block is None:
            self.block = bytearray(SIZE)
            self["RFLAGS"] = USER_RFLAGS
            self["MXCSR"] = USER_MXCSR
            self["FCW"] = USER_FCW
            self["FTW"] = USER_FTW
        else:
            assert len(block) == SIZE
            self.block = bytearray(block)

    def __getitem__(self, name: str) -> int:
        place = LAYOUT.get(name)
        if place is None:
            return int.from_bytes(self.bytes_of(name), "little")
        offset, size = place
        return int.from_bytes(self.block[offset : offset + size], "little")

    def __setitem__(self, name: str, value: int) -> None:
        place = LAYOUT.get(name)
        if place is None:
            self._set_extended(name, value)
            return
        offset, size = place
        mask = (1 << 8 * size) - 1
        self.block[offset : offset + size] = (value & mask).to_bytes(size, "little")

    def bytes_of(self, name: str) -> bytes:
        """The bytes of a YMM, ZMM or K register, or of XMM16 to XMM31."""
        state = extended.whole(self.extended)
        return b"".join(
            (state if beyond else self.block)[offset : offset + size]
            for beyond, offset, size in extended.pieces(name)
        )

    def _set_extended(self, name: str, value: int) -> None:
        state = bytearray(extended.whole(self.extended))
        for beyond, offset, size in extended.pieces(name):
            part = value & ((1 << 8 * size) - 1)
            (state if beyond else self.block)[offset : offset + size] = part.to_bytes(
                size, "little"
            )
            value >>= 8 * size
        self.extended = extended.normal(state)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Registers)
            and self.block == other.block
            and self.extended == other.extended
        )

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        return f"<Registers RIP={self['RIP']:#x} RSP={self['RSP']:#x}>"

    def copy(self) -> Registers:
        """An independent copy."""
        return Registers(self.block, self.extended)

    def names(self) -> list[str]:
        """Those of LAYOUT, and the extended registers that hold something."""
        return [*LAYOUT, *extended.shown(self.extended)]

    def diff(self, other: Registers) -> list[str]:
        """Names of the registers whose values differ, in the order of LAYOUT.

        Behind them the widest names of those that differ beyond XMM0 to XMM15.
        """
        names = extended.differing(self.extended, other.extended)
        if self.block == other.block:
            return names
        mine, theirs = self.block, other.block
        return [
            name
            for name, (offset, size) in LAYOUT.items()
            if mine[offset : offset + size] != theirs[offset : offset + size]
        ] + names
