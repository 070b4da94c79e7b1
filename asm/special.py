"""Instructions whose translation is more than names, widths and order."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from asm.intel import Imm, Insn, IntelOperand
from asm.item import Code
from asm.mnemonics import Spec
from asm.operand import Kind, Name, Operand, Prog, is_register
from asm.registers import INTEL_GPR, RegClass
from asm.source import Fault

if TYPE_CHECKING:
    from asm.convert import Converter


def _mov(to: Converter, prog: Prog, operands: list[Operand], spec: Spec) -> Code:
    if len(operands) != 2:
        raise Fault(prog.span, f"{prog.op} takes two operands")
    source, destination = operands
    width = spec.widths[0]
    vector = (RegClass.XMM, RegClass.MMX)
    if source.kind is Kind.ADDR:
        # The address of something: LEA.
        if width < 32:
            raise Fault(source.span, f"{prog.op} takes no address")
        return _lea(
            to, prog, [replace(source, kind=Kind.MEM), destination], Spec("lea", (0, width))
        )
    if any(is_register(o, *vector) for o in operands):
        if width < 32 or any(o.kind is Kind.CONST for o in operands):
            raise Fault(prog.span, f"{prog.op} does not take these operands")
        name = "movq" if width == 64 else "movd"
        if is_register(source, RegClass.MMX) and is_register(destination, RegClass.XMM):
            raise Fault(prog.span, f"{prog.op} does not take these operands", "MOVQOZX does")
        if is_register(source, RegClass.XMM) and is_register(destination, RegClass.MMX):
            name = "movdq2q"
        return to.ordinary(prog, operands, Spec(name, (width,)))
    if is_register(source, RegClass.TLS):
        raise Fault(source.span, "MOVQ TLS goes to a register")
    if source.kind is Kind.CONST and width == 64 and is_register(destination, RegClass.GPR):
        return to.code(_mov_immediate(to, prog, source, destination), operands)
    if prog.op == "MOVLQZX" and all(o.kind is Kind.REG for o in operands):
        code = to.ordinary(prog, operands, spec)
        return code._replace(insn=code.insn._replace(variant=True))
    return to.ordinary(prog, operands, spec)


def _mov_immediate(to: Converter, prog: Prog, source: Operand, destination: Operand) -> Insn:
    """MOVQ $i, R: from 1.27 MOVL where that does it, before only from 2^31 on."""
    value = source.offset
    low = 0 if to.go >= (1, 27) else 1 << 31
    width = 32 if low <= value < 1 << 32 else 64
    return Insn("mov", (to.operand(prog, destination, width), Imm(value)))


def _lea(to: Converter, prog: Prog, operands: list[Operand], spec: Spec) -> Code:
    if len(operands) == 2 and operands[0].kind is not Kind.MEM:
        raise Fault(operands[0].span, f"{prog.op} takes an address in memory first")
    return to.ordinary(prog, operands, spec)


def _shift(to: Converter, prog: Prog, operands: list[Operand], spec: Spec) -> Code:
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
    rest = [to.operand(prog, o, width) for o in reversed(operands[1:])]
    name = spec.intel
    if len(operands) == 3:
        if prog.op[:3] not in {"SHL", "SHR"} or width == 8:
            raise Fault(prog.span, f"{prog.op} takes two operands")
        name += "d"
    return to.code(Insn(name, (*rest, amount)), operands)


def _imul(to: Converter, prog: Prog, operands: list[Operand], spec: Spec) -> Code:
    three = prog.op.startswith("IMUL3")
    if three != (len(operands) == 3) or not operands or len(operands) > 3:
        raise Fault(prog.span, f"{prog.op} takes {'three' if three else 'one or two'} operands")
    code = to.ordinary(prog, operands, spec)
    converted = code.insn.operands
    if len(converted) == 2:
        if prog.op == "IMULB":
            raise Fault(prog.span, "IMULB takes one operand")
        if isinstance(converted[1], Imm):
            # IMULQ $i, R multiplies R by i: the three-operand form.
            return Code(Insn("imul", (converted[0], converted[0], converted[1])), code.reference)
    return code


def _extend_word(to: Converter, prog: Prog, operands: list[Operand], spec: Spec) -> Code:
    """MOVSX and MOVZX of a word to a word, which only Go has: with REX, as if of a byte."""
    code = to.ordinary(prog, operands, spec)
    return code._replace(insn=code.insn._replace(variant=True))


def _alu(to: Converter, prog: Prog, operands: list[Operand], spec: Spec) -> Code:
    """ADDB $1, AX is not ADDB $1, AL to Go until it assembles the function again (bytereg)."""
    code = to.ordinary(prog, operands, spec)
    if spec.widths != (8,) or not any(is_register(o, RegClass.GPR) for o in operands):
        return code
    return code._replace(insn=code.insn._replace(variant=True), again=code.insn)


def _ret(to: Converter, prog: Prog, operands: list[Operand], spec: Spec) -> Code:
    """RET; a tail call is a jump by now (frame.py)."""
    if operands:
        register = ", a register" if to.go >= (1, 27) else ""
        raise Fault(operands[0].span, f"{prog.op} takes nothing{register} or symbol(SB)")
    return to.ordinary(prog, operands, spec)


def _adjsp(to: Converter, prog: Prog, operands: list[Operand], _: Spec) -> Code | None:
    """ADDQ or SUBQ, whichever has a positive immediate; -128 is shorter than 128."""
    if len(operands) != 1 or operands[0].kind is not Kind.CONST:
        raise Fault(prog.span, "ADJSP takes $bytes")
    value = operands[0].offset
    if value == 0:
        return None
    if value == 0x80 or (value < 0 and value != -0x80):
        return to.code(Insn("add", ("rsp", Imm(-value))), [])
    return to.code(Insn("sub", ("rsp", Imm(value))), [])


def _push(to: Converter, prog: Prog, operands: list[Operand], spec: Spec) -> Code:
    if len(operands) != 1:
        raise Fault(prog.span, f"{prog.op} takes one operand")
    if operands[0].kind is Kind.CONST and spec.widths[0] == 16:
        return to.ordinary(prog, operands, Spec("pushw", (16,)))
    return to.ordinary(prog, operands, spec)


def _in_out(to: Converter, prog: Prog, operands: list[Operand], spec: Spec) -> Code:
    """IN and OUT take a port number, or DX by naming nothing."""
    accumulator = INTEL_GPR[spec.widths[0]][0]
    if not operands:
        port: IntelOperand = "dx"
    elif len(operands) == 1 and operands[0].kind is Kind.CONST and 0 <= operands[0].offset < 256:
        port = Imm(operands[0].offset)
    else:
        raise Fault(prog.span, f"{prog.op} takes a port, $0 to $255, or nothing for DX")
    order = (accumulator, port) if spec.intel == "in" else (port, accumulator)
    return to.code(Insn(spec.intel, order), [])


def _compare_vector(to: Converter, prog: Prog, operands: list[Operand], spec: Spec) -> Code:
    """CMPPS x, y, imm: the predicate stands last in Go, too."""
    if len(operands) != 3:
        raise Fault(prog.span, f"{prog.op} takes source, destination, predicate")
    source, destination, predicate = operands
    if predicate.kind is Kind.MEM and predicate.reg is None and predicate.name is Name.NONE:
        predicate.kind = Kind.CONST  # Go takes 0 for $0 here
    return to.code(
        Insn(
            spec.intel,
            (
                to.operand(prog, destination, 0),
                to.operand(prog, source, spec.widths[0]),
                to.operand(prog, predicate, 0),
            ),
        ),
        operands,
    )


def _extract(to: Converter, prog: Prog, operands: list[Operand], spec: Spec) -> Code:
    """PEXTR, PINSR: a general register is named with 32 bits where the element is smaller."""
    if len(operands) != 3:
        raise Fault(prog.span, f"{prog.op} takes three operands")
    widths = tuple(
        32 if w in {8, 16} and o.kind is Kind.REG and position > 0 else w
        for position, (w, o) in enumerate(zip(spec.widths, operands, strict=True))
    )
    return to.ordinary(prog, operands, Spec(spec.intel, widths))


def _select(to: Converter, prog: Prog, operands: list[Operand], spec: Spec) -> Code:
    """Of the selecting byte two bits count, and Go takes no others."""
    if operands and operands[0].offset not in range(4):
        raise Fault(operands[0].span, f"{prog.op} selects $0 to $3")
    return to.ordinary(prog, operands, spec)


def _movqozx(to: Converter, prog: Prog, operands: list[Operand], spec: Spec) -> Code:
    """MOVQ2DQ of an MMX register; of an XMM register or memory MOVQ, which clears the rest too."""
    if len(operands) != 2 or not is_register(operands[1], RegClass.XMM):
        raise Fault(prog.span, f"{prog.op} does not take these operands")
    if is_register(operands[0], RegClass.XMM) or operands[0].kind is Kind.MEM:
        return to.ordinary(prog, operands, Spec("movq", (64,)))
    return to.ordinary(prog, operands, spec)


BY_NAME = dict.fromkeys(("CMPPS", "CMPPD", "CMPSS", "CMPSD"), _compare_vector) | {
    "MOVSWW": _extend_word, "MOVZWW": _extend_word, "MOVQOZX": _movqozx,
    "EXTRACTPS": _select, "SHA1RNDS4": _select,
}  # fmt: skip
BY_INTEL = {
    "mov": _mov,
    "lea": _lea,
    "add": _alu, "or": _alu, "adc": _alu, "sbb": _alu, "and": _alu, "sub": _alu, "xor": _alu,
    "cmp": _alu, "test": _alu,
    "shl": _shift, "shr": _shift, "sar": _shift, "rol": _shift, "ror": _shift,
    "rcl": _shift, "rcr": _shift,
    "imul": _imul,
    "ret": _ret,
    "adjsp": _adjsp,
    "push": _push,
    "in": _in_out, "out": _in_out,
    "pinsrb": _extract, "pinsrw": _extract, "pinsrd": _extract, "pinsrq": _extract,
    "pextrb": _extract, "pextrw": _extract, "pextrd": _extract, "pextrq": _extract,
}  # fmt: skip
