"""Forms of instructions to draw random ones from, and which flags the manual leaves undefined.

Opcodes and undefined flags: Intel's SDM volume 2. VEX and EVEX forms are those of avx_forms;
privileged instructions,
those that tell about the machine (CPUID, RDTSC, XGETBV), PUSHF (the tracer's TF is in it), MMX and
stores of the last x87 instruction's address are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import avx_forms

from emulator.registers import Flags

if TYPE_CHECKING:
    import random

CF, PF, AF, ZF, SF, OF = (int(Flags[name]) for name in ("CF", "PF", "AF", "ZF", "SF", "OF"))
ALL: Final = CF | PF | AF | ZF | SF | OF
LENGTH: Final = {"": 0, "b": 1, "w": 2, "z": 4, "q": 8}


@dataclass(frozen=True, slots=True)
class Form:
    """One row of an opcode table.

    `modrm`: None for none, "rm" for any, "r" or "m" for registers or memory only; `digit` is
    /digit. `imm` names the immediate: b, w, z (16 or 32 bits), q (by operand size), or nothing.
    `size`: v for 16, 32 and 64 bits, y for 32 and 64, q for 64, b for bytes, x for vectors.
    `kind` names the rule of undefined flags or of operands that it needs.
    """

    opcode: bytes
    modrm: str | None = None
    digit: int | None = None
    imm: str = ""
    size: str = "v"
    prefix: int = 0
    undefined: int = 0
    kind: str = ""
    code: int = 0  # iced-x86's, of kind "avx"


@dataclass(frozen=True, slots=True)
class Instruction:
    """Machine code, and the flags that it leaves undefined where that is always so."""

    code: bytes
    form: Form
    bits: int


def _integer() -> list[Form]:
    forms = []
    for number in range(8):
        undefined = AF if number in (1, 4, 6) else 0  # OR, AND, XOR
        base = 8 * number
        for low, modrm, imm, size in (
            (0, "rm", "", "b"), (1, "rm", "", "v"), (2, "rm", "", "b"), (3, "rm", "", "v"),
            (4, None, "b", "b"), (5, None, "z", "v"),
        ):  # fmt: skip
            forms.append(Form(bytes([base + low]), modrm, None, imm, size, undefined=undefined))
        for opcode, imm, size in ((0x80, "b", "b"), (0x81, "z", "v"), (0x83, "b", "v")):
            forms.append(Form(bytes([opcode]), "rm", number, imm, size, undefined=undefined))
    for opcode, size in ((0xF6, "b"), (0xF7, "v")):
        one = bytes([opcode])
        imm = "b" if size == "b" else "z"
        forms += [
            Form(one, "rm", 0, imm, size, undefined=AF),  # TEST
            Form(one, "rm", 2, "", size),  # NOT
            Form(one, "rm", 3, "", size),  # NEG
            Form(one, "rm", 4, "", size, undefined=SF | ZF | AF | PF),  # MUL
            Form(one, "rm", 5, "", size, undefined=SF | ZF | AF | PF),  # IMUL
            Form(one, "rm", 6, "", size, undefined=ALL),  # DIV
            Form(one, "rm", 7, "", size, undefined=ALL),  # IDIV
        ]
    for opcode, size in ((0x84, "b"), (0x85, "v")):
        forms.append(Form(bytes([opcode]), "rm", None, "", size, undefined=AF))
    forms += [Form(b"\xa8", imm="b", size="b", undefined=AF), Form(b"\xa9", imm="z", undefined=AF)]
    for opcode, size in ((0xFE, "b"), (0xFF, "v")):
        forms += [Form(bytes([opcode]), "rm", digit, "", size) for digit in (0, 1)]
    for first, imm, kind in ((0xC0, "b", "imm"), (0xD0, "", "one"), (0xD2, "", "cl")):
        for opcode, size in ((first, "b"), (first + 1, "v")):
            forms += [
                Form(
                    bytes([opcode]),
                    "rm",
                    d,
                    imm,
                    size,
                    kind=f"{'rotate' if d < 4 else 'shift'} {kind}",
                )
                for d in range(8)
            ]
    for opcode, imm, kind in (
        (0xA4, "b", "imm"),
        (0xA5, "", "cl"),
        (0xAC, "b", "imm"),
        (0xAD, "", "cl"),
    ):
        forms.append(Form(bytes([0x0F, opcode]), "rm", None, imm, "y", kind=f"shift {kind}"))
    bit_flags = OF | SF | AF | PF
    forms += [Form(bytes([0x0F, o]), "r", undefined=bit_flags) for o in (0xA3, 0xAB, 0xB3, 0xBB)]
    forms += [Form(b"\x0f\xba", "rm", d, "b", undefined=bit_flags) for d in (4, 5, 6, 7)]
    for opcode in (0xBC, 0xBD):
        forms.append(Form(bytes([0x0F, opcode]), "rm", undefined=ALL & ~ZF, kind="scan"))
        # TZCNT and LZCNT: CF and ZF are defined.
        forms.append(Form(bytes([0x0F, opcode]), "rm", prefix=0xF3, undefined=OF | SF | PF | AF))
    signs = SF | ZF | AF | PF
    forms += [
        Form(b"\x0f\xb8", "rm", prefix=0xF3),  # POPCNT
        Form(b"\x0f\xaf", "rm", undefined=signs),
        Form(b"\x69", "rm", None, "z", undefined=signs),
        Form(b"\x6b", "rm", None, "b", undefined=signs),
        Form(b"\x88", "rm", size="b"), Form(b"\x89", "rm"),
        Form(b"\x8a", "rm", size="b"), Form(b"\x8b", "rm"),
        Form(b"\xc6", "rm", 0, "b", "b"), Form(b"\xc7", "rm", 0, "z"),
        Form(b"\x0f\xb6", "rm"), Form(b"\x0f\xb7", "rm"), Form(b"\x0f\xbe", "rm"),
        Form(b"\x0f\xbf", "rm"), Form(b"\x63", "rm", size="q"), Form(b"\x8d", "m"),
        Form(b"\x86", "rm", size="b"), Form(b"\x87", "rm"),
        Form(b"\x0f\xc0", "rm", size="b"), Form(b"\x0f\xc1", "rm"),
        Form(b"\x0f\xb0", "rm", size="b"), Form(b"\x0f\xb1", "rm"),
        Form(b"\x0f\xc7", "m", 1, size="y", kind="pair"),
        Form(b"\x0f\xc3", "m", size="y"),  # MOVNTI
        Form(b"\x0f\x38\xf0", "m"), Form(b"\x0f\x38\xf1", "m"),  # MOVBE
        Form(b"\x0f\x38\xf0", "rm", size="y", prefix=0xF2),
        Form(b"\x0f\x38\xf1", "rm", size="y", prefix=0xF2),
        Form(b"\x98"), Form(b"\x99"), Form(b"\x9e", size="b"), Form(b"\x9f", size="b"),
        Form(b"\xf5", size="b"), Form(b"\xf8", size="b"), Form(b"\xf9", size="b"),
        Form(b"\xfc", size="b"), Form(b"\xfd", size="b"),
        Form(b"\xd7", size="b", kind="xlat"), Form(b"\x6a", imm="b", size="b"),
        Form(b"\x68", imm="z"),
        Form(b"\xff", "rm", 6, size="v"), Form(b"\x8f", "rm", 0, size="v"),
        Form(b"\xc8\x10\x00\x00", size="b"), Form(b"\xc9", size="b", kind="leave"),
        Form(b"\xe8\0\0\0\0", size="b"), Form(b"\x0f\x1f", "rm", 0),
    ]  # fmt: skip
    forms += [Form(b"\x8c", "rm", digit) for digit in range(6)]  # MOV from a segment register
    forms += [Form(bytes([0x0F, 0xC8 + r]), size="y") for r in (0, 1, 6, 7)]
    forms += [Form(bytes([0x50 + r]), size="b") for r in range(8)]
    forms += [Form(bytes([0x58 + r]), size="b") for r in (0, 1, 2, 6, 7)]
    forms += [Form(bytes([0xB0 + r]), imm="b", size="b") for r in (0, 1, 2, 4, 5, 6)]
    forms += [Form(bytes([0xB8 + r]), imm="q") for r in (0, 1, 2, 5, 6, 7)]
    forms += [Form(bytes([0x90 + r])) for r in (1, 2, 5, 6, 7)]
    for condition in range(16):
        forms += [
            Form(bytes([0x0F, 0x90 + condition]), "rm", 0, "", "b"),
            Form(bytes([0x0F, 0x40 + condition]), "rm"),
            Form(bytes([0x70 + condition, 1, 0x90]), size="b"),
            Form(bytes([0x0F, 0x80 + condition, 1, 0, 0, 0, 0x90]), size="b"),
        ]
    forms += [Form(bytes([o, 1, 0x90]), size="b") for o in (0xE0, 0xE1, 0xE2, 0xE3, 0xEB)]
    return forms


def _strings() -> list[Form]:
    forms = []
    for opcode in (0xA4, 0xA6, 0xAA, 0xAC, 0xAE):
        for prefix in (0, 0xF2, 0xF3):
            forms.append(Form(bytes([opcode]), size="b", prefix=prefix, kind="string"))
            forms.append(Form(bytes([opcode + 1]), size="v", prefix=prefix, kind="string"))
    return forms


# Opcodes behind 0F by mandatory prefix; a letter behind one: r or m for its operand, b for imm8.
_SSE_TABLE: Final = {
    0: "10 11 12 13m 14 15 16 17m 28 29 2Bm 2E 2F 50r 51 52 53 54 55 56 57 58 59 5A 5B 5C 5D 5E 5F "
       "C2b C6b",
    0x66: "10 11 12m 13m 14 15 16m 17m 28 29 2Bm 2E 2F 50r 51 54 55 56 57 58 59 5A 5B 5C 5D 5E 5F "
          "60 61 62 63 64 65 66 67 68 69 6A 6B 6C 6D 6E 6F 70b 74 75 76 7C 7D 7E 7F C2b C4b C5rb "
          "C6b D0 D1 D2 D3 D4 D5 D6 D7r D8 D9 DA DB DC DD DE DF E0 E1 E2 E3 E4 E5 E6 E7m E8 E9 EA "
          "EB EC ED EE EF F1 F2 F3 F4 F5 F6 F8 F9 FA FB FC FD FE "
          "3800 3801 3802 3803 3804 3805 3806 3807 3808 3809 380A 380B 3810 3814 3815 3817 381C "
          "381D 381E 3820 3821 3822 3823 3824 3825 3828 3829 382Am 382B 3830 3831 3832 3833 3834 "
          "3835 3837 3838 3839 383A 383B 383C 383D 383E 383F 3840 3841 38DB 38DC 38DD 38DE 38DF "
          "3A08b 3A09b 3A0Ab 3A0Bb 3A0Cb 3A0Db 3A0Eb 3A0Fb 3A14b 3A15b 3A16b 3A17b 3A20b 3A21b "
          "3A22b 3A40b 3A41b 3A42b 3A44b 3A60b 3A61b 3A62b 3A63b 3ADFb",
    0xF3: "10 11 12 16 2A 2C 2D 51 52 53 58 59 5A 5B 5C 5D 5E 5F 6F 70b 7E 7F C2b E6",
    0xF2: "10 11 12 2A 2C 2D 51 58 59 5A 5C 5D 5E 5F 70b 7C 7D C2b D0 E6 F0m",
}  # fmt: skip


def _sse() -> list[Form]:
    forms = []
    for prefix, text in _SSE_TABLE.items():
        for word in text.split():
            digits = word.rstrip("rmb")
            letters = word[len(digits) :]
            modrm = "r" if "r" in letters else "m" if "m" in letters else "rm"
            opcode = b"\x0f" + bytes.fromhex(digits)
            forms.append(Form(opcode, modrm, None, "b" if "b" in letters else "", "x", prefix))
    for opcode, digits in ((0x71, (2, 4, 6)), (0x72, (2, 4, 6)), (0x73, (2, 3, 6, 7))):
        forms += [Form(bytes([0x0F, opcode]), "r", d, "b", "x", 0x66) for d in digits]
    forms += [Form(b"\x0f\xae", "m", d, size="x", kind="mxcsr" if d == 2 else "") for d in (2, 3)]
    return forms


def _x87() -> list[Form]:
    forms = [
        Form(bytes([opcode]), "m", digit, size="f")
        for opcode in range(0xD8, 0xE0)
        for digit in range(8)
        # FLDENV, FNSTENV, FRSTOR, FNSAVE; FLDCW is drawn with care.
        if (opcode, digit) not in {(0xD9, 4), (0xD9, 6), (0xDD, 4), (0xDD, 6), (0xD9, 5)}
    ]
    forms.append(Form(b"\xd9", "m", 5, size="f", kind="fldcw"))
    forms += [Form(bytes([o, m]), size="f") for o in range(0xD8, 0xE0) for m in range(0xC0, 0x100)]
    return forms


def _avx() -> list[Form]:
    return [Form(b"", size="avx", kind="avx", code=code) for code in avx_forms.NAMES]


GROUPS: Final = {
    "integer": _integer(), "string": _strings(), "sse": _sse(), "x87": _x87(), "avx": _avx(),
}  # fmt: skip

# Registers that are never written: RSP (4), RBX (3), which points to the data; high bytes of RBX.
_REGISTERS: Final = (0, 1, 2, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
_BYTES: Final = (0, 1, 2, 4, 5, 6)  # without REX: AL, CL, DL, AH, CH, DH
EDGES: Final = (0, 1, 2, 3, 7, 8, 15, 16, 31, 32, 63, 64, 0x7F, 0x80, 0xFE, 0xFF)


def encode(form: Form, rng: random.Random) -> Instruction:
    """A random instruction of a form; memory operands are `[rbx + displacement]`."""
    if form.kind == "avx":
        return Instruction(avx_forms.encode(form.code, rng), form, 0)
    prefixes = b""
    rex = 0
    bits = 8
    if form.size == "v":
        bits = rng.choice((16, 32, 64))
    elif form.size == "y":
        bits = rng.choice((32, 64))
    elif form.size == "q":
        bits = 64
    elif form.size in ("x", "f"):
        bits = 128
    if bits == 16:
        prefixes += b"\x66"
    if bits == 64 or (form.size == "x" and rng.random() < 0.3):
        rex |= 0x48
    if form.prefix:
        prefixes += bytes([form.prefix])
    body = form.opcode
    extra = b""
    if form.modrm is not None:
        plain = form.size == "b" and rng.random() < 0.5
        if not plain and form.size != "f" and rng.random() < 0.6:
            rex |= 0x40
        pool = _BYTES if form.size == "b" and not rex else _REGISTERS
        if not rex & 0x40:
            pool = tuple(n for n in pool if n < 8)
        reg = rng.choice(pool) if form.digit is None else form.digit
        if reg > 7:
            rex |= 0x44
        if form.modrm == "r" or (form.modrm == "rm" and rng.random() < 0.6):
            rm = rng.choice(pool)
            if rm > 7:
                rex |= 0x41
            extra = bytes([0xC0 | (reg & 7) << 3 | rm & 7])
        else:
            # XMM operands must be aligned, or the access faults; now and then it does.
            shift = rng.choice((0, 16, 32, 48, 64, 96)) + (rng.random() < 0.15) * rng.randrange(16)
            extra = bytes([0x43 | (reg & 7) << 3, shift])
    if form.imm == "b":
        extra += bytes([rng.choice(EDGES) if rng.random() < 0.5 else rng.randrange(256)])
    elif form.imm:
        width = 2 if bits == 16 else 8 if form.imm == "q" and bits == 64 else 4
        extra += edge(rng, 8 * width).to_bytes(width, "little")
    return Instruction(prefixes + (bytes([rex]) if rex else b"") + body + extra, form, bits)


def edge(rng: random.Random, bits: int) -> int:
    """A number of so many bits, near a power of two half of the time."""
    kind = rng.randrange(4)
    if kind == 0:
        return rng.getrandbits(bits)
    if kind == 1:
        return rng.choice((0, 1, 2, 3)) * (-1) ** rng.randrange(2) % 2**bits
    if kind == 2:
        return (2 ** rng.randrange(bits) + rng.choice((-1, 0, 1))) % 2**bits
    return rng.getrandbits(rng.randrange(1, bits + 1))


def undefined_flags(instruction: Instruction, cl: int) -> int:
    """The arithmetic flags that the manual leaves undefined, given CL (SDM volume 2)."""
    form = instruction.form
    operation, _, source = form.kind.partition(" ")
    if operation not in ("shift", "rotate"):
        return form.undefined
    count = {"imm": instruction.code[-1], "one": 1, "cl": cl}[source]
    count &= 0x3F if instruction.bits == 64 else 0x1F
    if count == 0:
        return 0
    undefined = 0 if count == 1 else OF
    if operation == "shift":
        undefined |= AF | (CF if count >= instruction.bits else 0)
    return undefined
