"""Statements of Intel and AT&T text as machine instructions: names, sizes, what is left unsaid."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from asm import avx, keystone_fence, opcodes, sse, verify
from asm import operand as go
from asm.encode import encode
from asm.intel import Imm, Insn, IntelOperand
from asm.item import Bytes, Code, Item, Reference
from asm.machine import REGISTER, SEGMENT_PREFIX
from asm.operand import Kind, Name, Prog
from asm.registers import INTEL_GPR, REGISTERS, RegClass, Register
from asm.source import Fault, near_miss
from asm.x86_operand import Operand

if TYPE_CHECKING:
    from asm.machine import Encoded
    from asm.source import Span

PREFIXES = {
    "lock": 0xF0, "rep": 0xF3, "repe": 0xF3, "repz": 0xF3, "repne": 0xF2, "repnz": 0xF2,
}  # fmt: skip
_CC_ALIASES = {
    "z": "e", "nz": "ne", "c": "b", "nc": "ae", "nae": "b", "nb": "ae", "na": "be", "nbe": "a",
    "pe": "p", "po": "np", "nge": "l", "nl": "ge", "ng": "le", "nle": "g",
}  # fmt: skip
_ALIASES = (
    {f"{h}{old}": f"{h}{new}" for old, new in _CC_ALIASES.items() for h in ("set", "cmov", "j")}
    | {"sal": "shl", "movabs": "mov", "loopz": "loope", "loopnz": "loopne", "fwait": "wait",
       "ud2a": "ud2", "retn": "ret"}
)  # fmt: skip
BRANCHES = frozenset({f"j{cc}" for cc in opcodes.CC}) | {
    "jmp", "call", "jecxz", "jrcxz", "loop", "loope", "loopne",
}  # fmt: skip
_ATT_NAMES = {
    "cltq": "cdqe", "cltd": "cdq", "cqto": "cqo", "cwtl": "cwde", "cwtd": "cwd", "cbtw": "cbw",
    "movslq": "movsxd", "iretl": "iretd", "movsl": "movsd", "cmpsl": "cmpsd", "stosl": "stosd",
    "lodsl": "lodsd", "scasl": "scasd", "insl": "insd", "outsl": "outsd",
}  # fmt: skip
_STRINGS = frozenset({"movsl", "cmpsl", "stosl", "lodsl", "scasl", "insl", "outsl"})
_ATT_WIDTH = {"b": 8, "w": 16, "l": 32, "q": 64}
_VECTOR_WIDTH = {"x": 128, "y": 256}
_ATT_EXTEND = re.compile(r"mov([zs])([bw])([wlq])")
_ATT_X87 = {"fld": "slt", "fst": "sl", "fstp": "slt", "fadd": "sl", "fsub": "sl", "fsubr": "sl",
            "fmul": "sl", "fdiv": "sl", "fdivr": "sl", "fcom": "sl", "fcomp": "sl"}  # fmt: skip
_X87_WIDTH = {"s": 32, "l": 64, "t": 80}
# GNU as exchanges these two pairs where both operands are registers.
_ATT_SWAPPED = re.compile(r"f(sub|div)r?p?")
_COMPARE = re.compile(r"(?P<head>v?cmp)(?P<predicate>\w+?)(?P<kind>[ps][sd])")
_GENERAL = frozenset(
    {*opcodes.ALU, *opcodes.SHIFT, *opcodes.UNARY, *opcodes.BIT, *opcodes.LOAD_GPR, *opcodes.CMOV,
     "inc", "dec", "mov", "lea", "test", "xchg", "xadd", "cmpxchg", "bswap", "shld", "shrd",
     "movnti", "movbe", "push", "pop", "nop"}
)  # fmt: skip
# The size of a memory operand does not follow from the register beside it.
_OWN_WIDTH = {
    "movsxd": 32, "lar": 16, "lsl": 16, "pinsrb": 8, "pinsrw": 16, "pinsrd": 32, "pinsrq": 64,
    "pextrb": 8, "pextrw": 16, "pextrd": 32, "pextrq": 64, "extractps": 32,
}  # fmt: skip
_SIZES = "byte ptr, dword ptr and so on, or in AT&T a letter behind the name"
_UNSAID = frozenset({"movzx", "movsx", "crc32", "cvtsi2sd", "cvtsi2ss"})
_WITHOUT_WIDTH = frozenset({"lea", "invpcid", "lss", "lfs", "lgs"}) | frozenset(opcodes.MEMORY)
_WITHOUT_WIDTH |= frozenset(opcodes.MEMORY_66)
_ROUNDINGS = {"rn-sae": "RN_SAE", "rd-sae": "RD_SAE", "ru-sae": "RU_SAE", "rz-sae": "RZ_SAE",
              "sae": "SAE"}  # fmt: skip


@cache
def _vector_names() -> dict[str, tuple[str, ...]]:
    """Go's names of each instruction of the AVX tables, by Intel's."""
    found: dict[str, tuple[str, ...]] = {}
    for name in avx.names():
        intel = avx.intel_name(name)
        found[intel] = (*found.get(intel, ()), name)
    return found


@cache
def names() -> frozenset[str]:
    """Every mnemonic, in Intel's spelling."""
    beside = {
        "movzx",
        "movsx",
        "movsxd",
        "invpcid",
        "ret",
        "int",
        "pushw",
        "rdrand",
        "rdseed",
        "rdpid",
        "movq",
        "crc32",
        "blendvpd",
        "blendvps",
        "pblendvb",
        "sha256rnds2",
        "maskmovq",
        "movdq2q",
        "pshufw",
        "movd",
    }
    tables = (
        opcodes.FIXED, opcodes.SET, opcodes.MEMORY, opcodes.MEMORY_66, opcodes.SYSTEM,
        opcodes.WAIT, opcodes.LOAD_POINTER, opcodes.FSBASE, sse.SSE_WIDTHS, sse.CONVERT, sse.INSERT,
        sse.EXTRACT, _vector_names(), keystone_fence.names(), BRANCHES, PREFIXES,
    )  # fmt: skip
    return frozenset(beside | _GENERAL).union(*tables)


