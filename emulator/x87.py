"""Which x87 instructions Unicorn may execute, and on which registers.

Unicorn 2.1.4 knows no stack faults: it reads what is empty and pushes onto what is not. It computes
transcendental functions in double precision, loads constants without regard to rounding, and raises
no exception but division by zero. FCOMI and its kin leave OF, SF and AF alone, FST does not say
that its destination is in use, FISTTP, FBSTP and FXAM are wrong at the edges. Stored as a float or
double, a signalling NaN stays one. So before each x87
instruction the register stack and the control word are looked at; what would fault, or comes out
differently, is refused. Encodings that the manual does not list are refused, too.
Specified in Intel's SDM volume 1, chapter 8, and volume 2, appendix A.3.
"""

from __future__ import annotations

from typing import Final

OPCODES: Final = frozenset(range(0xD8, 0xE0))
_MASKS: Final = 0x3F  # of FCW: all exceptions masked
_ROUNDING: Final = 0xC00

# By opcode and ModRM.reg, memory forms and then register forms. What they need: 0 for ST0, i for
# ST0 and ST(i), p for room to push, l for both ST(i) and room, c for room and rounding to nearest,
# n for an ST0 that is no signalling NaN, - for nothing; x is refused.
_FORMS: Final = {
    0xD8: ("00000000", "iiiiiiii"),
    0xD9: ("pxnn----", "li-x----"),
    0xDA: ("00000000", "iiiixxxx"),
    0xDB: ("px00xpx0", "iiiixxxx"),
    0xDC: ("00000000", "iixxiiii"),
    0xDD: ("pxnn-x--", "-xiiiixx"),
    0xDE: ("00000000", "iixxiiii"),
    0xDF: ("px00ppx0", "xxxxxxxx"),
}
_SINGLE: Final = {
    (0xDA, 0xE9): "1", (0xDE, 0xD9): "1",  # FUCOMPP, FCOMPP: ST0 and ST1
    (0xDB, 0xE2): "-", (0xDB, 0xE3): "-", (0xDF, 0xE0): "-",  # FNCLEX, FNINIT, FNSTSW AX
}  # fmt: skip
# D9 D0 to D7 and D9 E0 to FF: FNOP; FCHS, FABS, FTST; constants; FDECSTP, FINCSTP, FSQRT,
# FRNDINT. The rest are transcendental functions, FXTRACT, FPREM, FPREM1,
# FSCALE and FXAM.
_D9_D0: Final = "-xxxxxxx"
_D9_E0: Final = "00xx0xxxpcccccpx" + "xxxxxx--xx0x0xxx"


def need(opcode: int, modrm: int) -> str:
    """What an x87 instruction needs, as in _FORMS."""
    if modrm < 0xC0:
        return _FORMS[opcode][0][modrm >> 3 & 7]
    if opcode == 0xD9 and modrm >= 0xE0:
        return _D9_E0[modrm - 0xE0]
    if opcode == 0xD9 and modrm & 0xF8 == 0xD0:
        return _D9_D0[modrm & 7]
    return _SINGLE.get((opcode, modrm), _FORMS[opcode][1][modrm >> 3 & 7])


def objection(
    opcode: int, modrm: int, control: int, status: int, tags: int, st0: int
) -> str | None:
    """Why the instruction cannot be executed; None if it can.

    Given are FCW, FSW, the full FTW and the value in ST0's register.
    """
    kind = need(opcode, modrm)
    if kind == "x":
        return "not exact here"
    if control & _MASKS != _MASKS and kind != "-":
        return f"x87 exceptions are not masked (FCW {control:#x})"
    top = status >> 11 & 7
    sources = {"0": (0,), "n": (0,), "i": (0, modrm & 7), "1": (0, 1), "l": (modrm & 7,)}.get(
        kind, ()
    )
    for number in sources:
        if tags >> 2 * ((top + number) & 7) & 3 == 3:
            return f"x87 stack underflow: ST({number}) is empty"
    if kind == "n" and _is_signalling(st0):
        return "a signalling NaN"
    if kind == "c" and control & _ROUNDING:
        return f"a constant that is not rounded to nearest (FCW {control:#x})"
    if kind in "plc" and tags >> 2 * ((top - 1) & 7) & 3 != 3:
        return "x87 stack overflow"
    return None


def _is_signalling(value: int) -> bool:
    """Whether a register holds a signalling NaN (SDM volume 1, table 4-3)."""
    fraction = value & ((1 << 63) - 1)
    return value >> 64 & 0x7FFF == 0x7FFF and 0 < fraction < 1 << 62
