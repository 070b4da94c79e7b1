"""Go's mnemonics and operands to Intel's: names, operand order, widths, what Go rewrites.

The rewrites are those of cmd/internal/obj/x86/obj6.go (progedit) and asm6.go (span6).
"""

from __future__ import annotations

import math
import struct
from dataclasses import replace
from typing import TYPE_CHECKING

from asm import avx, special, x87
from asm.intel import Imm, Insn, IntelOperand, Mem
from asm.item import Align, Branch, Bytes, Code, Item, Reference
from asm.mnemonics import JUMPS, PREFIXES, RAW, Spec, specs
from asm.operand import Kind, Name, Operand, Prog, is_register
from asm.registers import INTEL_GPR, INTEL_HIGH, REGISTERS, RegClass, Register
from asm.source import Fault

if TYPE_CHECKING:
    from collections.abc import Callable

# Where ELF systems keep g: the word below the thread's FS base.
TLS_OFFSET = -8
_ELF = frozenset({"linux", "freebsd", "netbsd", "openbsd", "dragonfly", "solaris", "illumos"})


class Translator:
    """Translates the statements of functions for one target."""

    def __init__(
        self, go: tuple[int, int], goos: str, constant_symbol: Callable[[bytes], str]
    ) -> None:
        self.version = go
        self._goos = goos
        self._constant_symbol = constant_symbol
        self._specs = specs()

    def translate(self, prog: Prog) -> Item | None:
        """The machine's view of one statement, or None where it gives no bytes."""
        op = prog.op
        if op in {"PCDATA", "FUNCDATA", "UNKNOWN", "NOP", "END"}:
            return None
        if op == "PCALIGN":
            if self.version <= (1, 21):
                raise Fault(prog.span, "PCALIGN is there from Go 1.22 on")
            return Align(prog.operands[0].offset)
        if prog.suffixes and op not in avx.names():
            raise Fault(prog.span, f"{op} takes no suffix")
        if op in RAW:
            return self._raw(prog, RAW[op])
        if op in PREFIXES:
            if prog.operands:
                raise Fault(prog.operands[0].span, f"{op} takes no operand")
            return Bytes(bytes((PREFIXES[op],)), prefix=True)
        if op in JUMPS:
            return self._jump(prog)
        if _loads_tls(prog):
            return None  # Linux has g at a fixed offset from FS: there is nothing to load
        if op in x87.names():
            memory = next((o for o in prog.operands if o.kind is Kind.MEM), None)
            address = self.memory(prog, memory, 0) if memory is not None else None
            insn, encoded = x87.encode(prog, address)
            return Code(insn, self._code(insn, prog.operands).reference, encoded)
        if op not in self._specs:
            insn, encoded, operands = avx.encode(prog, self.operand)
            return Code(insn, self._code(insn, operands).reference, encoded)
        operands = self._rewrite(prog)
        if op in {"MOVSS", "MOVSD"} and len(operands) == 2 and _is_zero(prog.operands[0]):
            register = operands[1]
            if is_register(register, RegClass.XMM):
                return self.ordinary(prog, [register, register], Spec("xorps", (128,)))
        handler = special.BY_NAME.get(op) or special.BY_INTEL.get(self._specs[op].intel)
        if handler is not None:
            return handler(self, prog, operands, self._specs[op])
        return self.ordinary(prog, operands, self._specs[op])

    # Kinds of statements

    @staticmethod
    def _raw(prog: Prog, width: int) -> Bytes:
        if len(prog.operands) != 1 or prog.operands[0].kind is not Kind.CONST:
            raise Fault(prog.span, f"{prog.op} takes one constant: {prog.op} $1")
        value = prog.operands[0].offset
        return Bytes((value & ((1 << 8 * width) - 1)).to_bytes(width, "little"))

    def _jump(self, prog: Prog) -> Item:
        mnemonic = JUMPS[prog.op]
        if prog.target is not None:
            return Branch(mnemonic, prog.target)
        if len(prog.operands) != 1:
            raise Fault(prog.span, f"{prog.op} takes one operand")
        operand = prog.operands[0]
        if operand.kind is Kind.BRANCH:
            raise Fault(operand.span, "there is nothing to jump to")  # reported by the caller
        if mnemonic in {"jmp", "call"}:
            if operand.kind is Kind.MEM and operand.name in {Name.EXTERN, Name.STATIC}:
                if operand.index is not None:
                    raise Fault(operand.span, "a symbol(SB) takes no index")
                return Branch(mnemonic, None, _reference(operand))
            if operand.kind is Kind.INDIRECT:
                operand = replace(operand, kind=Kind.MEM)
            if operand.kind in {Kind.REG, Kind.MEM}:
                return self._code(Insn(mnemonic, (self.operand(prog, operand, 64),)), [operand])
        raise Fault(operand.span, f"{prog.op} cannot go there")

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
        return self._code(Insn(spec.intel, tuple(converted)), operands)

    def code(self, insn: Insn, operands: list[Operand]) -> Code:
        """An instruction with the reference of its symbolic operand, if one is."""
        return self._code(insn, operands)

    @staticmethod
    def _code(insn: Insn, operands: list[Operand]) -> Code:
        symbolic = [
            o for o in operands if o.kind is Kind.MEM and o.name in {Name.EXTERN, Name.STATIC}
        ]
        if len(symbolic) > 1:
            raise Fault(symbolic[1].span, "only one operand may be in memory")
        return Code(insn, _reference(symbolic[0]) if symbolic else None)

    # Operands

    def _rewrite(self, prog: Prog) -> list[Operand]:
        """Floating-point constants move to read-only memory; +0 to a register is XORPS."""
        return [self._constant(prog, o) if o.kind is Kind.FLOAT else o for o in prog.operands]

    def _constant(self, prog: Prog, operand: Operand) -> Operand:
        value = operand.value
        assert isinstance(value, float)
        try:
            if prog.op in _FLOAT32:
                data = struct.pack("<f", value)
            elif prog.op in _FLOAT64:
                data = struct.pack("<d", value)
            else:
                raise Fault(operand.span, f"{prog.op} takes no floating-point constant")
        except OverflowError:
            raise Fault(operand.span, "the constant does not fit in 32 bits") from None
        return Operand(
            Kind.MEM,
            operand.span,
            name=Name.EXTERN,
            symbol=self._constant_symbol(data),
            value=value,
        )

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


def _reference(operand: Operand) -> Reference:
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


_FLOAT32 = frozenset(["MOVSS", "ADDSS", "SUBSS", "MULSS", "DIVSS", "COMISS", "UCOMISS"])
# Without operands Intel has another instruction of the name (Go's MOVSL), or a shorter one.
_NEVER_ALONE = frozenset(["MOVSD", "NOPL", "NOPW"])
_FLOAT64 = frozenset(["MOVSD", "ADDSD", "SUBSD", "MULSD", "DIVSD", "COMISD", "UCOMISD"])


def _loads_tls(prog: Prog) -> bool:
    """MOVQ TLS, R of the two-instruction form, which Linux does not need (progedit)."""
    return (
        prog.op in {"MOVQ", "MOVL"}
        and len(prog.operands) == 2
        and is_register(prog.operands[0], RegClass.TLS)
        and is_register(prog.operands[1], RegClass.GPR)
    )


def _is_zero(operand: Operand) -> bool:
    value = operand.value
    return operand.kind is Kind.FLOAT and value == 0.0 and math.copysign(1.0, float(value)) > 0
