"""The AVX and AVX-512 instructions that preemption code is made of, done exactly.

Moves of whole vectors (VMOVDQU, VMOVDQA, VMOVUPS, VMOVAPS, VMOVUPD, VMOVAPD and the EVEX forms
with masks), KMOV, VZEROUPPER, VZEROALL, and bitwise logic (VPAND, VPANDN, VPOR, VPXOR, VPTERNLOG).
Unicorn knows none of them. They work on Registers and Memory; what they store is returned, after
all that can fault. Decoding is iced-x86's; what it does with invalid encodings is refused.
Specified in Intel's SDM volume 2, and 2.6 (EVEX) and 2.8 (exception types) of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from emulator.fault import FaultKind
from emulator.memory import Prot
from emulator.registers import GENERAL, Flags

if TYPE_CHECKING:
    from collections.abc import Callable

    from emulator.memory import Memory
    from emulator.registers import Registers

_ADDRESS: Final = 2**64 - 1
_NOT_EXACT: Final = int(Flags.TF | Flags.AC)  # traps behind each instruction; #AC
_BYTE_MASKS: Final = {width: (1 << 8 * width) - 1 for width in (1, 2, 4, 8, 16, 32, 64)}

Store = tuple[int, bytes]


class AvxFault(Exception):  # noqa: N818  # the processor's word
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


@lru_cache(maxsize=4096)
def decode(code: bytes) -> Operation | None:
    """The operation that `code` starts with; None if it is none of those above."""
    return _decode(code, _iced())


def execute(code: bytes, registers: Registers, memory: Memory) -> tuple[int, list[Store]] | None:
    """Executes an instruction on `registers`, whose RIP stays.

    Returns its length and the stores to make, or None where it is not one of ours. Raises
    AvxFault, with nothing changed.
    """
    operation = decode(code)
    if operation is None:
        return None
    if registers["RFLAGS"] & _NOT_EXACT:
        raise AvxFault(FaultKind.REFUSED, detail="RFLAGS.TF or RFLAGS.AC is set")
    return operation.size, operation.run(operation, registers, memory)


# Decoding.


class _Iced:
    """The names of iced-x86 that are needed; it is loaded when the first instruction is met."""

    def __init__(self) -> None:
        import iced_x86

        self.decoder = iced_x86.Decoder
        self.kinds = iced_x86.OpKind
        self.registers = iced_x86.Register
        self.info = iced_x86.RegisterExt
        self.rows = {getattr(iced_x86.Mnemonic, name): row for name, row in _rows().items()}


@lru_cache(maxsize=1)
def _iced() -> _Iced:
    return _Iced()


def _decode(code: bytes, iced: _Iced) -> Operation | None:
    instruction = iced.decoder(64, code).decode()
    row = iced.rows.get(instruction.mnemonic)
    if row is None:
        return None
    run, element, aligned, truth = row
    operands = tuple(_operand(instruction, i, iced) for i in range(instruction.op_count))
    in_memory = any(operand.kind == "memory" for operand in operands)
    return Operation(
        size=instruction.len,
        run=run,
        operands=operands,
        place=_place(instruction, iced) if in_memory else None,
        width=max((o.bits // 8 for o in operands if o.kind == "vector"), default=0),
        element=element,
        aligned=aligned,
        mask=iced.info.number(instruction.op_mask) if instruction.has_op_mask else 0,
        zeroing=instruction.zeroing_masking,
        broadcast=instruction.is_broadcast,
        immediate=instruction.immediate8 if operands and operands[-1].kind == "immediate" else 0,
        truth=truth,
    )


def _operand(instruction: Any, index: int, iced: _Iced) -> Operand:
    kind = instruction.op_kind(index)
    if kind == iced.kinds.MEMORY:
        return Operand("memory")
    if kind != iced.kinds.REGISTER:
        return Operand("immediate")
    register = instruction.op_register(index)
    info = iced.info
    if info.is_vector_register(register):
        return Operand("vector", info.number(register), 8 * info.size(register))
    if info.is_k(register):
        return Operand("mask", info.number(register), 64)
    return Operand("general", info.number(register), 8 * info.size(register))


def _place(instruction: Any, iced: _Iced) -> Place:
    none, info = iced.registers.NONE, iced.info
    base, index = instruction.memory_base, instruction.memory_index
    relative = base in (iced.registers.RIP, iced.registers.EIP)
    named = [register for register in (base, index) if register != none]
    sizes = {4 if r == iced.registers.EIP else 8 if relative else info.size(r) for r in named}
    segment = {iced.registers.FS: "FS_BASE", iced.registers.GS: "GS_BASE"}
    return Place(
        base=-1 if base == none or relative else info.number(base),
        index=-1 if index == none else info.number(index),
        scale=instruction.memory_index_scale,
        displacement=instruction.memory_displacement,
        bits=8 * min(sizes, default=instruction.memory_displ_size),
        relative=relative,
        segment=segment.get(instruction.segment_prefix, ""),
    )


# Memory.


def _address(place: Place, registers: Registers) -> int:
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
    """Before any page fault (SDM volume 2, 2.8); raises AvxFault."""
    for end in (address, (address + size - 1) & _ADDRESS):
        if not _canonical(end):
            # A general protection fault, which has no address (SDM volume 3, 6.15).
            detail = f"non-canonical address {end:#x}"
            raise AvxFault(FaultKind.PRIVILEGED, detail=detail)


def _span(memory: Memory, address: int, size: int, *, write: bool) -> bytes:
    """The bytes at an address, if a program may read (or write) all of them; raises AvxFault."""
    _check_canonical(address, size)
    found = b""
    while len(found) < size:
        at = (address + len(found)) & _ADDRESS
        region = memory.find(at)
        if region is None:
            raise AvxFault(FaultKind.WRITE if write else FaultKind.READ, at)
        if write and not region.prot & Prot.WRITE:
            raise AvxFault(FaultKind.WRITE_PROTECTED, at)
        if not region.prot:  # on x86 whatever can be written or executed can be read
            raise AvxFault(FaultKind.READ_PROTECTED, at)
        start = at - region.start
        found += region.view[start : start + size - len(found)]
    return found


def _aligned_address(operation: Operation, registers: Registers, active: list[int]) -> int:
    """The address of the memory operand; its alignment counts if anything is accessed."""
    assert operation.place is not None
    address = _address(operation.place, registers)
    if operation.aligned and active and address % operation.width:
        detail = f"{address:#x} is not aligned to {operation.width} bytes"
        raise AvxFault(FaultKind.PRIVILEGED, detail=detail)
    return address


def _active(operation: Operation, registers: Registers) -> list[int]:
    """The elements that the mask selects (SDM volume 2, 2.7.4)."""
    count = operation.width // operation.element
    mask = registers[f"K{operation.mask}"] if operation.mask else -1
    return [i for i in range(count) if mask >> i & 1]


def _load(operation: Operation, registers: Registers, memory: Memory) -> int:
    """A vector from memory; elements that the mask leaves out are 0 and do not fault."""
    active = _active(operation, registers)
    address = _aligned_address(operation, registers, active)
    if not operation.mask:
        if operation.broadcast:
            element = _span(memory, address, operation.element, write=False)
            return int.from_bytes(element * (operation.width // operation.element), "little")
        return int.from_bytes(_span(memory, address, operation.width, write=False), "little")
    value, size = 0, operation.element
    places = [address if operation.broadcast else (address + i * size) & _ADDRESS for i in active]
    for at in places:
        _check_canonical(at, size)
    for i, at in zip(active, places, strict=True):
        part = int.from_bytes(_span(memory, at, size, write=False), "little")
        value |= part << 8 * size * i
    return value


def _store(operation: Operation, registers: Registers, memory: Memory, value: int) -> list[Store]:
    active, size = _active(operation, registers), operation.element
    address = _aligned_address(operation, registers, active)
    if not operation.mask:
        _span(memory, address, operation.width, write=True)
        return [(address, value.to_bytes(operation.width, "little"))]
    stores = []
    for i in active:
        at = (address + i * size) & _ADDRESS
        element = value >> 8 * size * i & _BYTE_MASKS[size]
        stores.append((at, element.to_bytes(size, "little")))
    for at, _ in stores:
        _check_canonical(at, size)
    try:
        for at, part in stores:
            _span(memory, at, len(part), write=True)
    except AvxFault as fault:
        if fault.address is not None and fault.address != stores[0][0]:
            # Where the first byte may be written, Intel's processors blame the last one; the
            # manual does not say which address CR2 gets.
            fault.address = stores[-1][0] + size - 1
        raise
    return stores


# Execution.


def _vector(registers: Registers, operand: Operand) -> int:
    return registers[f"ZMM{operand.number}"] & _BYTE_MASKS[operand.bits // 8]


def _set_vector(operation: Operation, registers: Registers, value: int) -> None:
    """Writes the destination under the mask; what lies above the vector length becomes 0."""
    target = f"ZMM{operation.operands[0].number}"
    if operation.mask:
        old = 0 if operation.zeroing else registers[target]
        bits = 8 * operation.element
        chosen = 0
        for i in _active(operation, registers):
            chosen |= _BYTE_MASKS[operation.element] << bits * i
        value = (value & chosen) | (old & ~chosen & _BYTE_MASKS[operation.width])
    registers[target] = value


def _source(operation: Operation, registers: Registers, memory: Memory, index: int) -> int:
    operand = operation.operands[index]
    if operand.kind == "memory":
        return _load(operation, registers, memory)
    return _vector(registers, operand)


def _move(operation: Operation, registers: Registers, memory: Memory) -> list[Store]:
    if operation.operands[0].kind == "memory":
        value = _vector(registers, operation.operands[1])
        return _store(operation, registers, memory, value)
    _set_vector(operation, registers, _source(operation, registers, memory, 1))
    return []


def _logic(operation: Operation, registers: Registers, memory: Memory) -> list[Store]:
    """Each bit of the result is the bit of the truth table that three source bits select."""
    every = _BYTE_MASKS[operation.width]
    first = _vector(registers, operation.operands[0])
    second = _source(operation, registers, memory, 1)
    third = _source(operation, registers, memory, 2)
    table = operation.immediate if operation.truth < 0 else operation.truth
    value = 0
    for row in range(8):
        if table >> row & 1:
            value |= (
                (first if row & 4 else ~first)
                & (second if row & 2 else ~second)
                & (third if row & 1 else ~third)
            )
    _set_vector(operation, registers, value & every)
    return []


def _move_mask(operation: Operation, registers: Registers, memory: Memory) -> list[Store]:
    target, source = operation.operands
    width = operation.element
    if source.kind == "memory":
        assert operation.place is not None
        address = _address(operation.place, registers)
        value = int.from_bytes(_span(memory, address, width, write=False), "little")
    elif source.kind == "mask":
        value = registers[f"K{source.number}"] & _BYTE_MASKS[width]
    else:
        value = registers[GENERAL[source.number]] & _BYTE_MASKS[width]
    if target.kind == "memory":
        assert operation.place is not None
        address = _address(operation.place, registers)
        _span(memory, address, width, write=True)
        return [(address, value.to_bytes(width, "little"))]
    registers[f"K{target.number}" if target.kind == "mask" else GENERAL[target.number]] = value
    return []


def _zero_upper(_: Operation, registers: Registers, __: Memory) -> list[Store]:
    for number in range(16) if registers.extended else ():
        registers[f"ZMM{number}"] = registers[f"XMM{number}"]
    return []


def _zero_all(_: Operation, registers: Registers, __: Memory) -> list[Store]:
    for number in range(16):
        registers[f"ZMM{number}"] = 0
    return []


def mnemonics() -> frozenset[str]:
    """What is done here, in iced-x86's spelling."""
    return frozenset(_rows())