class Statement(NamedTuple):
    """An instruction as written: its operands in Intel's order, the size that its name gives."""

    mnemonic: str
    operands: list[Operand]
    span: Span
    word: Span
    width: int = 0
    source_width: int = 0


def statement(word: str, at: Span, operands: list[Operand], span: Span, *, att: bool) -> Statement:
    """The instruction that a mnemonic and its operands, in the order of the text, name."""
    name = word.lower()
    if (compare := _COMPARE.fullmatch(name)) and compare["predicate"] in verify.PREDICATES:
        # The predicate in the name is the immediate, which is Intel's last operand.
        number = Operand(at, value=verify.PREDICATES.index(compare["predicate"]))
        operands = [number, *operands] if att else [*operands, number]
        name = compare["head"] + compare["kind"]
    if not att:
        name = _ALIASES.get(name, name)
        if name not in names():
            raise Fault(at, f"unknown instruction {word}", near_miss(name, names()))
        return Statement(name, operands, span, at)
    operands = [*reversed(operands)]
    if _ATT_SWAPPED.fullmatch(name) and all(o.reg for o in operands):
        raise Fault(at, f"{word}: GNU as and Intel mean different instructions by it")
    if (extend := _ATT_EXTEND.fullmatch(name)) is not None and operands:
        name = "movzx" if extend[1] == "z" else "movsx"
        return Statement(name, operands, span, at, _ATT_WIDTH[extend[3]], _ATT_WIDTH[extend[2]])
    if name in _ATT_NAMES and (not operands or name not in _STRINGS):
        name = _ATT_NAMES[name]
    name = _ALIASES.get(name, name)
    general = name == "movq" and all(not o.reg or o.reg in INTEL_GPR[64] for o in operands)
    if name in names() and not general:
        return Statement(name, operands, span, at)
    base, letter = _ALIASES.get(name[:-1], name[:-1]), name[-1:]
    if letter in _ATT_X87.get(base, ""):
        return Statement(base, operands, span, at, _X87_WIDTH[letter])
    converts = base in sse.CONVERT and letter in "lq"
    if letter in _ATT_WIDTH and (base in _GENERAL or converts or base == "crc32"):
        return Statement(base, operands, span, at, _ATT_WIDTH[letter])
    if letter in "lqxy" and f"{base.upper()}{letter.upper()}" in _vector_names().get(base, ()):
        return Statement(base, operands, span, at, _ATT_WIDTH.get(letter) or _VECTOR_WIDTH[letter])
    if letter == "q" and base in {"call", "jmp", "ret", "leave"}:
        return Statement(base, operands, span, at)
    raise Fault(at, f"unknown instruction {word}", near_miss(name, names()))


