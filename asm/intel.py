"""Machine instructions in Intel's notation: what is to be encoded, and how Capstone writes it."""

from __future__ import annotations

from typing import NamedTuple

PTR = {
    8: "byte ptr ",
    16: "word ptr ",
    32: "dword ptr ",
    48: "fword ptr ",
    64: "qword ptr ",
    80: "xword ptr ",
    128: "xmmword ptr ",
    256: "ymmword ptr ",
    512: "zmmword ptr ",
    0: "",
}


class Mem(NamedTuple):
    """A memory operand; `width` in bits, 0 where the instruction has none (lea).

    `rip` marks an address that is relative to the next instruction: its displacement is a
    32-bit field that the layout fills in.
    """

    width: int
    base: str = ""
    index: str = ""  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    scale: int = 1
    disp: int = 0
    segment: str = ""
    rip: bool = False
    broadcast: int = 0  # EVEX: elements that one memory element stands for


class Imm(NamedTuple):
    """An immediate operand."""

    value: int


IntelOperand = str | Imm | Mem


class Insn(NamedTuple):
    """One instruction: registers are Intel's names, destination first."""

    mnemonic: str
    operands: tuple[IntelOperand, ...] = ()
    mask: str = ""  # EVEX opmask register
    zeroing: bool = False
    rounding: str = ""  # EVEX: "rn-sae", "rd-sae", "ru-sae", "rz-sae", "sae"
    variant: bool = False  # of two encodings the less usual one: special.py says where


def number(value: int) -> str:
    """A number as Capstone writes it: decimal up to 9, hexadecimal from there."""
    if value < 0:
        return f"-{number(-value)}"
    return str(value) if value < 10 else hex(value)


def render_mem(mem: Mem) -> str:
    """A memory operand in Capstone's spelling."""
    parts = []
    if mem.rip:
        parts.append("rip")
    elif mem.base:
        parts.append(mem.base)
    if mem.index:
        parts.append(mem.index if mem.scale == 1 else f"{mem.index}*{mem.scale}")
    text = " + ".join(parts)
    if not parts:
        text = number(mem.disp & 0xFFFFFFFFFFFFFFFF if mem.disp < 0 else mem.disp)
    elif mem.disp:
        text += f" {'-' if mem.disp < 0 else '+'} {number(abs(mem.disp))}"
    segment = f"{mem.segment}:" if mem.segment else ""
    broadcast = f"{{1to{mem.broadcast}}}" if mem.broadcast else ""
    return f"{PTR[mem.width]}{segment}[{text}]{broadcast}"


def render_operand(operand: IntelOperand) -> str:
    """One operand in Capstone's spelling."""
    if isinstance(operand, str):
        return operand
    if isinstance(operand, Imm):
        return number(operand.value)
    return render_mem(operand)


def render(insn: Insn) -> str:
    """The instruction as text, which Keystone reads too."""
    operands = [render_operand(o) for o in insn.operands]
    if operands:
        if insn.mask:
            operands[0] += f" {{{insn.mask}}}"
        if insn.zeroing:
            operands[0] += " {z}"
        if insn.rounding:
            operands.append(f"{{{insn.rounding}}}")
    return f"{insn.mnemonic} {', '.join(operands)}".rstrip()
