"""What was encoded is disassembled with Capstone and compared with what was asked."""

from __future__ import annotations

import re
from typing import NamedTuple

from asm.capstone_raw import reader
from asm.intel import PTR, Imm, Insn, IntelOperand, Mem, render
from asm.machine import REGISTER

# What Capstone calls by another name than we do: the same instruction.
_ALIASES = {
    "movabs": "mov", "leave16": "leave", "retf16": "retf", "pushf16": "pushf", "jecxz": "jecxz",
    "wait": "wait", "fwait": "wait", "sal": "shl", "iret": "iret", "sysretq": "sysretq",
    "xlatb": "xlatb", "int3": "int", "retfq": "retfq",
    "pushw": "push", "sysenter64": "sysenter", "sysexit64": "sysexitq",
}  # fmt: skip
# Whose memory operand Capstone prints with another width than the manual.
_MISPRINTED = frozenset({"comisd", "lar", "lsl", "invpcid", "sldt", "str", "smsw"})
_COMMUTATIVE = frozenset({"xchg", "test"})
_SHIFTS = frozenset({"shl", "shr", "sar", "rol", "ror", "rcl", "rcr"})
PREDICATES = (
    "eq", "lt", "le", "unord", "neq", "nlt", "nle", "ord", "eq_uq", "nge", "ngt", "false",
    "neq_oq", "ge", "gt", "true", "eq_os", "lt_oq", "le_oq", "unord_s", "neq_us", "nlt_uq",
    "nle_uq", "ord_s", "eq_us", "nge_uq", "ngt_uq", "false_os", "neq_os", "ge_oq", "gt_oq",
    "true_us",
)  # fmt: skip
_INTEGER_PREDICATES = ("eq", "lt", "le", "false", "neq", "nlt", "nle", "true")
_MEMORY = re.compile(
    r"(?P<ptr>(?:(?:\w+ )?ptr )?)(?:(?P<segment>[c-gs]s):)?"
    r"\[(?P<inner>[^\]]+)\](?:\{1to(?P<to>\d+)\})?\Z"
)
_PTR_WIDTH = {text: width for width, text in PTR.items()} | {"tbyte ptr ": 80, "ptr ": 0}


class MismatchError(Exception):
    """The encoder made another instruction than was asked for."""


class Decoded(NamedTuple):
    """One instruction as Capstone reads it."""

    size: int
    mnemonic: str
    operands: str


def disassemble(data: bytes, address: int = 0) -> list[Decoded]:
    """Reads instructions until the end or the first that is none."""
    return [
        Decoded(size, mnemonic, operands) for _, size, mnemonic, operands in reader()(data, address)
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
    if not _same(insn, decoded, data):
        raise MismatchError(f"{render(insn)}: {data.hex()} is {text}")


def _same(insn: Insn, decoded: Decoded, data: bytes) -> bool:
    name = _ALIASES.get(decoded.mnemonic, decoded.mnemonic)
    wanted = _ALIASES.get(insn.mnemonic, insn.mnemonic)
    operands = list(insn.operands)
    texts, decoration = _undecorated(_split(decoded.operands))
    if decoration != (insn.mask, insn.zeroing, insn.rounding):
        return False
    if decoded.mnemonic == "int3":
        texts = ["3"]
    if name != wanted:
        last = operands[-1] if operands else None
        if isinstance(last, Imm) and _predicate(name, wanted) == last.value & 31:
            # A comparison is printed with its predicate in the name: the byte itself decides.
            if data[-1] != last.value & 0xFF:
                return False
            operands.pop()
        elif name == "nop" and wanted == "xchg" and operands in (["rax", "rax"], ["ax", "ax"]):
            return True  # but XCHG EAX, EAX would clear the upper half, which NOP does not
        else:
            # String instructions show their implied operands: `movsb byte ptr [rdi], ...`.
            return not operands and name.split()[0] == wanted
    elif not operands:
        return True
    if len(texts) != len(operands):
        # Implied operands that Capstone leaves out: a shift by one, XMM0 of a blend.
        if wanted in _SHIFTS and len(texts) == 1:
            texts.append("1")
        elif len(operands) == len(texts) + 1 and operands[-1] == "xmm0":
            operands.pop()
        else:
            return False
    if wanted in _MISPRINTED:
        operands = [o._replace(width=0) if isinstance(o, Mem) else o for o in operands]
    width = next((_operand_width(o) for o in operands if not isinstance(o, Imm)), 64) or 64
    if all(_same_operand(o, t, width) for o, t in zip(operands, texts, strict=True)):
        return True
    return wanted in _COMMUTATIVE and all(
        _same_operand(o, t, width) for o, t in zip(operands, reversed(texts), strict=True)
    )


def _undecorated(texts: list[str]) -> tuple[list[str], tuple[str, bool, str]]:
    """Takes `{k1} {z}` off the destination and `{rn-sae}` off the end."""
    mask, zeroing, rounding = "", False, ""
    out: list[str] = []
    for text in texts:
        plain = text
        for word in re.findall(r"\{(k\d|z|r[nduz]-sae|sae)\}", text):
            plain = plain.replace(f"{{{word}}}", "").strip()
            if word[0] == "k":
                mask = word
            elif word == "z":
                zeroing = True
            else:
                rounding = word
        if plain:
            out.append(plain)
    return out, (mask, zeroing, rounding)


def _predicate(name: str, wanted: str) -> int:
    """The predicate in `cmpltps` where `cmpps` was asked for, or -1."""
    vector = re.fullmatch(r"(v?cmp)(ps|pd|ss|sd)", wanted)
    if vector:
        word = name.removeprefix(vector[1]).removesuffix(vector[2])
        return PREDICATES.index(word) if word in PREDICATES else -1
    integer = re.fullmatch(r"vpcmp(u?[bwdq])", wanted)
    if integer:
        word = name.removeprefix("vpcmp").removesuffix(integer[1])
        return _INTEGER_PREDICATES.index(word) if word in _INTEGER_PREDICATES else -1
    return -1


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
