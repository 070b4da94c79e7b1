"""The 512-byte image of FXSAVE, and what it says about the x87 registers.

Specified in Intel's SDM volume 1, 10.5.1 and volume 2, FXSAVE and FXRSTOR. The last x87
instruction and operand pointers (FOP, FIP, FDP) are not modelled and stored as 0.
"""

from __future__ import annotations

import struct
from typing import Final

from emulator.registers import LAYOUT, Registers

SIZE: Final = 512
MXCSR_MASK: Final = 0xFFFF

# FCW, FSW, abridged FTW, FOP, FIP, FDP, MXCSR, MXCSR_MASK; ST at 32, XMM at 160.
HEAD: Final = struct.Struct("<HHBxHQQII")
ST: Final = slice(32, 160)
XMM: Final = slice(160, 416)
CONTROL: Final = struct.Struct("<IHHH")  # MXCSR, FCW, FSW, FTW in Registers.block
CONTROL_AT: Final = LAYOUT["MXCSR"][0]
BLOCK_ST: Final = slice(LAYOUT["ST0"][0], LAYOUT["XMM0"][0])
BLOCK_XMM: Final = slice(LAYOUT["XMM0"][0], LAYOUT["XMM15"][0] + 16)


def _abridged(tags: int) -> int:
    """FTW as FXSAVE stores it: one bit a register, set where it is not empty."""
    return sum(1 << i for i in range(8) if (tags >> 2 * i) & 3 != 3)


def _tag(value: bytes) -> int:
    """The two-bit tag of a register that is not empty (SDM volume 2, FXRSTOR)."""
    mantissa = int.from_bytes(value[:8], "little")
    exponent = int.from_bytes(value[8:10], "little") & 0x7FFF
    if exponent == 0 and mantissa == 0:
        return 1  # zero
    if exponent in (0, 0x7FFF) or not mantissa >> 63:
        return 2  # special
    return 0  # valid


def _rotated(registers: bytes | bytearray, count: int) -> bytes:
    """The eight 16-byte slots from number `count` on, wrapping around."""
    return bytes(registers[16 * count :] + registers[: 16 * count])


def store(registers: Registers) -> bytearray:
    """The image that FXSAVE writes."""
    block = registers.block
    mxcsr, fcw, fsw, ftw = CONTROL.unpack_from(block, CONTROL_AT)
    image = bytearray(SIZE)
    tags = 0 if ftw == 0xFFFF else _abridged(ftw)
    HEAD.pack_into(image, 0, fcw, fsw, tags, 0, 0, 0, mxcsr, MXCSR_MASK)
    # ST(i) is physical register TOP + i.
    image[ST] = _rotated(block[BLOCK_ST], fsw >> 11 & 7)
    image[XMM] = block[BLOCK_XMM]
    return image


def load_x87(registers: Registers, image: bytes | bytearray) -> None:
    """The x87 part of FXRSTOR."""
    fcw, fsw, tags, *_ = HEAD.unpack_from(image)
    stack = _rotated(image[ST], -(fsw >> 11 & 7) % 8)
    registers.block[BLOCK_ST] = stack
    full = 0xFFFF
    for i in range(8) if tags else ():
        if tags >> i & 1:
            full ^= (3 ^ _tag(stack[16 * i : 16 * i + 10])) << 2 * i
    CONTROL.pack_into(registers.block, CONTROL_AT, registers["MXCSR"], fcw, fsw, full)


def load_sse(registers: Registers, image: bytes | bytearray) -> None:
    """The SSE part of FXRSTOR, MXCSR included."""
    registers.block[BLOCK_XMM] = image[XMM]
    registers["MXCSR"] = HEAD.unpack_from(image)[6]
