"""Operands of Go's assembler as Intel's, and the instructions that are no more than their operands.

Go's operands stand source first; the instruction's name gives the width of a general register.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from asm import avx
from asm.intel import Imm, Insn, IntelOperand, Mem
from asm.item import Code, Reference
from asm.operand import Kind, Name, Operand, Prog, is_register
from asm.registers import INTEL_GPR, INTEL_HIGH, REGISTERS, RegClass, Register
from asm.source import Fault

if TYPE_CHECKING:
    from asm.machine import Encoded
    from asm.mnemonics import Spec

# Where ELF systems keep g: the word below the thread's FS base.
TLS_OFFSET = -8
_ELF = frozenset({"linux", "freebsd", "netbsd", "openbsd", "dragonfly", "solaris", "illumos"})
# Without operands Intel has another instruction of the name (Go's MOVSL), or a shorter one.
_NEVER_ALONE = frozenset({"MOVSD", "NOPL", "NOPW"})


class Converter:
    """Converts operands for one Go version and system."""

    def __init__(self, go: tuple[int, int], goos: str) -> None:
        self.go = go
        self._goos = goos

    def ordinary(self, prog: Prog, operands: list[Operand], spec: Spec) -> Code:
        """Names, widths and order by the table."""
        widths = spec.widths or (0,)
        if not operands and prog.op in _NEVER_ALONE:
            raise Fault(prog.span, f"{prog.op} needs operands")
        mmx = len(widths) == 1 and any(is_register(o, RegClass.MMX) for o in operands)
        converted: list[IntelOperand] = []
        for position, operand in enumerate(operands):
            width = widths[min(position, len(widths) - 1)]
            # An MMX operand in memory has 64 bits, or 32, where an XMM one has 128.
            narrow = mmx and operand.kind is Kind.MEM
            converted.append(self.operand(prog, operand, 0 if narrow else width))
        if not spec.intel_order:
            converted.reverse()
        return self.code(Insn(spec.intel, tuple(converted)), operands)

    @staticmethod
    def code(insn: Insn, operands: list[Operand], encoded: Encoded | None = None) -> Code:
        """An instruction with the reference of its symbolic operand, if one is."""
        symbolic = [
            o for o in operands if o.kind is Kind.MEM and o.name in {Name.EXTERN, Name.STATIC}
        ]
        if len(symbolic) > 1:
            raise Fault(symbolic[1].span, "only one operand may be in memory")
        return Code(insn, reference(symbolic[0]) if symbolic else None, encoded)

    def operand(self, prog: Prog, operand: Operand, width: int) -> IntelOperand:
        """One operand with the width that its instruction gives it."""
        match operand.kind:
            case Kind.REG:
                assert operand.reg is not None
                return intel_register(prog, operand, operand.reg, width)
            case Kind.CONST:
                return Imm(operand.offset)
            case Kind.MEM:
                return self.memory(prog, operand, width)
            case Kind.ADDR:
                raise Fault(operand.span, f"{prog.op} takes no address: MOVQ or LEAQ it first")
            case Kind.STRING:
                raise Fault(operand.span, f"{prog.op} takes no string")
            case Kind.BRANCH:
                raise Fault(
                    operand.span,
                    f"{operand.label or 'n(PC)'} is a place to jump to, not for {prog.op}",
                )
            case Kind.REGLIST:
                raise Fault(operand.span, f"{prog.op} takes no register list")
            case _:
                raise Fault(operand.span, f"{prog.op} does not take this operand")

    def memory(self, prog: Prog, operand: Operand, width: int) -> Mem:
        """A memory operand: relative to RIP for symbols, through FS for TLS."""
        base, index, scale, segment = operand.reg, operand.index, operand.scale, ""
        disp = operand.offset
        if index is not None:
            if index.kind is RegClass.TLS:
                # In a static binary off(R)(TLS*1) is the word at FS itself; R is not read.
                base, index = index, None
            elif index.kind is RegClass.SEGMENT:
                segment, index, scale = index.name.lower(), None, 1
        if index is not None and index.name == "SP":
            raise Fault(operand.span, "SP cannot be an index")
        if operand.name in {Name.EXTERN, Name.STATIC}:
            if base is not None or index is not None:
                raise Fault(operand.span, "a symbol(SB) takes no further register")
            return Mem(width, rip=True)
        if base is not None and base.kind is RegClass.TLS:
            if self._goos not in _ELF:
                raise Fault(operand.span, f"the place of g on {self._goos} is not modelled")
            segment, base, disp = "fs", None, disp + TLS_OFFSET
        elif base is not None and base.kind is RegClass.SEGMENT:
            segment, base = base.name.lower(), None
        if segment and any(operand is between for between in prog.operands[1:-1]):
            # asm6.go asks the first and the last operand for their segment, no other.
            raise Fault(operand.span, f"Go's assembler loses the segment here, in {prog.op}")
        if prog.op == "LEAL" and -(1 << 31) <= disp < 1 << 32:
            # The one instruction whose offset may be given unsigned.
            disp = disp - (1 << 32) if disp >= 1 << 31 else disp
        if not -(1 << 31) <= disp < 1 << 31:
            raise Fault(operand.span, f"the offset {operand.offset:#x} does not fit in 32 bits")
        vector = prog.op in avx.names()
        return Mem(
            width,
            base=_address_register(operand, base) if base is not None else "",
            index=_address_register(operand, index, vector=vector) if index is not None else "",
            scale=scale or 1,
            disp=disp,
            segment=segment,
        )


def reference(operand: Operand) -> Reference:
    """The symbol that a field of the instruction refers to."""
    return Reference(operand.symbol, operand.name is Name.STATIC, operand.offset, operand)


def _address_register(operand: Operand, register: Register, *, vector: bool = False) -> str:
    if register.kind is RegClass.GPR:
        return INTEL_GPR[64][register.number]
    if vector and register.kind in {RegClass.XMM, RegClass.YMM, RegClass.ZMM}:
        return f"{register.kind.name.lower()}{register.number}"
    raise Fault(operand.span, f"{register.name} cannot be part of an address")


def intel_register(prog: Prog, operand: Operand, register: Register, width: int) -> str:
    """Intel's name of a register in an operand of this width."""
    match register.kind:
        case RegClass.GPR:
            if width in INTEL_GPR:
                return INTEL_GPR[width][register.number]
            raise Fault(operand.span, f"{prog.op} does not take the register {register.name}")
        case RegClass.BYTE | RegClass.HIGH:
            if width != 8:
                wide = next(
                    r.name
                    for r in REGISTERS.values()
                    if r.kind is RegClass.GPR and r.number == register.number % 4
                )
                note = f"{register.name} is a byte register" + (
                    f": write {wide}"
                    if register.kind is RegClass.BYTE and register.number < 4
                    else ""
                )
                raise Fault(
                    operand.span, f"{prog.op} does not take the register {register.name}", note
                )
            if register.kind is RegClass.HIGH:
                return INTEL_HIGH[register.number]
            return INTEL_GPR[8][register.number]
        case RegClass.XMM | RegClass.YMM | RegClass.ZMM:
            return f"{register.kind.name.lower()}{register.number}"
        case RegClass.MMX:
            return f"mm{register.number}"
        case RegClass.MASK:
            return f"k{register.number}"
        case RegClass.X87:
            return f"st({register.number})"
        case RegClass.SEGMENT | RegClass.CONTROL | RegClass.DEBUG:
            return register.name.lower()
        case _:
            raise Fault(operand.span, f"{prog.op} does not take the register {register.name}")
