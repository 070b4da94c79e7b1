"""VEX and EVEX encodings (Intel's manual, volume 2, 2.3, 2.7), which Keystone lacks or errs in."""

from __future__ import annotations

from typing import NamedTuple

from asm.intel import Insn, IntelOperand, Mem
from asm.machine import (
    REGISTER,
    SEGMENT_PREFIX,
    CannotEncodeError,
    Encoded,
    address,
    register_operand,
)

_PP = {0: 0, 0x66: 1, 0xF3: 2, 0xF2: 3}


class VectorOpcode(NamedTuple):
    """A VEX or EVEX opcode; `map` is 1 for 0F, 2 for 0F38, 3 for 0F3A."""

    prefix: int
    map: int
    load: int
    store: int
    w: int = 0


_MOVES = {
    "vmovups": VectorOpcode(0, 1, 0x10, 0x11),
    "vmovupd": VectorOpcode(0x66, 1, 0x10, 0x11),
    "vmovaps": VectorOpcode(0, 1, 0x28, 0x29),
    "vmovapd": VectorOpcode(0x66, 1, 0x28, 0x29),
    "vmovdqa": VectorOpcode(0x66, 1, 0x6F, 0x7F),
    "vmovdqu": VectorOpcode(0xF3, 1, 0x6F, 0x7F),
}
_EVEX_MOVES = {
    "vmovups": VectorOpcode(0, 1, 0x10, 0x11),
    "vmovupd": VectorOpcode(0x66, 1, 0x10, 0x11, 1),
    "vmovaps": VectorOpcode(0, 1, 0x28, 0x29),
    "vmovapd": VectorOpcode(0x66, 1, 0x28, 0x29, 1),
    "vmovdqa32": VectorOpcode(0x66, 1, 0x6F, 0x7F),
    "vmovdqa64": VectorOpcode(0x66, 1, 0x6F, 0x7F, 1),
    "vmovdqu8": VectorOpcode(0xF2, 1, 0x6F, 0x7F),
    "vmovdqu16": VectorOpcode(0xF2, 1, 0x6F, 0x7F, 1),
    "vmovdqu32": VectorOpcode(0xF3, 1, 0x6F, 0x7F),
    "vmovdqu64": VectorOpcode(0xF3, 1, 0x6F, 0x7F, 1),
}
# KMOV: prefix and W of k, k/m; then of k, r32/r64
_KMOV = {
    "kmovb": ((0x66, 0), (0x66, 0)),
    "kmovw": ((0, 0), (0, 0)),
    "kmovd": ((0x66, 1), (0xF2, 0)),
    "kmovq": ((0, 1), (0xF2, 1)),
}


def _vex(
    opcode: VectorOpcode, code: int, reg: int, rm: IntelOperand, length: int, vvvv: int = 0
) -> Encoded:
    place = address(rm) if isinstance(rm, Mem) else register_operand(REGISTER[str(rm)].number)
    head = b""
    if isinstance(rm, Mem) and rm.segment:
        head = bytes((SEGMENT_PREFIX[rm.segment],))
    r, x, b = reg >> 3 & 1, place.x, place.b
    tail = (~vvvv & 15) << 3 | length << 2 | _PP[opcode.prefix]
    if not x and not b and not opcode.w and opcode.map == 1:
        head += bytes((0xC5, (1 - r) << 7 | tail))
    else:
        head += bytes(
            (0xC4, (1 - r) << 7 | (1 - x) << 6 | (1 - b) << 5 | opcode.map, opcode.w << 7 | tail)
        )
    head += bytes((code,))
    modrm = bytes((place.data[0] | (reg & 7) << 3,)) + place.data[1:]
    return Encoded(head + modrm, len(head) + place.field if place.field >= 0 else -1)


def _evex(
    insn: Insn, opcode: VectorOpcode, code: int, reg: int, rm: IntelOperand, length: int
) -> Encoded:
    """A two-operand EVEX instruction with a full-vector memory operand."""
    head = b""
    if isinstance(rm, Mem):
        place = address(rm, 16 << length)
        high = place.x
        if rm.segment:
            head = bytes((SEGMENT_PREFIX[rm.segment],))
    else:
        number = REGISTER[str(rm)].number
        place = register_operand(number)
        high = number >> 4 & 1
    mask = REGISTER[insn.mask].number if insn.mask else 0
    r, r4 = reg >> 3 & 1, reg >> 4 & 1
    head += bytes(
        (
            0x62,
            (1 - r) << 7 | (1 - high) << 6 | (1 - place.b) << 5 | (1 - r4) << 4 | opcode.map,
            opcode.w << 7 | 15 << 3 | 1 << 2 | _PP[opcode.prefix],
            int(insn.zeroing) << 7 | length << 5 | 1 << 3 | mask,
            code,
        )
    )
    modrm = bytes((place.data[0] | (reg & 7) << 3,)) + place.data[1:]
    return Encoded(head + modrm, len(head) + place.field if place.field >= 0 else -1)


def encode(insn: Insn) -> Encoded | None:
    """Encodes a VEX or EVEX instruction, or returns None if it is not one of ours.

    Raises:
        CannotEncodeError: these operands do not go together.
    """
    name = insn.mnemonic
    if name in _KMOV:
        return _kmov(name, insn.operands)
    if (name not in _MOVES and name not in _EVEX_MOVES) or len(insn.operands) != 2:
        return None
    first, second = insn.operands
    registers = [REGISTER[o] for o in (first, second) if isinstance(o, str)]
    if not registers or any(r.kind not in "xyz" for r in registers):
        return None
    if len({r.kind for r in registers}) > 1:
        raise CannotEncodeError("the registers differ in width")
    length = {128: 0, 256: 1, 512: 2}[registers[0].width]
    needs_evex = (
        length == 2 or insn.mask or any(r.number > 15 for r in registers) or name not in _MOVES
    )
    load = isinstance(first, str)
    reg, rm = (registers[0].number, second) if load else (REGISTER[str(second)].number, first)
    if needs_evex:
        if name not in _EVEX_MOVES:
            raise CannotEncodeError(f"{name} has no EVEX form: use its sized variants")
        opcode = _EVEX_MOVES[name]
        return _evex(insn, opcode, opcode.load if load else opcode.store, reg, rm, length)
    opcode = _MOVES[name]
    return _vex(opcode, opcode.load if load else opcode.store, reg, rm, length)


def _kmov(name: str, operands: tuple[IntelOperand, ...]) -> Encoded | None:
    if len(operands) != 2:
        return None
    first, second = operands
    (mask_prefix, mask_w), (gpr_prefix, gpr_w) = _KMOV[name]
    one = REGISTER[first] if isinstance(first, str) else None
    two = REGISTER[second] if isinstance(second, str) else None
    memory = VectorOpcode(mask_prefix, 1, 0x90, 0x91, mask_w)
    general = VectorOpcode(gpr_prefix, 1, 0x92, 0x93, gpr_w)
    if one and one.kind == "k":
        if two is None and isinstance(second, Mem):
            return _vex(memory, 0x90, one.number, second, 0)
        if two and two.kind == "k":
            return _vex(memory, 0x90, one.number, second, 0)
        if two and two.kind == "g":
            return _vex(general, 0x92, one.number, second, 0)
    if two and two.kind == "k":
        if one is None and isinstance(first, Mem):
            return _vex(memory, 0x91, two.number, first, 0)
        if one and one.kind == "g":
            return _vex(general, 0x93, one.number, second, 0)
    return None
