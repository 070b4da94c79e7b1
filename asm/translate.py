"""Go's mnemonics and operands to Intel's: names, operand order, widths, what Go rewrites.

The rewrites are those of cmd/internal/obj/x86/obj6.go (progedit) and asm6.go (span6).
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from asm import avx, x87
from asm.intel import Imm, Insn, IntelOperand, Mem
from asm.mnemonics import JUMPS, PREFIXES, RAW, Spec, specs
from asm.operand import Kind, Name, Operand, Prog
from asm.registers import INTEL_GPR, INTEL_HIGH, REGISTERS, RegClass, Register
from asm.source import Fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from asm.machine import Encoded

# Where ELF systems keep g: the word below the thread's FS base.
TLS_OFFSET = -8
_ELF = frozenset({"linux", "freebsd", "netbsd", "openbsd", "dragonfly", "solaris", "illumos"})
# Systems whose TLS takes the two-instruction form or another segment: not Linux's, not ours.


@dataclass(frozen=True, slots=True)
class Reference:
    """A symbol that a field of the code refers to."""

    name: str
    static: bool
    offset: int
    operand: Operand


@dataclass(frozen=True, slots=True)
class Code:
    """An instruction of known bytes but for a field relative to the next instruction."""

    insn: Insn
    reference: Reference | None = None
    encoded: Encoded | None = None  # where the choice of form has encoded it already


@dataclass(frozen=True, slots=True)
class Branch:
    """A jump within the function, or JMP and CALL of a symbol."""

    mnemonic: str
    target: Prog | None = None
    reference: Reference | None = None


@dataclass(frozen=True, slots=True)
class Bytes:
    """What BYTE and its kin say, or a prefix."""

    data: bytes
    prefix: bool = False


@dataclass(frozen=True, slots=True)
class Align:
    """PCALIGN."""

    alignment: int


Item = Code | Branch | Bytes | Align


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
            if prog.suffixes:
                raise Fault(prog.span, f"{op} takes no suffix")
            return None
        if op == "PCALIGN":
            return Align(prog.operands[0].offset)
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
            if _is(register, RegClass.XMM):
                return self.ordinary(prog, [register, register], Spec("xorps", (128,)))
        special = _SPECIAL.get(op) or _SPECIAL_BY_INTEL.get(self._specs[op].intel)
        if special is not None:
            return special(self, prog, operands, self._specs[op])
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
                operand = Operand(**{f: getattr(operand, f) for f in operand.__slots__})
                operand.kind = Kind.MEM
            if operand.kind in {Kind.REG, Kind.MEM}:
                return self._code(Insn(mnemonic, (self.operand(prog, operand, 64),)), [operand])
        raise Fault(operand.span, f"{prog.op} cannot go there")

    def ordinary(self, prog: Prog, operands: list[Operand], spec: Spec) -> Code:
        """Names, widths and order by the table."""
        widths = spec.widths or (0,)
        mmx = len(widths) == 1 and any(_is(o, RegClass.MMX) for o in operands)
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
        return Mem(
            width,
            base=_address_register(operand, base) if base is not None else "",
            index=_address_register(operand, index, vector=True) if index is not None else "",
            scale=scale or 1,
            disp=disp,
            segment=segment,
        )


def _reference(operand: Operand) -> Reference:
    return Reference(operand.symbol, operand.name is Name.STATIC, operand.offset, operand)


def _address_register(operand: Operand, register: Register, *, vector: bool = False) -> str:
    if register.kind is RegClass.GPR:
        if vector and register.name == "SP":
            raise Fault(operand.span, "SP cannot be an index")
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
_FLOAT64 = frozenset(["MOVSD", "ADDSD", "SUBSD", "MULSD", "DIVSD", "COMISD", "UCOMISD"])


# What is not ordinary


def _is(operand: Operand, *kinds: RegClass) -> bool:
    return operand.kind is Kind.REG and operand.reg is not None and operand.reg.kind in kinds


def _loads_tls(prog: Prog) -> bool:
    """MOVQ TLS, R of the two-instruction form, which Linux does not need (progedit)."""
    return (
        prog.op in {"MOVQ", "MOVL"}
        and len(prog.operands) == 2
        and _is(prog.operands[0], RegClass.TLS)
        and _is(prog.operands[1], RegClass.GPR)
    )


def _is_zero(operand: Operand) -> bool:
    value = operand.value
    return operand.kind is Kind.FLOAT and value == 0.0 and math.copysign(1.0, float(value)) > 0


def _mov(self: Translator, prog: Prog, operands: list[Operand], spec: Spec) -> Code:
    if len(operands) != 2:
        raise Fault(prog.span, f"{prog.op} takes two operands")
    source, destination = operands
    width = spec.widths[0]
    vector = (RegClass.XMM, RegClass.MMX)
    if source.kind is Kind.ADDR:
        # The address of something: LEA.
        if width < 32:
            raise Fault(source.span, f"{prog.op} takes no address")
        lea = Operand(**{f: getattr(source, f) for f in source.__slots__})
        lea.kind = Kind.MEM
        return _lea(self, prog, [lea, destination], Spec("lea", (0, width)))
    if any(_is(o, *vector) for o in operands):
        if width < 32 or any(o.kind is Kind.CONST for o in operands):
            raise Fault(prog.span, f"{prog.op} does not take these operands")
        name = "movq" if width == 64 else "movd"
        if width == 64 and _is(source, RegClass.MMX) and _is(destination, RegClass.XMM):
            name = "movq2dq"
        if width == 64 and _is(source, RegClass.XMM) and _is(destination, RegClass.MMX):
            name = "movdq2q"
        return self.ordinary(prog, operands, Spec(name, (width,)))
    if _is(source, RegClass.TLS):
        raise Fault(source.span, "MOVQ TLS goes to a register")
    if source.kind is Kind.CONST and width == 64 and _is(destination, RegClass.GPR):
        return self.code(mov_immediate(self, prog, source, destination), operands)
    if prog.op == "MOVLQZX" and all(o.kind is Kind.REG for o in operands):
        code = self.ordinary(prog, operands, spec)
        return Code(code.insn._replace(load=True), code.reference)
    return self.ordinary(prog, operands, spec)


def mov_immediate(self: Translator, prog: Prog, source: Operand, destination: Operand) -> Insn:
    """MOVQ $i, R: from 1.27 MOVL where that does it, before only from 2^31 on."""
    value = source.offset
    low = 0 if self.version >= (1, 27) else 1 << 31
    width = 32 if low <= value < 1 << 32 else 64
    return Insn("mov", (self.operand(prog, destination, width), Imm(value)))


def _lea(self: Translator, prog: Prog, operands: list[Operand], spec: Spec) -> Code:
    if len(operands) == 2 and operands[0].kind is not Kind.MEM:
        raise Fault(operands[0].span, f"{prog.op} takes an address in memory first")
    return self.ordinary(prog, operands, spec)


def _shift(self: Translator, prog: Prog, operands: list[Operand], spec: Spec) -> Code:
    """The count first; CX stands for CL; three operands are SHLD and SHRD."""
    width = spec.widths[-1]
    if len(operands) not in {2, 3}:
        raise Fault(prog.span, f"{prog.op} takes a count and what to shift")
    count = operands[0]
    amount: IntelOperand
    if count.kind is Kind.CONST:
        amount = Imm(count.offset)
        limit = range(256) if len(operands) == 2 else range(-128, 128)
        if count.offset not in limit:
            raise Fault(count.span, f"the count {count.offset} is out of range")
    elif count.kind is Kind.REG and count.reg is not None and count.reg.name in {"CX", "CL"}:
        amount = "cl"
    else:
        raise Fault(count.span, f"{prog.op} takes its count as an immediate or in CX")
    rest = [self.operand(prog, o, width) for o in reversed(operands[1:])]
    name = spec.intel
    if len(operands) == 3:
        if prog.op[:3] not in {"SHL", "SHR"} or width == 8:
            raise Fault(prog.span, f"{prog.op} takes two operands")
        name += "d"
    return self.code(Insn(name, (*rest, amount)), operands)


def _imul(self: Translator, prog: Prog, operands: list[Operand], spec: Spec) -> Code:
    three = prog.op.startswith("IMUL3")
    if three != (len(operands) == 3) or not operands or len(operands) > 3:
        raise Fault(prog.span, f"{prog.op} takes {'three' if three else 'one or two'} operands")
    code = self.ordinary(prog, operands, spec)
    converted = code.insn.operands
    if len(converted) == 2:
        if prog.op == "IMULB":
            raise Fault(prog.span, "IMULB takes one operand")
        if isinstance(converted[1], Imm):
            # IMULQ $i, R multiplies R by i: the three-operand form.
            return Code(Insn("imul", (converted[0], converted[0], converted[1])), code.reference)
    return code


def _ret(self: Translator, prog: Prog, operands: list[Operand], spec: Spec) -> Code:
    if len(operands) > 1 or (operands and operands[0].kind is not Kind.CONST):
        raise Fault(prog.span, "RET takes nothing, $bytes or symbol(SB)")
    return self.ordinary(prog, operands, spec)


def _adjsp(self: Translator, prog: Prog, operands: list[Operand], _: Spec) -> Code | None:
    """ADDQ or SUBQ, whichever has a positive immediate; -128 is shorter than 128."""
    if len(operands) != 1 or operands[0].kind is not Kind.CONST:
        raise Fault(prog.span, "ADJSP takes $bytes")
    value = operands[0].offset
    if value == 0:
        return None
    if value == 0x80 or (value < 0 and value != -0x80):
        return self.code(Insn("add", ("rsp", Imm(-value))), [])
    return self.code(Insn("sub", ("rsp", Imm(value))), [])


def _push(self: Translator, prog: Prog, operands: list[Operand], spec: Spec) -> Code:
    if len(operands) != 1:
        raise Fault(prog.span, f"{prog.op} takes one operand")
    if operands[0].kind is Kind.CONST and spec.widths[0] == 16:
        return self.ordinary(prog, operands, Spec("pushw", (16,)))
    return self.ordinary(prog, operands, spec)


def _in_out(self: Translator, prog: Prog, operands: list[Operand], spec: Spec) -> Code:
    """IN and OUT take a port number, or DX by naming nothing."""
    accumulator = INTEL_GPR[spec.widths[0]][0]
    if not operands:
        port: IntelOperand = "dx"
    elif len(operands) == 1 and operands[0].kind is Kind.CONST and 0 <= operands[0].offset < 256:
        port = Imm(operands[0].offset)
    else:
        raise Fault(prog.span, f"{prog.op} takes a port, $0 to $255, or nothing for DX")
    order = (accumulator, port) if spec.intel == "in" else (port, accumulator)
    return self.code(Insn(spec.intel, order), [])


def _compare_vector(self: Translator, prog: Prog, operands: list[Operand], spec: Spec) -> Code:
    """CMPPS x, y, imm: the predicate stands last in Go, too."""
    if len(operands) != 3:
        raise Fault(prog.span, f"{prog.op} takes source, destination, predicate")
    source, destination, predicate = operands
    if predicate.kind is Kind.MEM and predicate.reg is None and predicate.name is Name.NONE:
        predicate.kind = Kind.CONST  # Go takes 0 for $0 here
    return self.code(
        Insn(
            spec.intel,
            (
                self.operand(prog, destination, 0),
                self.operand(prog, source, spec.widths[0]),
                self.operand(prog, predicate, 0),
            ),
        ),
        operands,
    )


def _extract(self: Translator, prog: Prog, operands: list[Operand], spec: Spec) -> Code:
    """PEXTR, PINSR: a general register is named with 32 bits where the element is smaller."""
    widths = tuple(
        32 if w in {8, 16} and o.kind is Kind.REG and position > 0 else w
        for position, (w, o) in enumerate(zip(spec.widths, operands, strict=False))
    )
    if len(operands) != 3:
        raise Fault(prog.span, f"{prog.op} takes three operands")
    return self.ordinary(prog, operands, Spec(spec.intel, widths))


_SPECIAL = dict.fromkeys(("CMPPS", "CMPPD", "CMPSS", "CMPSD"), _compare_vector)
_SPECIAL_BY_INTEL = {
    "mov": _mov,
    "lea": _lea,
    "shl": _shift, "shr": _shift, "sar": _shift, "rol": _shift, "ror": _shift,
    "rcl": _shift, "rcr": _shift,
    "imul": _imul,
    "ret": _ret,
    "adjsp": _adjsp,
    "push": _push,
    "in": _in_out, "out": _in_out,
    "pinsrb": _extract, "pinsrw": _extract, "pinsrd": _extract, "pinsrq": _extract,
    "pextrb": _extract, "pextrw": _extract, "pextrd": _extract, "pextrq": _extract,
    "extractps": _extract,
}  # fmt: skip