Row = tuple["Callable[[Operation, Registers, Memory], list[Store]]", int, bool, int]


def _rows() -> dict[str, Row]:
    """By iced's mnemonic: what runs it, bytes of an element, whether it aligns, its truth table."""
    rows: dict[str, Row] = {
        "VZEROUPPER": (_zero_upper, 0, False, 0),
        "VZEROALL": (_zero_all, 0, False, 0),
    }
    for name, element in (("UPS", 4), ("UPD", 8)):
        rows[f"VMOV{name}"] = (_move, element, False, 0)
        rows[f"VMOV{name.replace('U', 'A')}"] = (_move, element, True, 0)
    for suffix, element in (("", 1), ("8", 1), ("16", 2), ("32", 4), ("64", 8)):
        rows[f"VMOVDQU{suffix}"] = (_move, element, False, 0)
    for suffix, element in (("", 1), ("32", 4), ("64", 8)):
        rows[f"VMOVDQA{suffix}"] = (_move, element, True, 0)
    for suffix, element in (("B", 1), ("W", 2), ("D", 4), ("Q", 8)):
        rows[f"KMOV{suffix}"] = (_move_mask, element, False, 0)
    # The truth tables count (first, second, third) source; logic does not look at the first.
    for name, truth in (("VPAND", 0x88), ("VPANDN", 0x22), ("VPOR", 0xEE), ("VPXOR", 0x66)):
        for suffix, element in (("", 4), ("D", 4), ("Q", 8)):
            rows[name + suffix] = (_logic, element, False, truth)
    for suffix, element in (("D", 4), ("Q", 8)):
        rows[f"VPTERNLOG{suffix}"] = (_logic, element, False, -1)
    return rows
