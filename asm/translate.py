"""Go's statements to what the machine has: code, branches, raw bytes, alignments.

What Go rewrites on the way is that of cmd/internal/obj/x86/obj6.go (progedit) and asm6.go (span6).
"""

from __future__ import annotations

import math
import struct
from dataclasses import replace
from typing import TYPE_CHECKING

from asm import avx, special, x87
from asm.convert import Converter, reference
from asm.intel import Insn
from asm.item import Align, Branch, Bytes, Code, Item
from asm.mnemonics import JUMPS, PREFIXES, RAW, Spec, specs
from asm.operand import Kind, Name, Operand, Prog, is_register
from asm.registers import RegClass
from asm.source import Fault

if TYPE_CHECKING:
    from collections.abc import Callable

_FLOAT32 = frozenset({"MOVSS", "ADDSS", "SUBSS", "MULSS", "DIVSS", "COMISS", "UCOMISS"})
_FLOAT64 = frozenset({"MOVSD", "ADDSD", "SUBSD", "MULSD", "DIVSD", "COMISD", "UCOMISD"})


class Translator:
    """Translates the statements of functions for one target."""

    def __init__(
        self, go: tuple[int, int], goos: str, constant_symbol: Callable[[bytes], str]
    ) -> None:
        self._go = go
        self._converter = Converter(go, goos)
        self._constant_symbol = constant_symbol
        self._specs = specs()

    def translate(self, prog: Prog) -> Item | None:
        """The machine's view of one statement, or None where it gives no bytes."""
        op = prog.op
        if op in {"PCDATA", "FUNCDATA", "UNKNOWN", "END"}:
            return None
        if op == "PCALIGN":
            if self._go <= (1, 21):
                raise Fault(prog.span, "PCALIGN is there from Go 1.22 on")
            return Align(prog.operands[0].offset)
        if prog.suffixes and op not in avx.names():
            raise Fault(prog.span, f"{op} takes no suffix")
        if op == "NOP":
            _check_nop(prog)
            return None
        if op in RAW:
            return _raw(prog, RAW[op])
        if op in PREFIXES:
            if prog.operands:
                raise Fault(prog.operands[0].span, f"{op} takes no operand")
            return Bytes(bytes((PREFIXES[op],)), prefix=True)
        if op in JUMPS:
            return self._jump(prog)
        if _loads_tls(prog):
            return None  # Linux has g at a fixed offset from FS: there is nothing to load
        return self._instruction(prog)

    def _instruction(self, prog: Prog) -> Code | None:
        op, to = prog.op, self._converter
        if op in x87.names():
            memory = next((o for o in prog.operands if o.kind is Kind.MEM), None)
            address = to.memory(prog, memory, 0) if memory is not None else None
            insn, encoded = x87.encode(prog, address)
            return to.code(insn, prog.operands, encoded)
        if op not in self._specs:
            insn, encoded, operands = avx.encode(prog, to.operand)
            return to.code(insn, operands, encoded)
        if _zeroes(prog):
            register = prog.operands[1]
            return to.ordinary(prog, [register, register], Spec("xorps", (128,)))
        operands = [self._in_memory(prog, o) if o.kind is Kind.FLOAT else o for o in prog.operands]
        spec = self._specs[op]
        handler = special.BY_NAME.get(op) or special.BY_INTEL.get(spec.intel)
        if handler is not None:
            return handler(to, prog, operands, spec)
        return to.ordinary(prog, operands, spec)

    def _jump(self, prog: Prog) -> Item:
        mnemonic = JUMPS[prog.op]
        if prog.target is not None:
            return Branch(mnemonic, prog.target)
        if len(prog.operands) != 1:
            raise Fault(prog.span, f"{prog.op} takes one operand")
        operand = prog.operands[0]
        if mnemonic in {"jmp", "call"}:
            if operand.kind is Kind.MEM and operand.name in {Name.EXTERN, Name.STATIC}:
                if operand.index is not None:
                    raise Fault(operand.span, "a symbol(SB) takes no index")
                return Branch(mnemonic, None, reference(operand))
            if operand.kind is Kind.INDIRECT:
                operand = replace(operand, kind=Kind.MEM)
            if operand.kind in {Kind.REG, Kind.MEM}:
                to = self._converter
                return to.code(Insn(mnemonic, (to.operand(prog, operand, 64),)), [operand])
        raise Fault(operand.span, f"{prog.op} cannot go there")

    def _in_memory(self, prog: Prog, constant: Operand) -> Operand:
        """A floating-point constant as a read-only symbol."""
        value = constant.value
        assert isinstance(value, float)
        try:
            if prog.op in _FLOAT32:
                data = struct.pack("<f", value)
            elif prog.op in _FLOAT64:
                data = struct.pack("<d", value)
            else:
                raise Fault(constant.span, f"{prog.op} takes no floating-point constant")
        except OverflowError:
            raise Fault(constant.span, "the constant does not fit in 32 bits") from None
        symbol = self._constant_symbol(data)
        return Operand(Kind.MEM, constant.span, name=Name.EXTERN, symbol=symbol)


def _check_nop(prog: Prog) -> None:
    """NOP gives no bytes, and names one register or address at most (asm6.go: ynop)."""
    kinds = (RegClass.GPR, RegClass.X87, RegClass.XMM)
    for number, operand in enumerate(prog.operands):
        if number or not (operand.kind in {Kind.MEM, Kind.ADDR} or is_register(operand, *kinds)):
            raise Fault(operand.span, "NOP takes nothing, a register or an address")


def _raw(prog: Prog, width: int) -> Bytes:
    if len(prog.operands) != 1 or prog.operands[0].kind is not Kind.CONST:
        raise Fault(prog.span, f"{prog.op} takes one constant: {prog.op} $1")
    value = prog.operands[0].offset
    return Bytes((value & ((1 << 8 * width) - 1)).to_bytes(width, "little"))


def _loads_tls(prog: Prog) -> bool:
    """MOVQ TLS, R of the two-instruction form, which Linux does not need (progedit)."""
    return (
        prog.op in {"MOVQ", "MOVL"}
        and len(prog.operands) == 2
        and is_register(prog.operands[0], RegClass.TLS)
        and is_register(prog.operands[1], RegClass.GPR)
    )


def _zeroes(prog: Prog) -> bool:
    """MOVSS and MOVSD of +0 to a register, for which Go writes XORPS (progedit)."""
    if prog.op not in {"MOVSS", "MOVSD"} or len(prog.operands) != 2:
        return False
    source, destination = prog.operands
    zero = source.kind is Kind.FLOAT and source.value == 0.0
    return zero and _positive(source) and is_register(destination, RegClass.XMM)


def _positive(operand: Operand) -> bool:
    return math.copysign(1.0, float(operand.value)) > 0
