"""A decoded instruction that Python executes: its operands, and how it reads and writes them.

What it stores is returned, after all that can fault. Specified in Intel's SDM volume 2, 2.6 (EVEX)
and 2.8 (exception types).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from emulator.fault import FaultKind
from emulator.memory import Prot
from emulator.registers import GENERAL

if TYPE_CHECKING:
    from collections.abc import Callable

    from emulator.memory import Memory
    from emulator.registers import Registers

_ADDRESS: Final = 2**64 - 1
BYTE_MASKS: Final = {width: (1 << 8 * width) - 1 for width in (1, 2, 4, 8, 16, 32, 64)}

Store = tuple[int, bytes]


class OperationFault(Exception):  # noqa: N818  # the processor's word
    """The instruction faults, or cannot be done exactly here."""

    def __init__(self, kind: FaultKind, address: int | None = None, detail: str = "") -> None:
        super().__init__(detail or kind.value)
        self.kind = kind
        self.address = address
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Operand:
    """A vector, mask or general register by number, a place in memory, or neither (an immediate).

    `bits` is a register's width.
    """

    kind: str  # "vector", "mask", "general", "memory", "immediate"
    number: int = 0
    bits: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """How a memory operand's address is computed. Registers by number, -1 for none."""

    base: int
    index: int
    scale: int
    displacement: int
    bits: int  # of the address
    relative: bool  # to RIP, at which displacement 0 is meant
    segment: str


@dataclass(frozen=True, slots=True)
class Operation:
    """A decoded instruction. `width` is the vector length, `element` what a mask bit stands for."""

    size: int
    run: Callable[[Operation, Registers, Memory], list[Store]]
    operands: tuple[Operand, ...]
    place: Place | None
    width: int
    element: int
    aligned: bool
    mask: int  # number of the opmask register; 0 for none
    zeroing: bool
    broadcast: bool
    immediate: int
    truth: int  # table of a bitwise operation, as VPTERNLOG's immediate


Row = tuple["Callable[[Operation, Registers, Memory], list[Store]]", int, bool, int]


def address_of(place: Place, registers: Registers) -> int:
    """The linear address of a memory operand."""
    address = place.displacement
    if place.relative:
        address += registers["RIP"]
    if place.base >= 0:
        address += registers[GENERAL[place.base]]
    if place.index >= 0:
        address += registers[GENERAL[place.index]] * place.scale
    address &= (1 << place.bits) - 1
    if place.segment:
        address += registers[place.segment]
    return address & _ADDRESS


def _canonical(address: int) -> bool:
    return (address + 2**47) & _ADDRESS < 2**48


def _check_canonical(address: int, size: int) -> None:
    """Before any page fault (SDM volume 2, 2.8); raises OperationFault."""
    for end in (address, (address + size - 1) & _ADDRESS):
        if not _canonical(end):
            # A general protection fault, which has no address (SDM volume 3, 6.15).
            detail = f"non-canonical address {end:#x}"
            raise OperationFault(FaultKind.PRIVILEGED, detail=detail)


def span(memory: Memory, address: int, size: int, *, write: bool) -> bytes:
    """The bytes at an address that a program may read (or write); raises OperationFault."""
    _check_canonical(address, size)
    found = b""
    while len(found) < size:
        at = (address + len(found)) & _ADDRESS
        region = memory.find(at)
        if region is None:
            raise OperationFault(FaultKind.WRITE if write else FaultKind.READ, at)
        if write and not region.prot & Prot.WRITE:
            raise OperationFault(FaultKind.WRITE_PROTECTED, at)
        if not region.prot:  # on x86 whatever can be written or executed can be read
            raise OperationFault(FaultKind.READ_PROTECTED, at)
        start = at - region.start
        found += region.view[start : start + size - len(found)]
    return found


def _aligned_address(operation: Operation, registers: Registers, active: list[int]) -> int:
    """The address of the memory operand; its alignment counts if anything is accessed."""
    assert operation.place is not None
    address = address_of(operation.place, registers)
    if operation.aligned and active and address % operation.width:
        detail = f"{address:#x} is not aligned to {operation.width} bytes"
        raise OperationFault(FaultKind.PRIVILEGED, detail=detail)
    return address


def _active(operation: Operation, registers: Registers) -> list[int]:
    """The elements that the mask selects (SDM volume 2, 2.7.4)."""
    count = operation.width // operation.element
    mask = registers[f"K{operation.mask}"] if operation.mask else -1
    return [i for i in range(count) if mask >> i & 1]


def load(operation: Operation, registers: Registers, memory: Memory) -> int:
    """A vector from memory; elements that the mask leaves out are 0 and do not fault."""
    active = _active(operation, registers)
    address = _aligned_address(operation, registers, active)
    if not operation.mask:
        if operation.broadcast:
            element = span(memory, address, operation.element, write=False)
            return int.from_bytes(element * (operation.width // operation.element), "little")
        return int.from_bytes(span(memory, address, operation.width, write=False), "little")
    value, size = 0, operation.element
    places = [address if operation.broadcast else (address + i * size) & _ADDRESS for i in active]
    for at in places:
        _check_canonical(at, size)
    for i, at in zip(active, places, strict=True):
        part = int.from_bytes(span(memory, at, size, write=False), "little")
        value |= part << 8 * size * i
    return value


def store(operation: Operation, registers: Registers, memory: Memory, value: int) -> list[Store]:
    """What writing a vector to the memory operand stores, under the mask."""
    active, size = _active(operation, registers), operation.element
    address = _aligned_address(operation, registers, active)
    if not operation.mask:
        span(memory, address, operation.width, write=True)
        return [(address, value.to_bytes(operation.width, "little"))]
    stores = []
    for i in active:
        at = (address + i * size) & _ADDRESS
        element = value >> 8 * size * i & BYTE_MASKS[size]
        stores.append((at, element.to_bytes(size, "little")))
    for at, _ in stores:
        _check_canonical(at, size)
    try:
        for at, part in stores:
            span(memory, at, len(part), write=True)
    except OperationFault as fault:
        if fault.address is not None and fault.address != stores[0][0]:
            # Where the first byte may be written, Intel's processors blame the last one; the
            # manual does not say which address CR2 gets.
            fault.address = stores[-1][0] + size - 1
        raise
    return stores


def vector(registers: Registers, operand: Operand) -> int:
    """A vector register, as wide as the operand."""
    return registers[f"ZMM{operand.number}"] & BYTE_MASKS[operand.bits // 8]


def set_vector(operation: Operation, registers: Registers, value: int) -> None:
    """Writes the destination under the mask; what lies above the vector length becomes 0."""
    target = f"ZMM{operation.operands[0].number}"
    if operation.mask:
        old = 0 if operation.zeroing else registers[target]
        bits = 8 * operation.element
        chosen = 0
        for i in _active(operation, registers):
            chosen |= BYTE_MASKS[operation.element] << bits * i
        value = (value & chosen) | (old & ~chosen & BYTE_MASKS[operation.width])
    registers[target] = value


def source_value(operation: Operation, registers: Registers, memory: Memory, index: int) -> int:
    """A vector operand, from its register or from memory."""
    operand = operation.operands[index]
    if operand.kind == "memory":
        return load(operation, registers, memory)
    return vector(registers, operand)
