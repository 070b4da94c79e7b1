"""Every single fault of a trampoline, made in its machine code.

A mutation says what is done to one instruction, or to two neighbours:

    dropped    it is not there
    doubled    it is there twice
    swapped    it and the next one change places
    offset     its memory operand lies 8 or 16 bytes off
    amount     its constant is 8 or 16 more or less (ADDQ, SUBQ), or of the other sign
    register   another register takes the place of one of its operands, or of its base
    width      it moves less: MOVQ to MOVL, MOVW, MOVB; MOVUPS to MOVQ, MOVSD, MOVSS, MOVLPS, MOVHPS
    direction  a load becomes a store, a push a pop; and the other way round
    target     a branch goes one instruction too near or too far, a call becomes a jump

Nothing here knows a trampoline, its registers or its lines: the rules go by the form of an
instruction alone (Intel's SDM, volume 2). A label stays at its place in the text.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from asm.rewrite import iced

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from asm.rewrite import Line

DISTANCES: Final = (8, -8, 16, -16)
_SIGN: Final = {"ADD": "SUB", "SUB": "ADD"}
_VECTOR_MOVES: Final = ("MOVUPS", "MOVAPS", "MOVUPD", "MOVAPD", "MOVDQU", "MOVDQA")
# What moves less than 16 bytes, as (load, store) without the operands' order.
_NARROWER: Final = {
    "MOVQ": ("MOVQ_XMM_XMMM64", "MOVQ_XMMM64_XMM"),
    "MOVSD": ("MOVSD_XMM_XMMM64", "MOVSD_XMMM64_XMM"),
    "MOVSS": ("MOVSS_XMM_XMMM32", "MOVSS_XMMM32_XMM"),
    "MOVLPS": ("MOVLPS_XMM_M64", "MOVLPS_M64_XMM"),
    "MOVHPS": ("MOVHPS_XMM_M64", "MOVHPS_M64_XMM"),
}
_OPPOSITE: Final = {
    "MOV_R64_RM64": "MOV_RM64_R64", "MOV_R32_RM32": "MOV_RM32_R32",
    "PUSH_R64": "POP_R64", "PUSHFQ": "POPFQ",
} | {f"{move}_XMM_XMMM128": f"{move}_XMMM128_XMM" for move in _VECTOR_MOVES}  # fmt: skip
_OPPOSITES: Final = _OPPOSITE | {store: load for load, store in _OPPOSITE.items()}
_SMALLER: Final = {64: (32, 16, 8), 32: (16, 8), 16: (8,)}


@dataclass(frozen=True)
class Mutation:
    """One fault: what is done to the line `index`; `lines` replace those from it on, `width` many.

    `detail` says what it became, in Intel's syntax or in words.
    """

    kind: str
    index: int
    detail: str
    lines: tuple[Line, ...]
    width: int = 1

    def __call__(self, code: Sequence[Line]) -> list[Line]:
        """The code with the fault: what asm.rewrite takes as an edit."""
        places = {line.insn.ip for line in code}
        lines = [
            _linked(line, code[self.index + n].insn, places)
            for line, n in zip(self.lines, self._origins(), strict=True)
        ]
        changed = [*code[: self.index], *lines, *code[self.index + self.width :]]
        return _relabelled(changed, self._labels(code))

    def _origins(self) -> tuple[int, ...]:
        """Which of the instructions from `index` on each of `lines` was made from."""
        return (1, 0) if self.kind == "swapped" else (0,) * len(self.lines)

    def _labels(self, code: Sequence[Line]) -> dict[int, int]:
        """Where branches to the changed instructions lead now, by address."""
        if self.kind == "swapped":
            one, other = (line.insn.ip for line in self.lines)
            return {one: other, other: one}
        if self.kind == "dropped" and self.index + 1 < len(code):
            return {code[self.index].insn.ip: code[self.index + 1].insn.ip}
        return {}


def _linked(line: Line, origin: Any, places: set[int]) -> Line:
    """The line with what it refers to outside of the code as it was linked."""
    insn = line.insn.copy()
    target = insn.near_branch_target
    if target and target not in places:
        insn.near_branch64 = origin.near_branch_target
    if insn.is_ip_rel_memory_operand:
        insn.memory_displacement = origin.memory_displacement
    return replace(line, insn=insn)


def _relabelled(code: list[Line], labels: dict[int, int]) -> list[Line]:
    if not labels:
        return code
    out = []
    for line in code:
        target = labels.get(line.insn.near_branch_target)
        if target is not None and line.insn.near_branch_target:
            insn = line.insn.copy()
            insn.near_branch64 = target
            line = replace(line, insn=insn)  # noqa: PLW2901
        out.append(line)
    return out


def text(insn: Any) -> str:
    """An instruction in Intel's syntax."""
    module = iced()
    return str(module.Formatter(module.FormatterSyntax.INTEL).format(insn))


