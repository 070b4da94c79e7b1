"""The floating-point part of a signal frame: an FXSAVE image in an XSAVE area.

Specified in Intel's SDM volume 1, 10.5 (FXSAVE) and 13.4 (XSAVE area), and in Linux's
arch/x86/kernel/fpu/signal.c and include/uapi/asm/sigcontext.h (struct _fpx_sw_bytes). This
machine's XCR0 is x87 | SSE, so the standard-format area has 512 + 64 bytes. The last x87
instruction and operand pointers (FOP, FIP, FDP) are not modelled and stored as 0.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from emulator.linux.uaccess import AccessFault, copy_from_user
from emulator.registers import LAYOUT, Registers

if TYPE_CHECKING:
    from emulator.memory import Memory

FP_XSTATE_MAGIC1: Final = 0x46505853
FP_XSTATE_MAGIC2: Final = 0x46505845
X87: Final = 1
SSE: Final = 2
XCR0: Final = X87 | SSE
FXSAVE_SIZE: Final = 512
XSTATE_SIZE: Final = FXSAVE_SIZE + 64  # with the XSAVE header
FRAME_SIZE: Final = XSTATE_SIZE + 4  # with FP_XSTATE_MAGIC2
MXCSR_MASK: Final = 0xFFFF

# FXSAVE: FCW, FSW, abridged FTW, FOP, FIP, FDP, MXCSR, MXCSR_MASK; ST at 32, XMM at 160.
_HEAD: Final = struct.Struct("<HHBxHQQII")
_ST: Final = slice(32, 160)
_XMM: Final = slice(160, 416)
_SW_RESERVED: Final = 464  # magic1, extended_size, xfeatures, xstate_size
_SW_BYTES: Final = struct.Struct("<IIQI28x")
_XSAVE_HEADER: Final = struct.Struct("<QQQ40x")  # XSTATE_BV, XCOMP_BV, must be zero
_CONTROL: Final = struct.Struct("<IHHH")  # MXCSR, FCW, FSW, FTW in Registers.block
_CONTROL_AT: Final = LAYOUT["MXCSR"][0]
_BLOCK_ST: Final = slice(LAYOUT["ST0"][0], LAYOUT["XMM0"][0])
_BLOCK_XMM: Final = slice(LAYOUT["XMM0"][0], LAYOUT["XMM15"][0] + 16)

_INITIAL: Final = Registers()
_INITIAL_CONTROL: Final = _CONTROL.unpack_from(_INITIAL.block, _CONTROL_AT)


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


def pack(registers: Registers) -> bytes:
    """The FRAME_SIZE bytes that copy_fpstate_to_sigframe writes."""
    block = registers.block
    mxcsr, fcw, fsw, ftw = _CONTROL.unpack_from(block, _CONTROL_AT)
    area = bytearray(FRAME_SIZE)
    tags = 0 if ftw == 0xFFFF else _abridged(ftw)
    _HEAD.pack_into(area, 0, fcw, fsw, tags, 0, 0, 0, mxcsr, MXCSR_MASK)
    # ST(i) is physical register TOP + i.
    area[_ST] = _rotated(block[_BLOCK_ST], fsw >> 11 & 7)
    area[_XMM] = block[_BLOCK_XMM]
    _SW_BYTES.pack_into(area, _SW_RESERVED, FP_XSTATE_MAGIC1, FRAME_SIZE, XCR0, XSTATE_SIZE)
    # save_xstate_epilog: x87 and SSE count as present even where they are in their initial state.
    _XSAVE_HEADER.pack_into(area, FXSAVE_SIZE, X87 | SSE, 0, 0)
    area[XSTATE_SIZE:] = FP_XSTATE_MAGIC2.to_bytes(4, "little")
    return bytes(area)


def reset(registers: Registers) -> None:
    """The initial state, which a handler starts with (fpu__clear_user_states)."""
    _reset_x87(registers)
    _reset_sse(registers)


def _reset_x87(registers: Registers) -> None:
    mxcsr = registers["MXCSR"]
    _CONTROL.pack_into(registers.block, _CONTROL_AT, mxcsr, *_INITIAL_CONTROL[1:])
    registers.block[_BLOCK_ST] = bytes(128)


def _reset_sse(registers: Registers) -> None:
    registers["MXCSR"] = _INITIAL_CONTROL[0]
    registers.block[_BLOCK_XMM] = bytes(256)


def restore(memory: Memory, address: int, registers: Registers) -> None:
    """What fpu__restore_sig does with the area at `address` (0: the initial state).

    Where the magic numbers or sizes are wrong, only the FXSAVE image counts. Raises AccessFault
    where memory cannot be read or where XRSTOR or FXRSTOR would fault.
    """
    if not address:
        reset(registers)
        return
    image = copy_from_user(memory, address, FXSAVE_SIZE)
    features, present = _features(memory, address, image)
    fcw, fsw, tags, _, _, _, mxcsr, _ = _HEAD.unpack_from(image)
    if features & SSE and mxcsr & ~MXCSR_MASK:
        raise AccessFault(address + 24)  # reserved bits of MXCSR: #GP
    if features & present & X87:
        _restore_x87(registers, image, fcw, fsw, tags)
    else:
        _reset_x87(registers)
    if features & present & SSE:
        registers.block[_BLOCK_XMM] = image[_XMM]
    else:
        _reset_sse(registers)
    if features & SSE:  # XRSTOR loads MXCSR whenever SSE is asked for, present or not
        registers["MXCSR"] = mxcsr


def _features(memory: Memory, address: int, image: bytes) -> tuple[int, int]:
    """Components to restore, and those that the area holds (check_xstate_in_sigframe)."""
    magic1, extended, features, size = _SW_BYTES.unpack_from(image, _SW_RESERVED)
    if magic1 == FP_XSTATE_MAGIC1 and size == XSTATE_SIZE <= extended:
        tail = copy_from_user(memory, address + FXSAVE_SIZE, FRAME_SIZE - FXSAVE_SIZE)
        if int.from_bytes(tail[-4:], "little") == FP_XSTATE_MAGIC2:
            present, compacted, zero = _XSAVE_HEADER.unpack_from(tail)
            # XRSTOR: #GP on a bad alignment, unknown components, or a header that is not zero.
            if address % 64 or present & ~XCR0 or compacted or zero:
                raise AccessFault(address)
            return features & XCR0, present
    if address % 16:
        raise AccessFault(address)  # FXRSTOR: #GP
    return XCR0, XCR0


def _restore_x87(registers: Registers, image: bytes, fcw: int, fsw: int, tags: int) -> None:
    top = fsw >> 11 & 7
    stack = _rotated(image[_ST], -top % 8)
    registers.block[_BLOCK_ST] = stack
    full = 0
    for i in range(8):
        tag = _tag(stack[16 * i : 16 * i + 10]) if tags >> i & 1 else 3
        full |= tag << 2 * i
    _CONTROL.pack_into(registers.block, _CONTROL_AT, registers["MXCSR"], fcw, fsw, full)
