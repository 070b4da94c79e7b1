"""Which memory an instruction reads and writes, implicit operands included.

By iced-x86, which is loaded at the first use. Addresses are computed as the processor does (SDM
volume 1, 3.7.5); of XSAVE's areas the size is that of all components that emulator.extended knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Final

from emulator import extended

if TYPE_CHECKING:
    from emulator.registers import Registers

_ADDRESS: Final = 2**64 - 1
_XSAVE_SIZE: Final = extended.AREA_OFFSET + extended.SIZE
_BASES: Final = {"FS": "FS_BASE", "GS": "GS_BASE"}


@dataclass(frozen=True, slots=True)
class Access:
    """`size` bytes at an address, which are read, written, or both."""

    address: int
    size: int
    reads: bool
    writes: bool

    def covers(self, address: int) -> bool:
        """Whether an address is among them."""
        return (address - self.address) & _ADDRESS < self.size


@dataclass(frozen=True, slots=True)
class _Part:
    """Where one memory operand lies, by names of registers; an index may be a vector.

    A name is empty where there is none.
    """

    segment: str
    base: str
    index: str
    index_mask: int
    scale: int
    displacement: int
    bits: int  # of the address
    size: int
    lanes: int  # bytes of each index in a vector; 0 where it is none
    bit_offset: str  # the register that selects a bit of BTS's kind, whose operand may lie anywhere
    reads: bool
    writes: bool


class _Iced:
    def __init__(self) -> None:
        import iced_x86

        self.decoder = iced_x86.Decoder
        self.analysis = iced_x86.InstructionInfoFactory()
        self.size_of = iced_x86.MemorySizeExt.size
        self.names = {
            value: name for name, value in vars(iced_x86.Register).items() if isinstance(value, int)
        }
        self.al = iced_x86.Register.AL
        self.full = iced_x86.RegisterExt.full_register
        kinds = iced_x86.OpAccess
        self.reading = {
            kinds.READ, kinds.COND_READ, kinds.READ_WRITE, kinds.READ_COND_WRITE,
        }  # fmt: skip
        self.writing = {
            kinds.WRITE, kinds.COND_WRITE, kinds.READ_WRITE, kinds.READ_COND_WRITE,
        }  # fmt: skip
        mnemonics = iced_x86.Mnemonic
        self.bit_tests = {mnemonics.BT, mnemonics.BTS, mnemonics.BTR, mnemonics.BTC}
        self.register = iced_x86.OpKind.REGISTER

    def name(self, register: int) -> str:
        """The 64 bits or the vector that a register is a part of."""
        vector = self.names[register].startswith(("XMM", "YMM", "ZMM"))
        return self.names[register if vector else self.full(register)] if register else ""


@cache
def _iced() -> _Iced:
    return _Iced()


@lru_cache(maxsize=4096)
def _parts(code: bytes, rip: int) -> tuple[_Part, ...]:
    iced = _iced()
    instruction = iced.decoder(64, code, ip=rip).decode()
    return tuple(
        _part(instruction, used, iced) for used in iced.analysis.info(instruction).used_memory()
    )


def _part(instruction: Any, used: Any, iced: _Iced) -> _Part:
    size = iced.size_of(used.memory_size) or iced.size_of(instruction.memory_size) or _XSAVE_SIZE
    bit_offset = ""
    if instruction.mnemonic in iced.bit_tests and instruction.op1_kind == iced.register:
        bit_offset = iced.name(instruction.op1_register)
    return _Part(
        segment=_BASES.get(iced.names[used.segment], ""),
        base=iced.name(used.base),
        index=iced.name(used.index),
        index_mask=0xFF if used.index == iced.al else _ADDRESS,
        scale=used.scale,
        displacement=used.displacement,
        bits=8 * (1 << used.address_size),
        size=size,
        lanes=used.vsib_size,
        bit_offset=bit_offset,
        reads=used.access in iced.reading,
        writes=used.access in iced.writing,
    )


def _addresses(part: _Part, registers: Registers) -> list[int]:
    base = part.displacement + (registers[part.base] if part.base else 0)
    if part.lanes:
        every, lane = registers.bytes_of(part.index.replace("XMM", "YMM")), part.lanes
        width = {"X": 16, "Y": 32, "Z": 64}[part.index[0]]
        indexes = [
            int.from_bytes(every[at : at + lane], "little", signed=True)
            for at in range(0, width, lane)
        ]
    else:
        indexes = [registers[part.index] & part.index_mask if part.index else 0]
    first = registers[part.segment] if part.segment else 0
    if part.bit_offset:
        sign = 1 << (8 * part.size - 1)
        value = registers[part.bit_offset] & (2 * sign - 1)
        base += ((value ^ sign) - sign) // (8 * part.size) * part.size
    mask = (1 << part.bits) - 1
    return [(first + ((base + index * part.scale) & mask)) & _ADDRESS for index in indexes]


def accesses(code: bytes, registers: Registers) -> list[Access]:
    """What the instruction that `code` starts with accesses, with these registers before it.

    Elements that a mask leaves out are among it; of REP instructions, the next iteration's.
    """
    return [
        Access(address, part.size, part.reads, part.writes)
        for part in _parts(code, registers["RIP"])
        for address in _addresses(part, registers)
    ]
