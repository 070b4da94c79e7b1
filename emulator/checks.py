"""What must hold before Unicorn may execute a fenced instruction.

Where it does not, the instruction is refused, or faults as it does on a processor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from emulator import x87
from emulator.fault import FaultKind
from emulator.fence import Special, classify, opcode
from emulator.memory import UnmappedError
from emulator.registers import GENERAL

if TYPE_CHECKING:
    from emulator.memory import Memory
    from emulator.registers import Registers

Objection = tuple[FaultKind, str]

_FXSAVE_MXCSR: Final = 24  # its offset in the image
_MASKS: Final = 0x1F80  # of MXCSR: all exceptions masked
_FLUSH: Final = 0x8040  # FZ, DAZ


def mxcsr_objection(value: int) -> str | None:
    """Why nothing can be executed with this MXCSR; None if all is well."""
    if value & _MASKS != _MASKS:
        return f"MXCSR {value:#x}: SSE exceptions that are not masked"
    if value & _FLUSH:
        return f"MXCSR {value:#x}: denormals as zero, or flushed to zero"
    return None


def operand_address(code: bytes, registers: Registers, index: int) -> int | None:
    """The address of the memory operand whose ModRM byte is `code[index]`.

    None where an address-size prefix makes it one of 32 bits. Encoding: SDM volume 2, 2.1.5, 2.2.1.
    """
    prefixes, rex, _ = opcode(code)
    if 0x67 in prefixes:
        return None
    modrm = code[index]
    mode, base = modrm >> 6, modrm & 7
    index += 1
    address = 0
    if base == 4:
        sib = code[index]
        index += 1
        base = sib & 7
        number = sib >> 3 & 7 | (rex & 2) << 2
        if number != 4:
            address += registers[GENERAL[number]] << (sib >> 6)
        direct = base == 5 and mode == 0
    else:
        direct = False
        if base == 5 and mode == 0:
            # RIP-relative: from behind the instruction, of which only an imm8 may follow.
            width = int.from_bytes(code[index : index + 4], "little", signed=True)
            return (registers["RIP"] + index + 4 + width) % 2**64
    if not direct:
        address += registers[GENERAL[base | (rex & 1) << 3]]
    size = 4 if direct or mode == 2 else mode  # of the displacement
    address += int.from_bytes(code[index : index + size], "little", signed=True)
    for prefix, name in ((0x64, "FS_BASE"), (0x65, "GS_BASE")):
        if prefix in prefixes:
            address += registers[name]
    return address % 2**64


def objection(
    special: Special, code: bytes, registers: Registers, memory: Memory
) -> Objection | None:
    """Why the instruction at RIP, whose bytes are `code`, must not be executed; None if it may."""
    _, _, index = opcode(code)
    if special is Special.X87:
        status = registers["FSW"]
        arguments = (registers["FCW"], status, registers["FTW"], registers[f"ST{status >> 11 & 7}"])
        why = x87.objection(code[index], code[index + 1], *arguments)
        if why is None and _loads_signalling(code, registers, memory, index):
            why = "a signalling NaN"
        return None if why is None else (FaultKind.REFUSED, why)
    three_bytes = code[index + 1] in (0x38, 0x3A)
    modrm = index + 2 + three_bytes
    address = operand_address(code, registers, modrm)
    if address is None:
        return FaultKind.REFUSED, "a 32-bit address"
    if special is Special.MXCSR:
        digit = code[modrm] >> 3 & 7
        try:
            value = memory.u32(address + (_FXSAVE_MXCSR if digit == 1 else 0))
        except UnmappedError:
            return None  # it faults
        why = mxcsr_objection(value)
        return None if why is None or value >> 16 else (FaultKind.REFUSED, why)
    if _is_relative(code[modrm]):
        address += _has_immediate(code, index)
    if address % 16:
        return FaultKind.PRIVILEGED, f"{address % 2**64:#x} is not aligned to 16 bytes"
    return None


def is_always_aligned(code: bytes, address: int) -> bool:
    """Whether the operand of an instruction that lies there is one place, aligned to 16 bytes.

    It then needs no look each time: constants in the code's own file, as hashes and ciphers have.
    """
    if classify(code) is not Special.ALIGNED:
        return False
    prefixes, _, index = opcode(code)
    modrm = index + 2 + (code[index + 1] in (0x38, 0x3A))
    if not _is_relative(code[modrm]) or prefixes & {0x64, 0x65, 0x67}:
        return False
    place = modrm + 1
    displacement = int.from_bytes(code[place : place + 4], "little", signed=True)
    return (address + place + 4 + _has_immediate(code, index) + displacement) % 16 == 0


def _is_relative(modrm: int) -> bool:
    return modrm & 0xC7 == 5


def _has_immediate(code: bytes, index: int) -> bool:
    """Whether an imm8 follows the operand, which RIP-relative addresses count from behind."""
    return code[index + 1] in (0x3A, 0x70, 0xC2, 0xC6)


def _loads_signalling(code: bytes, registers: Registers, memory: Memory, index: int) -> bool:
    """Whether FLD of a float or double, which makes a signalling NaN quiet, meets one."""
    width = {0xD9: 4, 0xDD: 8}.get(code[index])
    if width is None or code[index + 1] >= 0xC0 or code[index + 1] & 0x38:
        return False
    address = operand_address(code, registers, index + 1)
    if address is None:
        return True  # a 32-bit address: nobody has looked
    try:
        value = int.from_bytes(memory.read(address, width), "little")
    except UnmappedError:
        return False  # it faults
    fraction = 23 if width == 4 else 52
    exponent = value >> fraction & (0xFF if width == 4 else 0x7FF)
    low = value & ((1 << fraction) - 1)
    return exponent == (0xFF if width == 4 else 0x7FF) and 0 < low < 1 << (fraction - 1)
