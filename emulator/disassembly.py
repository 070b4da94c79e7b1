"""Machine code to text in Intel's syntax, by Capstone, which is loaded at the first use."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emulator.registers import Registers


@dataclass(frozen=True, slots=True)
class Decoded:
    """One instruction: its address, size in bytes, whole text and mnemonic, in lower case."""

    address: int
    size: int
    text: str
    mnemonic: str


@cache
def _capstone() -> Any:
    import capstone  # a tenth of a second, and most runs need none

    return capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)


def disassemble(data: bytes, address: int, count: int = 0) -> list[Decoded]:
    """The instructions of `data`, which lies at `address`; at most `count` unless that is 0.

    It ends where the bytes are no instruction that Capstone knows.
    """
    return [
        Decoded(start, size, f"{mnemonic} {operands}".rstrip(), mnemonic)
        for start, size, mnemonic, operands in _capstone().disasm_lite(data, address, count)
    ]


@cache
def _detailed() -> Any:
    import capstone

    engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    engine.detail = True
    return engine


def memory_operands(data: bytes, registers: Registers) -> list[tuple[int, int]]:
    """(address, size in bytes) of each memory operand of the instruction that `data` starts with.

    Addresses are computed from `registers`, whose RIP is the instruction's. Segment bases are
    left out of account, and so are implicit operands such as PUSH's.
    """
    from capstone.x86 import X86_OP_MEM

    rip = registers["RIP"]
    instruction = next(_detailed().disasm(data, rip, 1), None)
    if instruction is None:
        return []
    found = []
    for operand in instruction.operands:
        if operand.type != X86_OP_MEM:
            continue
        address = operand.mem.disp
        for number, scale in ((operand.mem.base, 1), (operand.mem.index, operand.mem.scale)):
            if number:
                name = str(instruction.reg_name(number)).upper()
                value = rip + instruction.size if name == "RIP" else registers[name]
                address += value * scale
        found.append((address & 0xFFFF_FFFF_FFFF_FFFF, operand.size))
    return found