def items(said: Statement) -> Item:
    """The machine's view of an instruction that is no branch within the text."""
    said = _with_widths(said)
    _check_prefixless(said)
    insn = _insn(said)
    reference = _reference(said)
    if said.mnemonic in _vector_names() and not _is_legacy(said):
        return Code(insn, reference, _vector(said, insn))
    if insn.mask or insn.zeroing or insn.rounding or any(_broadcast(o) for o in said.operands):
        raise Fault(said.word, f"{said.mnemonic} takes no mask, rounding or broadcast")
    try:
        return Code(insn, reference, encode(insn))
    except verify.MismatchError:
        # Sizes that do not fit each other: the encoder took those of the first operand.
        raise Fault(said.span, f"{said.mnemonic} does not take these operands") from None


def prefix(name: str) -> Bytes:
    """LOCK and REP, which stand before an instruction."""
    return Bytes(bytes((PREFIXES[name],)), prefix=True)


def _broadcast(operand: Operand) -> bool:
    return operand.mem is not None and bool(operand.mem.broadcast)


def _is_legacy(said: Statement) -> bool:
    """A name that both tables have means the MMX or SSE instruction."""
    return said.mnemonic in sse.SSE_WIDTHS or said.mnemonic in opcodes.LOAD_GPR


def _check_prefixless(said: Statement) -> None:
    for operand in said.operands:
        if operand.indirect and said.mnemonic not in {"jmp", "call"}:
            raise Fault(operand.span, "* is for jmp and call")
        if operand.is_symbol:
            raise Fault(
                operand.span, f"{said.mnemonic} takes no symbol: write [rip + …] or …(%rip)"
            )
        if operand.reg == "rip":
            raise Fault(operand.span, "rip is no operand")


def _with_widths(said: Statement) -> Statement:
    """Gives an address the size that the name or the register beside it says."""
    name = said.mnemonic
    general = [
        REGISTER[o.reg].width
        for o in said.operands
        if o.reg in REGISTER and REGISTER[o.reg].kind in "gh"
    ]
    vector = any(o.reg in REGISTER and REGISTER[o.reg].kind not in "gh" for o in said.operands)
    if said.width:
        for operand in said.operands:
            if operand.reg in SEGMENT_PREFIX and said.width != 64 and name in {"push", "pop"}:
                raise Fault(operand.span, "only 64 bits of a segment register are pushed here")
            if operand.reg in REGISTER and REGISTER[operand.reg].kind in "gh":
                first = operand is said.operands[0] or not said.source_width
                wanted = said.width if first else said.source_width
                if name in opcodes.SHIFT and operand.reg == "cl" and operand is said.operands[-1]:
                    continue
                if name in {"shld", "shrd"} and operand.reg == "cl":
                    continue
                if name == "crc32" and operand is said.operands[0]:
                    continue
                if REGISTER[operand.reg].width != wanted:
                    raise Fault(
                        operand.span, f"{operand.reg} has not the {wanted} bits of the name"
                    )
    operands = []
    for operand in said.operands:
        mem = operand.mem
        if mem is None or mem.width or name in _WITHOUT_WIDTH:
            operands.append(operand)
            continue
        if name in _vector_names() and not _is_legacy(said) and not said.width:
            # Of several sizes only a general register or a broadcast tells which is meant.
            if len(_vector_names()[name]) > 1 and not general and not mem.broadcast:
                raise Fault(operand.span, "the size of this is not said", _SIZES)
            operands.append(operand)
            continue
        if said.width:
            width = said.source_width or said.width
        elif name in _OWN_WIDTH:
            width = _OWN_WIDTH[name]
        elif name in {"push", "pop", "jmp", "call"}:
            width = 64
        elif name in opcodes.SET:
            width = 8
        elif name in _UNSAID or (not general and not vector):
            raise Fault(operand.span, "the size of this is not said", _SIZES)
        elif name in opcodes.SHIFT or name in {"shld", "shrd"}:
            if name in opcodes.SHIFT or not general:
                raise Fault(operand.span, "the size of this is not said", _SIZES)
            width = general[0]
        else:
            width = 0 if vector or name in sse.CONVERT else general[0]
        operands.append(replace(operand, mem=mem._replace(width=width)))
    return said._replace(operands=operands)


