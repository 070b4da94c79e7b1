"""The AVX and AVX-512 instructions that preemption code is made of, done exactly.

Moves of whole vectors (VMOVDQU, VMOVDQA, VMOVUPS, VMOVAPS, VMOVUPD, VMOVAPD and the EVEX forms
with masks), KMOV, VZEROUPPER, VZEROALL, and bitwise logic (VPAND, VPANDN, VPOR, VPXOR, VPTERNLOG).
Unicorn knows none of them. Specified in Intel's SDM volume 2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emulator.operation import BYTE_MASKS, address_of, set_vector, source_value, span, store, vector
from emulator.registers import GENERAL

if TYPE_CHECKING:
    from emulator.memory import Memory
    from emulator.operation import Operation, Row, Store
    from emulator.registers import Registers


def _move(operation: Operation, registers: Registers, memory: Memory) -> list[Store]:
    if operation.operands[0].kind == "memory":
        value = vector(registers, operation.operands[1])
        return store(operation, registers, memory, value)
    set_vector(operation, registers, source_value(operation, registers, memory, 1))
    return []


def _logic(operation: Operation, registers: Registers, memory: Memory) -> list[Store]:
    """Each bit of the result is the bit of the truth table that three source bits select."""
    every = BYTE_MASKS[operation.width]
    first = vector(registers, operation.operands[0])
    second = source_value(operation, registers, memory, 1)
    third = source_value(operation, registers, memory, 2)
    table = operation.immediate if operation.truth < 0 else operation.truth
    value = 0
    for row in range(8):
        if table >> row & 1:
            value |= (
                (first if row & 4 else ~first)
                & (second if row & 2 else ~second)
                & (third if row & 1 else ~third)
            )
    set_vector(operation, registers, value & every)
    return []


def _move_mask(operation: Operation, registers: Registers, memory: Memory) -> list[Store]:
    target, source = operation.operands
    width = operation.element
    if source.kind == "memory":
        assert operation.place is not None
        address = address_of(operation.place, registers)
        value = int.from_bytes(span(memory, address, width, write=False), "little")
    elif source.kind == "mask":
        value = registers[f"K{source.number}"] & BYTE_MASKS[width]
    else:
        value = registers[GENERAL[source.number]] & BYTE_MASKS[width]
    if target.kind == "memory":
        assert operation.place is not None
        address = address_of(operation.place, registers)
        span(memory, address, width, write=True)
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


def rows() -> dict[str, Row]:
    """By iced's mnemonic: what runs it, bytes of an element, whether it aligns, its truth table."""
    found: dict[str, Row] = {
        "VZEROUPPER": (_zero_upper, 0, False, 0),
        "VZEROALL": (_zero_all, 0, False, 0),
    }
    for name, element in (("UPS", 4), ("UPD", 8)):
        found[f"VMOV{name}"] = (_move, element, False, 0)
        found[f"VMOV{name.replace('U', 'A')}"] = (_move, element, True, 0)
    for suffix, element in (("", 1), ("8", 1), ("16", 2), ("32", 4), ("64", 8)):
        found[f"VMOVDQU{suffix}"] = (_move, element, False, 0)
    for suffix, element in (("", 1), ("32", 4), ("64", 8)):
        found[f"VMOVDQA{suffix}"] = (_move, element, True, 0)
    for suffix, element in (("B", 1), ("W", 2), ("D", 4), ("Q", 8)):
        found[f"KMOV{suffix}"] = (_move_mask, element, False, 0)
    # The truth tables count (first, second, third) source; logic does not look at the first.
    for name, truth in (("VPAND", 0x88), ("VPANDN", 0x22), ("VPOR", 0xEE), ("VPXOR", 0x66)):
        for suffix, element in (("", 4), ("D", 4), ("Q", 8)):
            found[name + suffix] = (_logic, element, False, truth)
    for suffix, element in (("D", 4), ("Q", 8)):
        found[f"VPTERNLOG{suffix}"] = (_logic, element, False, -1)
    return found
