"""Random instructions of AVX and AVX-512 out of those that emulator.avx does.

The encodings are iced-x86's: each of its codes for one of the mnemonics, with random registers,
memory operands, masks and displacements; now and then a bit of a prefix is flipped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import iced_x86
from iced_x86 import Code, Encoder, EncodingKind, OpCodeInfo, OpCodeOperandKind, OpKind, Register

from emulator import avx, extended

if TYPE_CHECKING:
    import random

MNEMONICS: Final = frozenset(getattr(iced_x86.Mnemonic, name) for name in avx.rows())
NAMES: Final = {
    getattr(Code, name): name
    for name in dir(Code)
    if name.startswith(("VEX_", "EVEX_"))
    and OpCodeInfo(getattr(Code, name)).mnemonic in MNEMONICS
    and OpCodeInfo(getattr(Code, name)).mode64
}
_KINDS: Final = {
    getattr(OpCodeOperandKind, name): name for name in dir(OpCodeOperandKind) if name[0].isupper()
}
_FIRST: Final = {
    "XMM": Register.XMM0, "YMM": Register.YMM0, "ZMM": Register.ZMM0, "K": Register.K0,
    "R32": Register.EAX, "R64": Register.RAX,
}  # fmt: skip
# Without RSP and RBX, which points to the data.
_GENERAL: Final = (0, 1, 2, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
START, END = -0x200, 0xE00  # of the data, from RBX on; what lies before it can be read only


def needs(code: int) -> int:
    """The state components that a processor must have for a code."""
    name = NAMES[code]
    if name.startswith("EVEX_") or "KMOV" in name:
        return extended.FEATURES
    return extended.AVX


def encode(code: int, rng: random.Random, flips: float = 0.1) -> bytes:
    """A random instruction of a code; `flips` is how often a bit of its prefix is changed."""
    info = OpCodeInfo(code)
    instruction = iced_x86.Instruction()
    instruction.code = code
    evex = info.encoding == EncodingKind.EVEX
    for index, kind in enumerate(info.op_kinds()):
        name = _KINDS[kind]
        if name == "IMM8":
            instruction.set_op_kind(index, OpKind.IMMEDIATE8)
            instruction.immediate8 = rng.randrange(256)
        elif "MEM" in name and ("_OR_" not in name or rng.random() < 0.6):
            instruction.set_op_kind(index, OpKind.MEMORY)
            _memory(instruction, rng)
            instruction.is_broadcast = info.can_broadcast and rng.random() < 0.3
        else:
            first = _FIRST[name.partition("_")[0]]
            count = 8 if name[0] == "K" else 32 if evex else 16
            number = rng.choice(_GENERAL) if name[0] == "R" else rng.randrange(count)
            instruction.set_op_kind(index, OpKind.REGISTER)
            instruction.set_op_register(index, first + number)
    if info.can_use_op_mask_register and rng.random() < 0.6:
        instruction.op_mask = Register.K1 + rng.randrange(7)
        to_memory = instruction.op_kind(0) == OpKind.MEMORY
        instruction.zeroing_masking = (
            info.can_use_zeroing_masking and not to_memory and rng.random() < 0.5
        )
    encoder = Encoder(64)
    encoder.encode(instruction, 0x10_0000_0000)
    made = bytearray(encoder.take_buffer())
    if rng.random() < flips:
        _flip(made, rng)
    return bytes(made)


def _flip(code: bytearray, rng: random.Random) -> None:
    """Changes a bit of the prefix that is not part of the opcode map: the length stays."""
    start = next(i for i, byte in enumerate(code) if byte in (0xC4, 0xC5, 0x62))
    last = {0xC4: 2, 0xC5: 1, 0x62: 3}[code[start]]
    at = rng.randint(1, last)
    low = 4 if at == 1 and last > 1 else 0
    code[start + at] ^= 1 << rng.randint(low, 7)


def _memory(instruction: iced_x86.Instruction, rng: random.Random) -> None:
    kind = rng.random()
    aligned = rng.randrange(0x60) * 16 if rng.random() < 0.3 else rng.randrange(14) * 64
    displacement = aligned - 0x100
    if rng.random() < 0.3:
        displacement += rng.randrange(64)
    instruction.memory_displ_size = 1 if -128 <= displacement < 128 else 8
    if kind < 0.1:  # across an end of the data
        displacement = rng.choice((START, END)) - rng.randrange(80)
        instruction.memory_displ_size = 8
    instruction.memory_base = Register.RBX
    instruction.memory_displacement = displacement % 2**64
    if 0.1 <= kind < 0.15:
        instruction.memory_base = Register.EBX
        instruction.memory_displ_size = 4
        instruction.memory_displacement = displacement % 2**32
    elif 0.15 <= kind < 0.2:
        instruction.memory_index = Register.RAX + rng.choice(_GENERAL)
        instruction.memory_index_scale = rng.choice((1, 2, 4, 8))
    elif 0.2 <= kind < 0.25:
        instruction.memory_base = Register.RIP
        instruction.memory_displ_size = 8
        instruction.memory_displacement = 0x10_0000_0000 + 0x10200 + aligned
    elif 0.25 <= kind < 0.3:
        instruction.segment_prefix = rng.choice((Register.FS, Register.GS))
