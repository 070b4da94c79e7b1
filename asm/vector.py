"""Encoder of MMX and SSE instructions from the table in sse.py."""

from __future__ import annotations

from asm import sse
from asm.intel import Imm, Insn, IntelOperand, Mem
from asm.machine import (
    REGISTER,
    SEGMENT_PREFIX,
    CannotEncodeError,
    Encoded,
    legacy,
    rm_operand,
    width_of,
)

# These may have a general register and memory only.
# What a register in place of memory would make another instruction, or none.
_FROM_MEMORY = frozenset({"lddqu", "movntdqa", "movlpd", "movhpd", "movlps", "movhps"})
BESIDE = frozenset(sse.EXTRACT) | frozenset(sse.CONVERT)


def _emit_vector(
    opcode: sse.Opcode, reg: int, rm: IntelOperand, *, w: int = 0, mmx: bool = False, imm: int = -1
) -> Encoded:
    prefix = b""
    if isinstance(rm, Mem) and rm.segment:
        prefix = bytes((SEGMENT_PREFIX[rm.segment],))
    if opcode.prefix and not mmx:
        prefix += bytes((opcode.prefix,))
    return legacy(
        opcode.escape + bytes((opcode.opcode,)),
        reg,
        rm_operand(rm),
        prefix=prefix,
        w=w,
        immediate=b"" if imm < 0 else bytes((imm,)),
    )


def encode(insn: Insn) -> Encoded | None:
    """Encodes the instruction, or returns None if it is not one of these.

    Raises:
        CannotEncodeError: these operands do not go together.
    """
    name, operands = insn.mnemonic, insn.operands
    immediate = -1
    if isinstance(operands[-1], Imm):
        value = operands[-1].value
        # Go takes counts and predicates as signed bytes, selectors as unsigned ones.
        signed = name in sse.SHIFT_IMM or name.startswith("cmp")
        if value not in (range(-128, 128) if signed else range(256)):
            raise CannotEncodeError(f"{value} is out of range")
        immediate = value & 0xFF
        operands = operands[:-1]
    if len(operands) == 1:
        if name in sse.SHIFT_IMM and immediate >= 0 and isinstance(operands[0], str):
            register = REGISTER[operands[0]]
            if register.kind == "m" and name in {"pslldq", "psrldq"}:
                return None
            return _emit_vector(
                sse.SHIFT_IMM[name],
                sse.SHIFT_EXTENSION[name],
                operands[0],
                mmx=register.kind == "m",
                imm=immediate,
            )
        return None
    if len(operands) == 3 and operands[2] == "xmm0" and immediate < 0:
        return _implicit_xmm0(name, operands[0], operands[1])
    if len(operands) != 2:
        return None
    first, second = operands
    one = REGISTER[first] if isinstance(first, str) else None
    two = REGISTER[second] if isinstance(second, str) else None
    if (one and one.number > 15) or (two and two.number > 15):
        raise CannotEncodeError("registers above 15 need EVEX")
    if name in {"movq", "movd", "movq2dq", "movdq2q"}:
        return None if immediate >= 0 else _movq(name, first, second)
    if name in sse.CONVERT and immediate < 0 and one and (two or name.startswith("cvt")):
        to, of = ("x", "g") if name.startswith("cvtsi") else ("g", "x")
        if one.kind != to or (two and two.kind not in {of, "m" if name == "pmovmskb" else of}):
            raise CannotEncodeError("no encoding for these operands")
        wide = (one.kind == "g" and one.width == 64) or (
            width_of(second) == 64 and one.kind == "x" and name.startswith("cvtsi")
        )
        mmx = two is not None and two.kind == "m"
        if name == "pmovmskb":
            wide = False
        return _emit_vector(sse.CONVERT[name], one.number, second, w=int(wide), mmx=mmx)
    if name in sse.INSERT and immediate >= 0 and one and one.kind == "x":
        if two and two.kind != "g":
            raise CannotEncodeError("no encoding for these operands")
        return _emit_vector(
            sse.INSERT[name], one.number, second, w=int(name == "pinsrq"), imm=immediate
        )
    if name in sse.EXTRACT and immediate >= 0 and two and two.kind == "x":
        if one and one.kind != "g":
            raise CannotEncodeError("no encoding for these operands")
        if name == "pextrw" and one:
            # The register form has an opcode of its own from before SSE4.
            return _emit_vector(sse.Opcode(0x66, b"\x0f", 0xC5), one.number, second, imm=immediate)
        return _emit_vector(
            sse.EXTRACT[name], two.number, first, w=int(name == "pextrq"), imm=immediate
        )
    if name in _FROM_MEMORY and one and two:
        raise CannotEncodeError("no encoding for these operands")
    table = sse.LOAD if immediate < 0 else sse.LOAD_IMM
    if name in table and one and (two is None or two.kind == one.kind):
        if one.kind == "x":
            return _emit_vector(table[name], one.number, second, imm=immediate)
        if one.kind == "m" and name in sse.MMX and immediate < 0:
            return _emit_vector(table[name], one.number, second, mmx=True)
    if name == "pshufw" and one and one.kind == "m" and immediate >= 0:
        return _emit_vector(sse.Opcode(0, b"\x0f", 0x70), one.number, second, imm=immediate)
    if name == "maskmovq" and one and two and one.kind == two.kind == "m":
        return _emit_vector(sse.Opcode(0, b"\x0f", 0xF7), one.number, second)
    if name == "movntq" and two and two.kind == "m" and isinstance(first, Mem):
        return _emit_vector(sse.Opcode(0, b"\x0f", 0xE7), two.number, first)
    if name in sse.REGISTERS_ONLY and one and two and one.kind == two.kind == "x":
        return _emit_vector(sse.REGISTERS_ONLY[name], one.number, second)
    if name in sse.STORE and two and two.kind == "x" and immediate < 0 and isinstance(first, Mem):
        return _emit_vector(sse.STORE[name], two.number, first)
    return None


