"""What was encoded is disassembled with Capstone and compared with what was asked."""

from __future__ import annotations

import re
from functools import cache
from typing import Any, NamedTuple

from asm.intel import PTR, Imm, Insn, IntelOperand, Mem, render
from asm.machine import REGISTER

# What Capstone calls by another name than we do: the same instruction.
_ALIASES = {
    "movabs": "mov", "leave16": "leave", "retf16": "retf", "pushf16": "pushf", "jecxz": "jecxz",
    "wait": "wait", "fwait": "wait", "sal": "shl", "iret": "iret", "sysretq": "sysretq",
    "xlatb": "xlatb", "int3": "int", "retfq": "retfq",
}  # fmt: skip
_COMMUTATIVE = frozenset({"xchg", "test"})
_PREDICATES = ("eq", "lt", "le", "unord", "neq", "nlt", "nle", "ord")
_MEMORY = re.compile(
    r"(?P<ptr>(?:\w+ ptr )?)(?:(?P<segment>[c-gs]s):)?"
    r"\[(?P<inner>[^\]]+)\](?:\{1to(?P<to>\d+)\})?\Z"
)
_PTR_WIDTH = {text: width for width, text in PTR.items()} | {"tbyte ptr ": 80, "": 0}


class MismatchError(Exception):
    """The encoder made another instruction than was asked for."""


@cache
def _capstone() -> Any:
    import capstone  # its import costs more than a small assembly

    return capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)


class Decoded(NamedTuple):
    """One instruction as Capstone reads it."""

    size: int
    mnemonic: str
    operands: str


def disassemble(data: bytes, address: int = 0) -> list[Decoded]:
    """Reads instructions until the end or the first that is none."""
    return [
        Decoded(size, mnemonic, operands)
        for _, size, mnemonic, operands in _capstone().disasm_lite(data, address)
    ]


def check(insn: Insn, data: bytes) -> None:
    """Asserts that `data` is exactly the instruction asked for.

    Raises:
        MismatchError: it is another, or none, or more than one.
    """
    found = disassemble(data)
    if len(found) != 1 or found[0].size != len(data):
        raise MismatchError(f"{render(insn)}: {data.hex()} is no single instruction")
    decoded = found[0]
    text = f"{decoded.mnemonic} {decoded.operands}".rstrip()
    if text == render(insn):
        return
    if not _same(insn, decoded):
        raise MismatchError(f"{render(insn)}: {data.hex()} is {text}")


def _same(insn: Insn, decoded: Decoded) -> bool:
    name = _ALIASES.get(decoded.mnemonic, decoded.mnemonic)
    wanted = _ALIASES.get(insn.mnemonic, insn.mnemonic)
    texts = _split(decoded.operands)
    operands = list(insn.operands)
    if decoded.mnemonic == "int3":
        texts = ["3"]
    if name != wanted:
        # CMPPS with its predicate as immediate is printed with the predicate in its name.
        match = re.fullmatch(r"(v?cmp)(\w+?)(ps|pd|ss|sd)", name)
        if match and match[2] in _PREDICATES and wanted == match[1] + match[3]:
            texts.append(str(_PREDICATES.index(match[2])))
        elif not operands and name.startswith(wanted):
            # String instructions show their implied operands: `movsb byte ptr [rdi], …`.
            return name.split()[0] == wanted
        else:
            return False
    if not operands and wanted == insn.mnemonic and name == wanted:
        return True
    if len(texts) != len(operands):
        # Implied operands that Capstone leaves out or adds: a shift by one, XMM0 of a blend.
        if wanted in {"shl", "shr", "sar", "rol", "ror", "rcl", "rcr"} and len(texts) == 1:
            texts.append("1")
        elif len(operands) == len(texts) + 1 and operands[-1] == "xmm0":
            operands.pop()
        else:
            return False
    width = next((_operand_width(o) for o in operands if not isinstance(o, Imm)), 64) or 64
    pairs = list(zip(operands, texts, strict=True))
    if all(_same_operand(o, t, width) for o, t in pairs):
        return True
    return wanted in _COMMUTATIVE and all(
        _same_operand(o, t, width) for o, t in zip(operands, reversed(texts), strict=True)
    )


def _operand_width(operand: IntelOperand) -> int:
    if isinstance(operand, str):
        return REGISTER[operand].width
    return operand.width if isinstance(operand, Mem) else 0


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(", ")] if text else []


def _same_operand(operand: IntelOperand, text: str, width: int) -> bool:
    if isinstance(operand, str):
        return operand == text
    if isinstance(operand, Imm):
        try:
            value = int(text, 0)
        except ValueError:
            return False
        bits = min(width, 64)
        mask = (1 << bits) - 1
        # An 8-bit immediate of a vector instruction or a shift is printed unsigned.
        return (value ^ operand.value) & mask == 0 or (
            (value ^ operand.value) & 0xFF == 0
            and -128 <= operand.value <= 255
            and abs(value) <= 255
        )
    match = _MEMORY.fullmatch(text)
    if match is None:
        return False
    if operand.width and _PTR_WIDTH.get(match["ptr"], -1) not in {operand.width, 0}:
        return False
    if (match["segment"] or "") != operand.segment:
        return False
    if int(match["to"] or 0) != operand.broadcast:
        return False
    return _same_address(operand, match["inner"])


def _same_address(mem: Mem, inner: str) -> bool:
    base = index = ""
    scale, disp = 1, 0
    for sign, term in re.findall(r"([+-]?)\s*([^\s+-]+)", inner):
        register, star, factor = term.partition("*")
        if star:
            index, scale = register, int(factor)
        elif term[0].isdigit():
            disp += -int(term, 0) if sign == "-" else int(term, 0)
        elif not base:
            base = term
        else:
            index, scale = term, 1
    wanted_base = "rip" if mem.rip else mem.base
    if index in {"riz", "eiz"}:
        index = ""
    same = (base, index, scale if index else 1) == (
        wanted_base,
        mem.index,
        mem.scale if mem.index else 1,
    )
    if not same and not wanted_base and scale == 1:
        # [index*1 + disp32] is printed like a base.
        same = base == mem.index and not index
    return same and (disp ^ mem.disp) & 0xFFFFFFFFFFFFFFFF == 0