def mutations(code: Sequence[Line]) -> Iterator[Mutation]:
    """All single faults of some code, in the order of its instructions."""
    for index, line in enumerate(code):
        yield Mutation("dropped", index, "dropped", ())
        yield Mutation("doubled", index, "doubled", (line, line.again()))
        if index + 1 < len(code):
            following = code[index + 1]
            detail = f"swapped with {text(following.insn)}"
            yield Mutation("swapped", index, detail, (following, line), 2)
        for kind, insn in _changed(code, index):
            yield Mutation(kind, index, text(insn), (replace(line, insn=insn),))


def _changed(code: Sequence[Line], index: int) -> Iterator[tuple[str, Any]]:
    """(kind, instruction) in place of an instruction; only such as can be encoded."""
    insn = code[index].insn
    seen = {text(insn)}
    for kind, changed in (
        *(("offset", i) for i in _offsets(insn)),
        *(("amount", i) for i in _amounts(insn)),
        *(("register", i) for i in _registers(insn)),
        *(("width", i) for i in _widths(insn)),
        *(("direction", i) for i in _directions(insn)),
        *(("target", i) for i in _targets(code, index)),
    ):
        shown = text(changed)
        if shown not in seen and _encodes(changed):
            seen.add(shown)
            yield kind, changed


def _encodes(insn: Any) -> bool:
    try:
        iced().Encoder(64).encode(insn, insn.ip)
    except ValueError:
        return False
    return True


def _operands(insn: Any, kind: int) -> list[int]:
    return [n for n in range(insn.op_count) if insn.op_kind(n) == kind]


def _offsets(insn: Any) -> Iterator[Any]:
    if not _operands(insn, iced().OpKind.MEMORY) or insn.is_ip_rel_memory_operand:
        return
    for distance in DISTANCES:
        changed = insn.copy()
        displacement = (insn.memory_displacement + distance) % 2**64
        changed.memory_displacement = displacement
        small = displacement < 128 or displacement >= 2**64 - 128
        absolute = insn.memory_base == iced().Register.NONE
        changed.memory_displ_size = 1 if small and not absolute else 8
        yield changed


def _amounts(insn: Any) -> Iterator[Any]:
    module = iced()
    kinds = {
        module.OpKind.IMMEDIATE8TO64: (8, "IMM8", "IMM32"),
        module.OpKind.IMMEDIATE32TO64: (32, "IMM32", "IMM32"),
        module.OpKind.IMMEDIATE8TO32: (8, "IMM8", "IMM32"),
        module.OpKind.IMMEDIATE32: (32, "IMM32", "IMM32"),
        module.OpKind.IMMEDIATE64: (64, "IMM64", "IMM64"),
    }
    name = _names()[insn.code]
    for n in range(insn.op_count):
        if insn.op_kind(n) not in kinds:
            continue
        value = insn.immediate(n)
        value -= (value >> 63) << 64
        for distance in DISTANCES:
            wide = insn.copy()
            if insn.op_kind(n) == module.OpKind.IMMEDIATE8TO64:
                # The longer form holds any amount.
                wide.code = getattr(module.Code, name.replace("IMM8", "IMM32"))
                wide.set_op_kind(n, module.OpKind.IMMEDIATE32TO64)
            wide.set_immediate_i64(n, value + distance)
            yield wide
    operation, _, operands = name.partition("_")
    if operation in _SIGN and "IMM" in operands:
        other = insn.copy()
        other.code = getattr(module.Code, f"{_SIGN[operation]}_{operands}")
        yield other


def _registers(insn: Any) -> Iterator[Any]:
    for n in _operands(insn, iced().OpKind.REGISTER):
        for register in _neighbours(insn.op_register(n)):
            changed = insn.copy()
            changed.set_op_register(n, register)
            yield changed
    if _operands(insn, iced().OpKind.MEMORY) and not insn.is_ip_rel_memory_operand:
        for register in _neighbours(insn.memory_base):
            changed = insn.copy()
            changed.memory_base = register
            if not changed.memory_displ_size:
                changed.memory_displ_size = 1  # RBP and R13 as bases need one
            yield changed


