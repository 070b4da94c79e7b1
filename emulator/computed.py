"""Instructions that are executed here, as Unicorn does not know them or gets them wrong.

They work on Registers and Memory. Decoding is iced-x86's; what it does with invalid encodings is
refused.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from emulator import avx, string_compare
from emulator.fault import FaultKind
from emulator.operation import Operand, Operation, OperationFault, Place
from emulator.registers import Flags

if TYPE_CHECKING:
    from emulator.memory import Memory
    from emulator.operation import Store
    from emulator.registers import Registers

_ROWS: Final = avx.rows() | string_compare.rows()
_NOT_EXACT: Final = int(Flags.TF | Flags.AC)  # traps behind each instruction; #AC


def mnemonics() -> frozenset[str]:
    """What is done here, in iced-x86's spelling."""
    return frozenset(_ROWS)


@lru_cache(maxsize=4096)
def decode(code: bytes) -> Operation | None:
    """The operation that `code` starts with; None if it is none of ours."""
    return _decode(code, _iced())


def execute(code: bytes, registers: Registers, memory: Memory) -> tuple[int, list[Store]] | None:
    """Executes an instruction on `registers`, whose RIP stays.

    Returns its length and the stores to make, or None where it is not one of ours. Raises
    OperationFault, with nothing changed.
    """
    operation = decode(code)
    if operation is None:
        return None
    if registers["RFLAGS"] & _NOT_EXACT:
        raise OperationFault(FaultKind.REFUSED, detail="RFLAGS.TF or RFLAGS.AC is set")
    return operation.size, operation.run(operation, registers, memory)


class _Iced:
    """The names of iced-x86 that are needed; it is loaded when the first instruction is met."""

    def __init__(self) -> None:
        import iced_x86

        self.decoder = iced_x86.Decoder
        self.kinds = iced_x86.OpKind
        self.registers = iced_x86.Register
        self.info = iced_x86.RegisterExt
        self.rows = {getattr(iced_x86.Mnemonic, name): row for name, row in _ROWS.items()}


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