def _implicit_xmm0(name: str, first: IntelOperand, second: IntelOperand) -> Encoded | None:
    opcode = {
        "blendvps": sse.Opcode(0x66, b"\x0f\x38", 0x14),
        "blendvpd": sse.Opcode(0x66, b"\x0f\x38", 0x15),
        "pblendvb": sse.Opcode(0x66, b"\x0f\x38", 0x10),
        "sha256rnds2": sse.Opcode(0, b"\x0f\x38", 0xCB),
    }.get(name)
    operands = (first, second)
    if opcode is None or not isinstance(first, str):
        return None
    if any(REGISTER[o].kind != "x" for o in operands if isinstance(o, str)):
        raise CannotEncodeError("no encoding for these operands")
    return _emit_vector(opcode, REGISTER[first].number, second)


def _movq(name: str, first: IntelOperand, second: IntelOperand) -> Encoded | None:
    """MOVD and MOVQ among vector registers, general registers and memory, as Go chooses."""
    one = REGISTER[first] if isinstance(first, str) else None
    two = REGISTER[second] if isinstance(second, str) else None
    kinds = (one.kind if one else "", two.kind if two else "")
    wide = int(name == "movq")
    escape = b"\x0f"
    if name == "movq2dq" and one and kinds == ("x", "m"):
        return _emit_vector(sse.Opcode(0xF3, escape, 0xD6), one.number, second)
    if name == "movdq2q" and one and kinds == ("m", "x"):
        return _emit_vector(sse.Opcode(0xF2, escape, 0xD6), one.number, second)
    if wide and one and kinds in {("x", "x"), ("x", "")}:
        return _emit_vector(sse.Opcode(0xF3, escape, 0x7E), one.number, second)
    if wide and two and kinds == ("", "x"):
        return _emit_vector(sse.Opcode(0x66, escape, 0xD6), two.number, first)
    if wide and one and kinds == ("m", ""):
        return _emit_vector(sse.Opcode(0, escape, 0x6F), one.number, second)
    if wide and two and kinds == ("", "m"):
        return _emit_vector(sse.Opcode(0, escape, 0x7F), two.number, first)
    if name in {"movq2dq", "movdq2q"}:
        raise CannotEncodeError("no encoding for these operands")
    if one and one.kind in "xm" and kinds[1] in {"g", ""}:
        opcode = sse.Opcode(0x66, escape, 0x6E)
        return _emit_vector(opcode, one.number, second, w=wide, mmx=one.kind == "m")
    if two and two.kind in "xm" and kinds[0] in {"g", ""}:
        opcode = sse.Opcode(0x66, escape, 0x7E)
        return _emit_vector(opcode, two.number, first, w=wide, mmx=two.kind == "m")
    return None
