"""Building blocks of an encoding: REX, ModRM, SIB, displacement (Intel's manual, 2.1 and 2.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from asm.intel import Imm, Mem
from asm.registers import INTEL_GPR, INTEL_HIGH

if TYPE_CHECKING:
    from asm.intel import IntelOperand


class Encoded(NamedTuple):
    """Machine code; `field` is the offset of a 32-bit field that the layout fills in, or -1."""

    data: bytes
    field: int = -1


class CannotEncodeError(Exception):
    """These operands have no encoding with this instruction."""


class RegisterInfo(NamedTuple):
    """A register's number, width in bits, and class: g(eneral), h(igh byte), x, y, z, k, m …"""

    number: int
    width: int
    kind: str


def _registers() -> dict[str, RegisterInfo]:
    table: dict[str, RegisterInfo] = {}
    for width, names in INTEL_GPR.items():
        for number, name in enumerate(names):
            table[name] = RegisterInfo(number, width, "g")
    for number, name in INTEL_HIGH.items():
        table[name] = RegisterInfo(number, 8, "h")
    for number in range(32):
        table[f"xmm{number}"] = RegisterInfo(number, 128, "x")
        table[f"ymm{number}"] = RegisterInfo(number, 256, "y")
        table[f"zmm{number}"] = RegisterInfo(number, 512, "z")
    for number in range(8):
        table[f"k{number}"] = RegisterInfo(number, 64, "k")
        table[f"mm{number}"] = RegisterInfo(number, 64, "m")
        table[f"st({number})"] = RegisterInfo(number, 80, "f")
        table[f"dr{number}"] = RegisterInfo(number, 64, "d")
    for number in range(16):
        table[f"cr{number}"] = RegisterInfo(number, 64, "c")
    for number, name in enumerate(("es", "cs", "ss", "ds", "fs", "gs")):
        table[name] = RegisterInfo(number, 16, "s")
    return table


REGISTER = _registers()
SEGMENT_PREFIX = {"es": 0x26, "cs": 0x2E, "ss": 0x36, "ds": 0x3E, "fs": 0x64, "gs": 0x65}
_SCALE = {1: 0x00, 2: 0x40, 4: 0x80, 8: 0xC0}


class Address(NamedTuple):
    """ModRM (without its reg field) and what follows; `field` counts from the ModRM byte."""

    data: bytes
    x: int  # the high bit of the index
    b: int  # the high bit of the base or register
    field: int
    v: int = 0  # bit 4 of a vector index (EVEX.V')


def register_operand(number: int) -> Address:
    """ModRM for a register."""
    return Address(bytes((0xC0 | number & 7,)), number >> 4 & 1, number >> 3 & 1, -1)


def address(mem: Mem, disp8_scale: int = 1) -> Address:
    """ModRM, SIB and displacement of a memory operand, the shortest as Go chooses it.

    An EVEX instruction counts its 8-bit displacement in units of `disp8_scale` bytes.
    """
    if mem.rip:
        if mem.base or mem.index:
            raise CannotEncodeError("an address relative to RIP takes no register")
        return Address(b"\x05" + (mem.disp & 0xFFFFFFFF).to_bytes(4, "little"), 0, 0, 1)
    disp = mem.disp
    if not -(1 << 31) <= disp < 1 << 31:
        raise CannotEncodeError("the offset does not fit in 32 bits")
    long = disp.to_bytes(4, "little", signed=True)
    index_bits, x, v = 0x20, 0, 0
    if mem.index:
        index = REGISTER[mem.index]
        if index.kind == "g" and index.number == 4:
            raise CannotEncodeError("SP cannot be an index")
        index_bits = (index.number & 7) << 3
        x, v = index.number >> 3 & 1, index.number >> 4 & 1
    if not mem.base:
        sib = _SCALE[mem.scale] | index_bits | 5
        return Address(bytes((0x04, sib)) + long, x, 0, -1, v)
    base = REGISTER[mem.base].number
    low = base & 7
    if disp == 0 and low != 5:
        mod, tail = 0x00, b""
    elif disp % disp8_scale == 0 and -128 <= disp // disp8_scale <= 127:
        mod, tail = 0x40, bytes((disp // disp8_scale & 0xFF,))
    else:
        mod, tail = 0x80, long
    if mem.index or low == 4:
        sib = _SCALE[mem.scale] | index_bits | low
        return Address(bytes((mod | 4, sib)) + tail, x, base >> 3, -1, v)
    return Address(bytes((mod | low,)) + tail, 0, base >> 3, -1)


def legacy(
    opcode: bytes,
    reg: int,
    rm: Address,
    *,
    prefix: bytes = b"",
    w: int = 0,
    rex: int = 0,
    immediate: bytes = b"",
) -> Encoded:
    """Prefixes, REX, opcode, ModRM and immediate; `rex` forces a REX prefix when 0x40."""
    if reg > 15 or rm.v or (rm.x and rm.data[0] >= 0xC0):
        raise CannotEncodeError("no encoding of a register 16 to 31 but with EVEX")
    rex |= w << 3 | (reg >> 3 & 1) << 2 | rm.x << 1 | rm.b
    head = prefix + bytes((0x40 | rex,)) if rex else prefix
    head += opcode
    modrm = bytes((rm.data[0] | (reg & 7) << 3,)) + rm.data[1:]
    field = len(head) + rm.field if rm.field >= 0 else -1
    return Encoded(head + modrm + immediate, field)


def rm_operand(operand: IntelOperand) -> Address:
    """The ModRM part of a register or memory operand."""
    if isinstance(operand, Mem):
        return address(operand)
    if isinstance(operand, str):
        return register_operand(REGISTER[operand].number)
    raise CannotEncodeError("an immediate does not go here")


def width_of(operand: IntelOperand) -> int:
    """The width of an operand in bits, 0 for an immediate."""
    if isinstance(operand, str):
        return REGISTER[operand].width
    return 0 if isinstance(operand, Imm) else operand.width