def _neighbours(register: int) -> tuple[int, ...]:
    """The registers before and behind one of the same kind, in a circle of sixteen."""
    names = iced().Register
    for first in (names.RAX, names.EAX, names.AX, names.XMM0, names.YMM0, names.ZMM0):
        if first <= register < first + 16:
            number = register - first
            return first + (number + 1) % 16, first + (number - 1) % 16
    return ()


def _widths(insn: Any) -> Iterator[Any]:
    module = iced()
    name = _names()[insn.code]
    operation = name.partition("_")[0]
    if operation in _VECTOR_MOVES:
        store = name.endswith("128_XMM")
        if not _operands(insn, module.OpKind.MEMORY):
            return
        for load_name, store_name in _NARROWER.values():
            changed = insn.copy()
            changed.code = getattr(module.Code, store_name if store else load_name)
            yield changed
        return
    if operation in {"PUSHFQ", "POPFQ"}:
        changed = insn.copy()
        changed.code = getattr(module.Code, operation[:-1] + "W")
        yield changed
        return
    for wide, smaller in _SMALLER.items():
        if f"R{wide}" not in name and f"RM{wide}" not in name:
            continue
        for bits in smaller:
            smaller_name = name.replace(f"{wide}", f"{bits}")
            if bits == 16:
                smaller_name = smaller_name.replace("IMM32", "IMM16")
            narrow = getattr(module.Code, smaller_name, None)
            if narrow is not None:
                yield _narrowed(insn, narrow, wide, bits)
        return


def _narrowed(insn: Any, code: int, wide: int, bits: int) -> Any:
    """The instruction with its registers and constants of fewer bits."""
    module = iced()
    names, kinds = module.Register, module.OpKind
    first = {64: names.RAX, 32: names.EAX, 16: names.AX}
    changed = insn.copy()
    changed.code = code
    for n in _operands(insn, kinds.REGISTER):
        number = insn.op_register(n) - first[wide]
        if not 0 <= number < 16:
            continue
        low = (names.AL, names.CL, names.DL, names.BL, names.SPL, names.BPL, names.SIL, names.DIL)
        register = (
            (*low, *range(names.R8L, names.R8L + 8))[number] if bits == 8 else first[bits] + number
        )
        changed.set_op_register(n, register)
    shorter = {
        (kinds.IMMEDIATE8TO64, 32): kinds.IMMEDIATE8TO32,
        (kinds.IMMEDIATE8TO64, 16): kinds.IMMEDIATE8TO16,
        (kinds.IMMEDIATE32TO64, 32): kinds.IMMEDIATE32,
        (kinds.IMMEDIATE32TO64, 16): kinds.IMMEDIATE16,
    }
    for n in range(insn.op_count):
        kind = shorter.get((insn.op_kind(n), bits))
        if kind is not None:
            value = insn.immediate(n)
            changed.set_op_kind(n, kind)
            if kind == kinds.IMMEDIATE16:
                changed.immediate16 = value & 0xFFFF
            else:
                changed.set_immediate_i64(n, value - ((value >> 63) << 64))
    return changed


def _directions(insn: Any) -> Iterator[Any]:
    module = iced()
    opposite = _OPPOSITES.get(_names()[insn.code])
    if opposite is None:
        return
    memory = _operands(insn, module.OpKind.MEMORY)
    if insn.op_count == 2 and not memory:
        return  # between registers both forms say the same
    changed = insn.copy()
    changed.code = getattr(module.Code, opposite)
    if memory:
        register = insn.op_register(1 - memory[0])
        changed.set_op_kind(memory[0], module.OpKind.REGISTER)
        changed.set_op_register(memory[0], register)
        changed.set_op_kind(1 - memory[0], module.OpKind.MEMORY)
    yield changed


def _targets(code: Sequence[Line], index: int) -> Iterator[Any]:
    module = iced()
    insn = code[index].insn
    places = [line.insn.ip for line in code]
    if insn.near_branch_target in places:
        at = places.index(insn.near_branch_target)
        for other in (at + 1, at - 1):
            if 0 <= other < len(places):
                changed = insn.copy()
                changed.near_branch64 = places[other]
                yield changed
    if insn.code == module.Code.CALL_REL32_64:
        changed = insn.copy()
        changed.code = module.Code.JMP_REL32_64
        yield changed


@cache
def _names() -> dict[int, str]:
    """The names of iced-x86's codes, as MOV_R64_RM64."""
    codes = iced().Code
    return {value: name for name, value in vars(codes).items() if isinstance(value, int)}
