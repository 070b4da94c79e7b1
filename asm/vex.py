"""VEX and EVEX prefixes (Intel's manual, volume 2, 2.3 and 2.7)."""

from __future__ import annotations

from typing import NamedTuple

from asm.intel import IntelOperand, Mem
from asm.machine import (
    REGISTER,
    SEGMENT_PREFIX,
    Address,
    CannotEncodeError,
    Encoded,
    address,
    register_operand,
)


class Prefix(NamedTuple):
    """What an opcode fixes: length (0: 128 bits, 1: 256, 2: 512), W, pp, map."""

    length: int
    w: int
    pp: int
    map: int


class Fields(NamedTuple):
    """What the operands fill in: registers by number, the ModRM operand, an immediate byte."""

    reg: int
    rm: IntelOperand
    vvvv: int
    immediate: bytes


class Evex(NamedTuple):
    """What only EVEX has; `scale` is the unit of an 8-bit displacement in bytes."""

    scale: int
    mask: int = 0
    zeroing: bool = False
    b: bool = False  # broadcast, rounding or suppressed exceptions
    rounding: int = -1  # replaces the length


def _place(rm: IntelOperand, scale: int = 1) -> Address:
    if isinstance(rm, Mem):
        return address(rm, scale)
    return register_operand(REGISTER[str(rm)].number)


def _segment(rm: IntelOperand) -> bytes:
    if isinstance(rm, Mem) and rm.segment:
        return bytes((SEGMENT_PREFIX[rm.segment],))
    return b""


def _finish(head: bytes, opcode: int, fields: Fields, place: Address) -> Encoded:
    head += bytes((opcode,))
    modrm = bytes((place.data[0] | (fields.reg & 7) << 3,)) + place.data[1:]
    field = len(head) + place.field if place.field >= 0 else -1
    return Encoded(head + modrm + fields.immediate, field)


def vex(prefix: Prefix, opcode: int, fields: Fields) -> Encoded:
    """A VEX instruction; two bytes of prefix where they do, as Go chooses."""
    place = _place(fields.rm)
    r = 1 - (fields.reg >> 3 & 1)
    tail = (~fields.vvvv & 15) << 3 | prefix.length << 2 | prefix.pp
    head = _segment(fields.rm)
    if prefix.map == 1 and not (place.x or place.b or prefix.w):
        head += bytes((0xC5, r << 7 | tail))
    else:
        extension = r << 7 | (1 - place.x) << 6 | (1 - place.b) << 5
        head += bytes((0xC4, extension | prefix.map, prefix.w << 7 | tail))
    return _finish(head, opcode, fields, place)


def evex(prefix: Prefix, opcode: int, fields: Fields, extra: Evex) -> Encoded:
    """An EVEX instruction."""
    place = _place(fields.rm, extra.scale)
    x, high_index = place.x, place.v
    if not isinstance(fields.rm, Mem):
        # The X bit is bit 4 of a register in ModRM.rm.
        x, high_index = REGISTER[str(fields.rm)].number >> 4 & 1, 0
    if high_index and fields.vvvv:
        raise CannotEncodeError("an index above 15 leaves no room for another register")
    high = high_index or fields.vvvv >> 4 & 1
    r, r4 = fields.reg >> 3 & 1, fields.reg >> 4 & 1
    length = extra.rounding if extra.rounding >= 0 else prefix.length
    head = _segment(fields.rm) + bytes(
        (
            0x62,
            (1 - r) << 7 | (1 - x) << 6 | (1 - place.b) << 5 | (1 - r4) << 4 | prefix.map,
            prefix.w << 7 | (~fields.vvvv & 15) << 3 | 1 << 2 | prefix.pp,
            int(extra.zeroing) << 7
            | length << 5
            | int(extra.b) << 4
            | (1 - high) << 3
            | extra.mask,
        )
    )
    return _finish(head, opcode, fields, place)
