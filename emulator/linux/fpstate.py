"""The floating-point part of a signal frame: an FXSAVE image in an XSAVE area.

Specified in Intel's SDM volume 1, 10.5 (FXSAVE) and 13.4 (XSAVE area), and in Linux's
arch/x86/kernel/fpu/signal.c and include/uapi/asm/sigcontext.h (struct _fpx_sw_bytes).

While all that AVX adds is in its initial state, a thread's frame is that of a machine whose XCR0 is
x87 | SSE: the standard-format area has 512 + 64 bytes. Else XCR0 has AVX and AVX-512, too, and the
area 2688 bytes, of which XSTATE_BV names the components that are in use.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from emulator import extended, fxsave
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
MAGIC2_SIZE: Final = 4
FRAME_SIZE: Final = XSTATE_SIZE + MAGIC2_SIZE
EXTENDED_XCR0: Final = XCR0 | extended.FEATURES
EXTENDED_XSTATE_SIZE: Final = extended.AREA_OFFSET + extended.SIZE

_SW_RESERVED: Final = 464  # magic1, extended_size, xfeatures, xstate_size
_SW_BYTES: Final = struct.Struct("<IIQI28x")
_XSAVE_HEADER: Final = struct.Struct("<QQQ40x")  # XSTATE_BV, XCOMP_BV, must be zero
_INITIAL: Final = Registers()
_INITIAL_CONTROL: Final = CONTROL.unpack_from(_INITIAL.block, CONTROL_AT)


def frame_size(registers: Registers) -> int:
    """Bytes that the thread's floating-point state takes in a frame."""
    return (EXTENDED_XSTATE_SIZE if registers.extended else XSTATE_SIZE) + MAGIC2_SIZE


def pack(registers: Registers) -> bytes:
    """The frame_size bytes that copy_fpstate_to_sigframe writes."""
    total = frame_size(registers)
    size = total - MAGIC2_SIZE
    area = fxsave.store(registers) + bytes(XSTATE_SIZE - fxsave.SIZE) + registers.extended
    xcr0 = EXTENDED_XCR0 if registers.extended else XCR0
    _SW_BYTES.pack_into(area, _SW_RESERVED, FP_XSTATE_MAGIC1, total, xcr0, size)
    # save_xstate_epilog: x87 and SSE count as present even where they are in their initial state.
    present = X87 | SSE | extended.in_use(registers.extended)
    _XSAVE_HEADER.pack_into(area, fxsave.SIZE, present, 0, 0)
    return bytes(area) + FP_XSTATE_MAGIC2.to_bytes(MAGIC2_SIZE, "little")


def reset(registers: Registers) -> None:
    """The initial state, which a handler starts with (fpu__clear_user_states)."""
    _reset_x87(registers)
    _reset_sse(registers)
    registers.extended = extended.INITIAL


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
    features, present, state = _features(memory, address, image)
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
    registers.extended = extended.only(state, features & present)


def _features(memory: Memory, address: int, image: bytes) -> tuple[int, int, bytes]:
    """Components to restore, those that the area holds, and what follows its header.

    check_xstate_in_sigframe; of the sizes only the two that frames are built with are taken.
    """
    magic1, whole, features, size = _SW_BYTES.unpack_from(image, _SW_RESERVED)
    xcr0 = {XSTATE_SIZE: XCR0, EXTENDED_XSTATE_SIZE: EXTENDED_XCR0}.get(size)
    if magic1 == FP_XSTATE_MAGIC1 and xcr0 is not None and size <= whole:
        tail = copy_from_user(memory, address + fxsave.SIZE, size + MAGIC2_SIZE - fxsave.SIZE)
        if int.from_bytes(tail[-MAGIC2_SIZE:], "little") == FP_XSTATE_MAGIC2:
            present, compacted, zero = _XSAVE_HEADER.unpack_from(tail)
            # XRSTOR: #GP on a bad alignment, unknown components, or a header that is not zero.
            if address % 64 or present & ~xcr0 or compacted or zero:
                raise AccessFault(address)
            return features & xcr0, present, tail[_XSAVE_HEADER.size : -MAGIC2_SIZE]
    if address % 16:
        raise AccessFault(address)  # FXRSTOR: #GP
    return XCR0, XCR0, b""
