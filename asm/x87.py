"""The x87 instructions of Go's assembler (Intel's manual, volume 2, escape opcodes D8 to DF).

Go names the width in the mnemonic (F float32, D float64, X 80 bits, W L V integers of 16, 32, 64
bits, B packed decimal) and writes source and destination; one of the two is always F0.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from asm.intel import Insn, IntelOperand, Mem
from asm.machine import REGISTER, SEGMENT_PREFIX, Encoded, legacy, register_operand
from asm.machine import address as place
from asm.operand import Kind, Operand, Prog
from asm.registers import RegClass
from asm.source import Fault

if TYPE_CHECKING:
    from collections.abc import Collection

# By opcode byte: Intel's name of each extension with a memory operand, and the operand's bits.
_ARITHMETIC = "fadd fmul fcom fcomp fsub fsubr fdiv fdivr"
_INTEGER = "fiadd fimul ficom ficomp fisub fisubr fidiv fidivr"
_MEMORY = {
    0xD8: [(n, 32) for n in _ARITHMETIC.split()],
    0xDC: [(n, 64) for n in _ARITHMETIC.split()],
    0xDA: [(n, 32) for n in _INTEGER.split()],
    0xDE: [(n, 16) for n in _INTEGER.split()],
    0xD9: [("fld", 32), ("", 0), ("fst", 32), ("fstp", 32)],
    0xDB: [("fild", 32), ("", 0), ("fist", 32), ("fistp", 32), ("", 0), ("fld", 80), ("", 0),
           ("fstp", 80)],
    0xDD: [("fld", 64), ("", 0), ("fst", 64), ("fstp", 64), ("frstor", 0), ("", 0),
           ("fnsave", 0), ("fnstsw", 16)],
    0xDF: [("fild", 16), ("", 0), ("fist", 16), ("fistp", 16), ("fbld", 80), ("fild", 64),
           ("fbstp", 80), ("fistp", 64)],
}  # fmt: skip
_REGISTER = {
    0xD8: _ARITHMETIC.split(),
    0xDC: ["fadd", "fmul", "fcom", "fcomp", "fsubr", "fsub", "fdivr", "fdiv"],
    0xD9: ["fld", "fxch"],
    0xDA: ["fcmovb", "fcmove", "fcmovbe", "fcmovu", "", "fucompp"],
    0xDB: ["fcmovnb", "fcmovne", "fcmovnbe", "fcmovnu", "", "fucomi", "fcomi"],
    0xDD: ["ffree", "", "fst", "fstp", "fucom", "fucomp"],
    0xDE: ["faddp", "fmulp", "", "fcompp", "fsubrp", "fsubp", "fdivrp", "fdivp"],
    0xDF: ["", "", "", "", "", "fucompi", "fcompi"],
}

# Go's names: for each way to place the operands (m memory, r another register, 0 F0; source
# first) the opcode and the extension.
_ROWS = """
FMOVD m0=dd/0 0m=dd/2 r0=d9/0 0r=dd/2; FMOVDP 0m=dd/3 0r=dd/3; FMOVF m0=d9/0 0m=d9/2
FMOVL m0=db/0 0m=db/2; FMOVW m0=df/0 0m=df/2; FMOVBP 0m=df/6; FMOVFP 0m=d9/3; FMOVLP 0m=db/3
FMOVVP 0m=df/7; FMOVWP 0m=df/3; FMOVXP 0m=db/7; FMOVB m0=df/4; FMOVV m0=df/5; FMOVX m0=db/5
FCOMF m0=d8/2; FCOMFP m0=d8/3; FCOML m0=da/2; FCOMLP m0=da/3; FCOMW m0=de/2; FCOMWP m0=de/3
FADDW m0=de/0; FADDL m0=da/0; FADDF m0=d8/0; FMULW m0=de/1; FMULL m0=da/1; FMULF m0=d8/1
FSUBW m0=de/4; FSUBL m0=da/4; FSUBF m0=d8/4; FSUBRW m0=de/5; FSUBRL m0=da/5; FSUBRF m0=d8/5
FDIVW m0=de/6; FDIVL m0=da/6; FDIVF m0=d8/6; FDIVRW m0=de/7; FDIVRL m0=da/7; FDIVRF m0=d8/7
FCOMD m0=dc/2 r0=d8/2 0r=dc/2; FCOMDP m0=dc/3 r0=d8/3 0r=dc/3
FADDD m0=dc/0 r0=d8/0 0r=dc/0; FMULD m0=dc/1 r0=d8/1 0r=dc/1
FSUBD m0=dc/4 r0=d8/4 0r=dc/5; FSUBRD m0=dc/5 r0=d8/5 0r=dc/4
FDIVD m0=dc/6 r0=d8/6 0r=dc/7; FDIVRD m0=dc/7 r0=d8/7 0r=dc/6
FCOMDPP 0r=de/3; FUCOM 0r=dd/4; FUCOMI 0r=db/5; FUCOMIP 0r=df/5; FUCOMP 0r=dd/5; FUCOMPP 0r=da/5
FADDDP 0r=de/0; FMULDP 0r=de/1; FSUBDP 0r=de/5; FSUBRDP 0r=de/4; FDIVDP 0r=de/7; FDIVRDP 0r=de/6
FXCHD 0r=d9/1 r0=d9/1; FCOMI r0=db/6; FCOMIP r0=df/6
FCMOVCC r0=db/0; FCMOVCS r0=da/0; FCMOVEQ r0=da/1; FCMOVHI r0=db/2; FCMOVLS r0=da/2
FCMOVB r0=da/0; FCMOVBE r0=da/2; FCMOVNB r0=db/0; FCMOVNBE r0=db/2; FCMOVE r0=da/1
FCMOVNE r0=db/1; FCMOVNU r0=db/3; FCMOVU r0=da/3; FCMOVUN r0=da/3
FBLD m=df/4; FBSTP m=df/6; FRSTOR m=dd/4; FSAVE m=dd/6
"""


class _Encoding(NamedTuple):
    opcode: int
    extension: int


@cache
def _table() -> dict[str, dict[str, _Encoding]]:
    table: dict[str, dict[str, _Encoding]] = {}
    for row in _ROWS.replace("\n", ";").split(";"):
        words = row.split()
        for word in words[1:]:
            pattern, _, code = word.partition("=")
            opcode, _, extension = code.partition("/")
            table.setdefault(words[0], {})[pattern] = _Encoding(int(opcode, 16), int(extension))
    return table


def names() -> Collection[str]:
    """Every mnemonic that is encoded here."""
    return _table().keys()


def _letter(operand: Operand) -> str:
    if operand.kind is Kind.MEM:
        return "m"
    register = operand.reg
    if operand.kind is Kind.REG and register is not None and register.kind is RegClass.X87:
        return "0" if register.number == 0 else "r"
    return "?"


def encode(prog: Prog, memory: IntelOperand | None) -> tuple[Insn, Encoded]:
    """Encodes one statement; `memory` is its memory operand in Intel's terms, if it has one.

    Raises:
        Fault: the instruction does not take these operands.
    """
    patterns = _table()[prog.op]
    letters = "".join(map(_letter, prog.operands))
    # F0 is also a register among the others.
    found = next(
        (p for p in (letters, *(("r0", "0r") if letters == "00" else ())) if p in patterns), None
    )
    if found is None or prog.suffixes:
        raise Fault(prog.span, f"{prog.op} does not take these operands")
    opcode, extension = patterns[found]
    if "m" in found:
        assert isinstance(memory, Mem)
        name, width = _MEMORY[opcode][extension]
        mem = memory._replace(width=width)
        prefix = bytes((SEGMENT_PREFIX[mem.segment],)) if mem.segment else b""
        encoded = legacy(bytes((opcode,)), extension, place(mem), prefix=prefix)
        return Insn(name, (mem,)), encoded
    operand = prog.operands[found.index("r")]
    assert operand.reg is not None
    register = f"st({operand.reg.number})"
    encoded = legacy(bytes((opcode,)), extension, register_operand(REGISTER[register].number))
    name = _REGISTER[opcode][extension]
    operands: tuple[str, ...] = (register,)
    if opcode == 0xDC:
        operands = (register, "st(0)")
    elif name.startswith("fcmov"):
        operands = ("st(0)", register)
    return Insn(name, operands), encoded