def _insn(said: Statement) -> Insn:
    operands: list[IntelOperand] = []
    mask, zeroing, rounding = "", False, ""
    for position, operand in enumerate(said.operands):
        if operand.rounding:
            if rounding:
                raise Fault(operand.span, "a second rounding")
            rounding = operand.rounding
            continue
        if operand.mask or operand.zeroing:
            if position:
                raise Fault(operand.span, "a mask goes with the destination")
            mask, zeroing = operand.mask, operand.zeroing
        if operand.reg:
            operands.append(operand.reg)
        elif operand.mem is not None:
            operands.append(operand.mem)
        else:
            assert operand.value is not None
            value = operand.value
            if not -(1 << 63) <= value < 1 << 64:
                raise Fault(operand.span, "the number does not fit in 64 bits")
            operands.append(Imm(value - (1 << 64) if value >= 1 << 63 else value))
    if sum(o.mem is not None for o in said.operands) > 1:
        raise Fault(said.span, "only one operand may be in memory")
    name = said.mnemonic
    if name in {"sysret", "sysexit"}:
        raise Fault(said.word, f"{name}: which size is meant differs between assemblers")
    if name in opcodes.SHIFT and len(operands) == 1:
        operands.append(Imm(1))
    return Insn(name, tuple(operands), mask, zeroing, rounding)


def _reference(said: Statement) -> Reference | None:
    for operand in said.operands:
        if operand.mem is not None and operand.mem.rip:
            return reference(operand)
    return None


def reference(operand: Operand) -> Reference:
    """The symbol that an operand refers to."""
    symbolic = go.Operand(Kind.MEM, operand.span, name=Name.EXTERN, symbol=operand.symbol)
    return Reference(operand.symbol, False, operand.offset, symbolic)


# AVX and what is encoded like it: by Go's names and tables


@cache
def _go_registers() -> dict[tuple[RegClass, int], Register]:
    return {(r.kind, r.number): r for r in reversed(REGISTERS.values())}


_CLASSES = {
    "g": RegClass.GPR, "x": RegClass.XMM, "y": RegClass.YMM, "z": RegClass.ZMM, "k": RegClass.MASK,
}  # fmt: skip


def _go_register(operand: Operand, name: str) -> Register:
    info = REGISTER[name]
    found = _go_registers().get((_CLASSES.get(info.kind, RegClass.TLS), info.number))
    if found is None or found.kind is RegClass.TLS:
        raise Fault(operand.span, f"{name} does not go here")
    return found


def _go_operand(operand: Operand) -> go.Operand:
    if operand.reg:
        return go.Operand(Kind.REG, operand.span, reg=_go_register(operand, operand.reg))
    if operand.mem is None:
        assert operand.value is not None
        return go.Operand(Kind.CONST, operand.span, offset=operand.value)
    mem = operand.mem
    return go.Operand(
        Kind.MEM,
        operand.span,
        reg=_go_register(operand, mem.base) if mem.base else None,
        index=_go_register(operand, mem.index) if mem.index else None,
        scale=mem.scale,
        offset=mem.disp,
    )


def _vector(said: Statement, insn: Insn) -> Encoded:
    """Tries Go's names of the instruction; the first whose code reads as what was asked."""
    written = [o for o in said.operands if not o.rounding]
    operands = [_go_operand(o) for o in reversed(written)]
    by_operand = {id(g): o for g, o in zip(operands, reversed(written), strict=True)}
    if insn.mask:
        mask = go.Operand(Kind.REG, said.span, reg=_go_register(written[0], insn.mask))
        operands.insert(len(operands) - 1, mask)
    suffixes = [_ROUNDINGS[insn.rounding]] if insn.rounding else []
    suffixes += ["BCST"] if any(map(_broadcast, written)) else []
    suffixes += ["Z"] if insn.zeroing else []

    def convert(_: Prog, operand: go.Operand, width: int) -> IntelOperand:
        of = by_operand.get(id(operand))
        if of is None:  # the mask is none of the operands
            raise Fault(said.span, f"{said.mnemonic} does not take these operands")
        if of.mem is not None:
            return of.mem._replace(broadcast=0)
        if of.reg:
            if width and REGISTER[of.reg].width != width:
                raise Fault(of.span, f"{of.reg} has not the {width} bits that go here")
            return of.reg
        assert of.value is not None
        return Imm(of.value)

    fault: Fault | None = None
    for name in _vector_names()[said.mnemonic]:
        prog = Prog(name, operands, said.span, "", tuple(suffixes))
        try:
            _, encoded, _ = avx.encode(prog, convert)
            verify.check(insn, encoded.data)
        except Fault as other:
            fault = fault or other
        except verify.MismatchError as error:
            fault = Fault(said.span, f"{said.mnemonic} does not take these operands", f"({error})")
        else:
            return encoded
    assert fault is not None
    raise Fault(fault.span, fault.message.replace(prog.op, said.mnemonic), fault.note)
