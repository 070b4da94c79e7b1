"""AVX to AVX-512, BMI and mask instructions: the form that the operands choose, encoded.

The forms are data (avx_table.py); they are tried in order, as Go's assembler does, and a suffix
(.Z, .BCST, .RN_SAE …) admits only EVEX ones.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from asm.avx_table import TABLE
from asm.intel import Imm, Insn, IntelOperand, Mem
from asm.machine import REGISTER, CannotEncodeError, Encoded
from asm.operand import Kind, Operand, Prog
from asm.registers import RegClass, Register
from asm.source import Fault, near_miss
from asm.vex import Evex, Fields, Prefix, evex, vex

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

_VECTOR = {"x": RegClass.XMM, "y": RegClass.YMM, "z": RegClass.ZMM}
_ROUNDING = {"RN_SAE": 0, "RD_SAE": 1, "RU_SAE": 2, "RZ_SAE": 3}
_SUFFIXES = ("Z", "BCST", "SAE", *_ROUNDING)
_INDEX = {"a": RegClass.XMM, "b": RegClass.YMM, "c": RegClass.ZMM}
_BITS = {"x": 128, "y": 256, "z": 512}


class Form(NamedTuple):
    """One encoding of a mnemonic."""

    evex: bool
    prefix: Prefix
    opcode: int
    extension: int  # of ModRM.reg, or -1
    operands: tuple[str, ...]  # field and kind, in Go's order
    scale: int
    broadcast: int  # bytes of the element, or 0
    rounding: bool
    sae: bool
    zeroing: bool
    mask: str  # "" none, "k" possible, "K" needed


class Suffix(NamedTuple):
    """The suffixes of a mnemonic."""

    zeroing: bool = False
    broadcast: bool = False
    sae: bool = False
    rounding: str = ""


def _form(text: str, opcode: str) -> Form:
    head, _, rest = text.partition("=")
    prefix, _, own = head.partition(":")
    operands, *extra = rest.split(",")
    code, _, extension = (own or opcode).partition("/")
    flags = extra[1] if extra else ""
    return Form(
        prefix[0] == "e",
        Prefix(*(int(digit) for digit in prefix[1:])),
        int(code, 16),
        int(extension) if extension else -1,
        tuple(operands[at : at + 2] for at in range(0, len(operands), 2)),
        int(extra[0]) if extra and extra[0] else 1,
        next((int(flag) for flag in flags if flag in "48"), 0),
        "R" in flags,
        "S" in flags,
        "Z" in flags,
        next((flag for flag in flags if flag in "kK"), ""),
    )


@cache
def _rows() -> dict[str, tuple[str, str]]:
    """By mnemonic: its opcode, where the row gives it, and the text of its forms."""
    rows: dict[str, tuple[str, str]] = {}
    for row in TABLE.replace("\n ", " ").splitlines():
        names, _, forms = row.partition(" :: ")
        for word in names.split():
            name, _, opcode = word.partition("=")
            rows[name] = (opcode, forms)
    return rows


def names() -> Collection[str]:
    """Every mnemonic that is encoded here."""
    return _rows().keys()


@cache
def forms(name: str) -> tuple[Form, ...]:
    """The forms of a mnemonic, in the order of preference."""
    opcode, text = _rows()[name]
    return tuple(_form(word, opcode) for word in text.split())


def _suffix(prog: Prog) -> Suffix:
    known: dict[str, bool | str] = {}
    for position, word in enumerate(prog.suffixes):
        if word not in _SUFFIXES:
            raise Fault(prog.span, f"unknown suffix .{word}", near_miss(word, _SUFFIXES))
        if word == "Z":
            if position != len(prog.suffixes) - 1:
                raise Fault(prog.span, "the suffix .Z stands last")
            known["zeroing"] = True
        elif known:
            raise Fault(prog.span, f"the suffix .{word} does not go with the others")
        elif word in _ROUNDING:
            known["rounding"] = word
        else:
            known["broadcast" if word == "BCST" else "sae"] = True
    return Suffix(**known)  # type: ignore[arg-type]


def _number_fits(register: Register, form: Form) -> bool:
    return form.evex or register.number < 16


def _register_fits(kind: str, register: Register, form: Form) -> bool:
    low = kind.lower()
    if low in _VECTOR:
        return register.kind is _VECTOR[low] and _number_fits(register, form)
    if low == "g":
        return register.kind is RegClass.GPR
    return kind in "kq" and register.kind is RegClass.MASK


def _memory_fits(kind: str, operand: Operand, form: Form) -> bool:
    index = operand.index
    vector = index is not None and index.kind in _INDEX.values()
    if kind in _INDEX:
        return index is not None and index.kind is _INDEX[kind] and _number_fits(index, form)
    return kind in "XYZGmq" and not vector


def _fits(pair: str, operand: Operand, form: Form) -> bool:
    field, kind = pair[0], pair[1]
    match operand.kind:
        case Kind.REG:
            return operand.reg is not None and _register_fits(kind, operand.reg, form)
        case Kind.MEM:
            return field == "m" and _memory_fits(kind, operand, form)
        case Kind.CONST:
            limits = {"u": range(256), "s": range(-128, 128), "b": range(-128, 256)}
            return field == "i" and kind in limits and operand.offset in limits[kind]
        case Kind.REGLIST:
            first, last = operand.reg, operand.last
            wanted = {"w": RegClass.ZMM, "W": RegClass.XMM}.get(kind)
            return (
                first is not None
                and last is not None
                and first.kind is wanted
                and last.kind is wanted
                and last.number - first.number == 3
            )
        case _:
            return False


def _choose(prog: Prog, suffix: Suffix) -> tuple[Form, list[Operand], Register | None]:
    """The form, the operands without the mask, and the mask."""
    operands = prog.operands
    mask_at = len(operands) - 2
    possible = mask_at >= 0 and _is_mask(operands[mask_at])
    for form in forms(prog.op):
        if prog.suffixes and not form.evex:
            continue
        if len(operands) == len(form.operands) and form.mask != "K":
            if all(map(_fits, form.operands, operands, [form] * len(operands))):
                return form, operands, None
        elif len(operands) == len(form.operands) + 1 and form.mask and possible:
            rest = [*operands[:mask_at], operands[mask_at + 1]]
            if all(map(_fits, form.operands, rest, [form] * len(rest))):
                mask = operands[mask_at].reg
                assert mask is not None
                if mask.number == 0:
                    raise Fault(operands[mask_at].span, "K0 cannot be a mask")
                return form, rest, mask
    _check_suffix_known(prog, suffix)
    raise Fault(prog.span, f"{prog.op} does not take these operands")


def _is_mask(operand: Operand) -> bool:
    return operand.reg is not None and operand.reg.kind is RegClass.MASK


def _check_suffix_known(prog: Prog, suffix: Suffix) -> None:
    if suffix != Suffix() and not any(f.evex for f in forms(prog.op)):
        raise Fault(prog.span, f"{prog.op} takes no suffix")


def _check(prog: Prog, form: Form, suffix: Suffix, rm: IntelOperand, *, masked: bool) -> None:
    memory = isinstance(rm, Mem)
    if suffix.zeroing and not masked:
        raise Fault(prog.span, "zeroing needs a mask register")
    if suffix.zeroing and not form.zeroing:
        raise Fault(prog.span, f"{prog.op} cannot zero what is masked")
    if suffix.broadcast and not (memory and form.broadcast):
        raise Fault(prog.span, f"{prog.op} with these operands cannot broadcast")
    if suffix.rounding and (memory or not form.rounding):
        raise Fault(prog.span, f"{prog.op} with these operands takes no rounding")
    if suffix.sae and (memory or not form.sae):
        raise Fault(prog.span, f"{prog.op} with these operands takes no .SAE")


def _check_gather(prog: Prog) -> None:
    """A gather whose destination, index and mask are not distinct is an invalid opcode."""
    if not prog.op.startswith(("VGATHERD", "VGATHERQ", "VPGATHER")):
        return
    registers = [o.index if o.kind is Kind.MEM else o.reg for o in prog.operands]
    numbers = [r.number for r in registers if r is not None and r.kind is not RegClass.MASK]
    if len(set(numbers)) < len(numbers):
        raise Fault(prog.span, f"{prog.op} needs distinct registers for mask, index, destination")


def encode(
    prog: Prog, convert: Callable[[Prog, Operand, int], IntelOperand]
) -> tuple[Insn, Encoded, list[Operand]]:
    """Encodes one statement.

    Args:
        prog: the statement; its mnemonic is one of `names()`.
        convert: makes Intel's operand of Go's with a width for general registers.

    Returns:
        The instruction in Intel's terms, its bytes, and the operands without the mask.

    Raises:
        Fault: no form takes these operands.
    """
    suffix = _suffix(prog)
    form, operands, mask = _choose(prog, suffix)
    _check_gather(prog)
    width = 64 if form.prefix.w else 32
    converted: list[IntelOperand] = []
    reg = max(form.extension, 0)
    vvvv = 0
    immediate = b""
    rm: IntelOperand = ""
    for pair, operand in zip(form.operands, operands, strict=True):
        field, kind = pair[0], pair[1]
        if operand.kind is Kind.REGLIST:
            assert operand.reg is not None
            value: IntelOperand = f"{operand.reg.kind.name.lower()}{operand.reg.number}"
        else:
            value = convert(
                prog,
                operand,
                width if kind in "gG" and operand.reg and operand.kind is Kind.REG else 0,
            )
        number = REGISTER[value].number if isinstance(value, str) else 0
        match field:
            case "m":
                rm = value
            case "r":
                reg = number
            case "v":
                vvvv = number
            case "h":
                immediate = bytes((number << 4,))
            case "i" if isinstance(value, Imm):
                immediate = bytes((value.value & 0xFF,))
        converted.append(value)
    _check(prog, form, suffix, rm, masked=mask is not None)
    if suffix.broadcast and isinstance(rm, Mem):
        at = converted.index(rm)
        converted[at] = rm._replace(broadcast=form.scale // form.broadcast)
    fields = Fields(reg, rm, vvvv, immediate)
    if not form.operands:
        # VZEROUPPER and VZEROALL have no ModRM.
        tail = 0x78 | form.prefix.length << 2 | form.prefix.pp | 0x80
        encoded = Encoded(bytes((0xC5, tail, form.opcode)))
    elif form.evex:
        extra = Evex(
            form.broadcast if suffix.broadcast else form.scale,
            mask.number if mask is not None else 0,
            suffix.zeroing,
            suffix.broadcast or suffix.sae or bool(suffix.rounding),
            _ROUNDING.get(suffix.rounding, -1),
        )
        encoded = evex(form.prefix, form.opcode, fields, extra)
    else:
        encoded = vex(form.prefix, form.opcode, fields)
    insn = Insn(
        intel_name(prog.op),
        tuple(reversed(converted)),
        mask=f"k{mask.number}" if mask is not None else "",
        zeroing=suffix.zeroing,
        rounding=_rounding_text(suffix),
    )
    return insn, encoded, operands


def _rounding_text(suffix: Suffix) -> str:
    if suffix.rounding:
        return suffix.rounding.lower().replace("_", "-")
    return "sae" if suffix.sae else ""


# Go's letter for the width of a general register or of the source, which Intel leaves out.
_LETTERED = re.compile(
    r"(ANDN|BEXTR|BZHI|BLSI|BLSMSK|BLSR|MULX|PDEP|PEXT|RORX|SARX|SHLX|SHRX"
    r"|VCVTT?S[SD]2U?SI|VCVTU?SI2S[SD])[LQ]"
    r"|(VCVT\w+|VFPCLASSP[SD])[XYZ]"
)


def intel_name(name: str) -> str:
    """Intel's mnemonic of a Go name of this table."""
    lettered = _LETTERED.fullmatch(name)
    return (name[:-1] if lettered else name).lower()


__all__ = ["CannotEncodeError", "encode", "forms", "intel_name", "names"]
