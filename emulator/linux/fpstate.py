"""The floating-point part of a signal frame: an FXSAVE image in an XSAVE area.

Specified in Intel's SDM volume 1, 10.5 (FXSAVE) and 13.4 (XSAVE area), and in Linux's
arch/x86/kernel/fpu/signal.c and include/uapi/asm/sigcontext.h (struct _fpx_sw_bytes). This
machine's XCR0 is x87 | SSE, so the standard-format area has 512 + 64 bytes.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from emulator import fxsave
from emulator.fxsave import BLOCK_ST, BLOCK_XMM, CONTROL, CONTROL_AT, HEAD, MXCSR_MASK
from emulator.linux.uaccess import AccessFault, copy_from_user
from emulator.registers import Registers

if TYPE_CHECKING:
    from emulator.memory import Memory

FP_XSTATE_MAGIC1: Final = 0x46505853
FP_XSTATE_MAGIC2: Final = 0x46505845
X87: Final = 1
SSE: Final = 2
XCR0: Final = X87 | SSE
XSTATE_SIZE: Final = fxsave.SIZE + 64  # with the XSAVE header
FRAME_SIZE: Final = XSTATE_SIZE + 4  # with FP_XSTATE_MAGIC2

_SW_RESERVED: Final = 464  # magic1, extended_size, xfeatures, xstate_size
_SW_BYTES: Final = struct.Struct("<IIQI28x")
_XSAVE_HEADER: Final = struct.Struct("<QQQ40x")  # XSTATE_BV, XCOMP_BV, must be zero
_INITIAL: Final = Registers()
_INITIAL_CONTROL: Final = CONTROL.unpack_from(_INITIAL.block, CONTROL_AT)


def pack(registers: Registers) -> bytes:
    """The FRAME_SIZE bytes that copy_fpstate_to_sigframe writes."""
    area = fxsave.store(registers) + bytes(FRAME_SIZE - fxsave.SIZE)
    _SW_BYTES.pack_into(area, _SW_RESERVED, FP_XSTATE_MAGIC1, FRAME_SIZE, XCR0, XSTATE_SIZE)
    # save_xstate_epilog: x87 and SSE count as present even where they are in their initial state.
    _XSAVE_HEADER.pack_into(area, fxsave.SIZE, X87 | SSE, 0, 0)
    area[XSTATE_SIZE:] = FP_XSTATE_MAGIC2.to_bytes(4, "little")
    return bytes(area)


def reset(registers: Registers) -> None:
    """The initial state, which a handler starts with (fpu__clear_user_states)."""
    _reset_x87(registers)
    _reset_sse(registers)


def _reset_x87(registers: Registers) -> None:
    mxcsr = registers["MXCSR"]
    CONTROL.pack_into(registers.block, CONTROL_AT, mxcsr, *_INITIAL_CONTROL[1:])
    registers.block[BLOCK_ST] = bytes(128)


def _reset_sse(registers: Registers) -> None:
    registers["MXCSR"] = _INITIAL_CONTROL[0]
    registers.block[BLOCK_XMM] = bytes(256)


def restore(memory: Memory, address: int, registers: Registers) -> None:
    """What fpu__restore_sig does with the area at `address` (0: the initial state).

    Where the magic numbers or sizes are wrong, only the FXSAVE image counts. Raises AccessFault
    where memory cannot be read or where XRSTOR or FXRSTOR would fault.
    """
    if not address:
        reset(registers)
        return
    image = copy_from_user(memory, address, fxsave.SIZE)
    features, present = _features(memory, address, image)
    mxcsr = HEAD.unpack_from(image)[6]
    if features & SSE and mxcsr & ~MXCSR_MASK:
        raise AccessFault(address + 24)  # reserved bits of MXCSR: #GP
    if features & present & X87:
        fxsave.load_x87(registers, image)
    else:
        _reset_x87(registers)
    if features & present & SSE:
        registers.block[BLOCK_XMM] = image[fxsave.XMM]
    else:
        _reset_sse(registers)
    if features & SSE:  # XRSTOR loads MXCSR whenever SSE is asked for, present or not
        registers["MXCSR"] = mxcsr


def _features(memory: Memory, address: int, image: bytes) -> tuple[int, int]:
    """Components to restore, and those that the area holds (check_xstate_in_sigframe)."""
    magic1, extended, features, size = _SW_BYTES.unpack_from(image, _SW_RESERVED)
    if magic1 == FP_XSTATE_MAGIC1 and size == XSTATE_SIZE <= extended:
        tail = copy_from_user(memory, address + fxsave.SIZE, FRAME_SIZE - fxsave.SIZE)
        if int.from_bytes(tail[-4:], "little") == FP_XSTATE_MAGIC2:
            present, compacted, zero = _XSAVE_HEADER.unpack_from(tail)
            # XRSTOR: #GP on a bad alignment, unknown components, or a header that is not zero.
            if address % 64 or present & ~XCR0 or compacted or zero:
                raise AccessFault(address)
            return features & XCR0, present
    if address % 16:
        raise AccessFault(address)  # FXRSTOR: #GP
    return XCR0, XCR0
