"""Functions taken apart into decoded instructions, edited, and encoded again at their place.

What an edit adds, drops or changes moves what stands behind it: branches inside the image and
operands relative to RIP are fixed, as the assembler would have done it. Decoding and encoding are
iced-x86's (Intel's SDM, volume 2).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from asm.image import Image, Instruction, PcTable, PcValue

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from asm.image import Function, Position

# Behind the last function, as between functions: whoever runs on faults (cmd/link's INT3).
_PADDING: Final = b"\xcc" * 16


class CannotRewriteError(ValueError):
    """A function that cannot be taken apart, or an edit that has no encoding."""


@dataclass(frozen=True, slots=True)
class Line:
    """An instruction, decoded, and the source text and position that it came from."""

    insn: Any  # iced_x86.Instruction; its ip is where it was, 0 for one that an edit added
    source: str
    position: Position
    inserted: bool = False

    def again(self) -> Line:
        """The same instruction, to stand at another place: no branch leads to it."""
        insn = self.insn.copy()
        insn.ip = 0
        return dataclasses.replace(self, insn=insn)


@cache
def iced() -> Any:
    """The module iced_x86, which only those who take code apart need."""
    import iced_x86

    return iced_x86


def lines(function: Function) -> list[Line]:
    """The instructions of a function.

    Raises CannotRewriteError where bytes are no instruction.
    """
    data = b"".join(instruction.data for instruction in function.instructions)
    found = []
    for insn in iced().Decoder(64, data, ip=function.address):
        holder = function.instruction_holding(insn.ip)
        assert holder is not None
        if insn.is_invalid:
            raise CannotRewriteError(f"{holder.position}: no instruction begins at {insn.ip:#x}")
        found.append(Line(insn, holder.source, holder.position, holder.inserted))
    return found


def rewritten(image: Image, name: str, edit: Callable[[Sequence[Line]], Sequence[Line]]) -> Image:
    """The image with one function edited, and those behind it moved.

    The entry of a function is its first line. Raises CannotRewriteError.
    """
    parts: list[tuple[Function, list[Line]]] = []
    for function in image.functions:
        taken = lines(function)
        parts.append((function, list(edit(taken)) if function.name == name else taken))
    _refuse_pointers(image, name)
    start = image.functions[0].address
    code = _encoded([line.insn for _, part in parts for line in part], start)
    decoded = iter(iced().Decoder(64, code, ip=start))
    functions, at = [], start
    for function, part in parts:
        entry, instructions = at, []
        for line in part:
            size = next(decoded).len
            data = code[at - start : at - start + size]
            instructions.append(Instruction(at, data, line.source, line.position, line.inserted))
            at += size
        functions.append(
            dataclasses.replace(
                function, address=entry, end=at, instructions=tuple(instructions), pcdata={}
            )
        )
    if at - start != len(code):
        raise CannotRewriteError(f"{name}: a branch became more than one instruction")
    segments = tuple(
        dataclasses.replace(segment, data=code + _PADDING) if segment.executable else segment
        for segment in image.segments
    )
    return dataclasses.replace(image, functions=tuple(functions), segments=segments)


def _encoded(insns: list[Any], address: int) -> bytes:
    encoder = iced().BlockEncoder(64)
    encoder.add_many(insns)
    try:
        return bytes(encoder.encode(address))
    except ValueError as error:
        raise CannotRewriteError(str(error)) from None


def _refuse_pointers(image: Image, name: str) -> None:
    """Data that holds the address of a function that may move would be wrong."""
    edited = image.function(name)
    assert edited is not None
    moving = {f.address: f.name for f in image.functions if f.address > edited.address}
    for segment in image.segments:
        if segment.executable or not moving:
            continue
        for at in range(0, len(segment.data) - 7, 8):
            moved = moving.get(int.from_bytes(segment.data[at : at + 8], "little"))
            if moved is not None:
                raise CannotRewriteError(
                    f"data at {segment.address + at:#x} points to {moved}, behind {name}"
                )


def stack_use(function: Function) -> PcTable:
    """The largest distance of RSP below its value at entry, of code without frames.

    For text that no Go assembler followed; instructions are taken in the order in which they lie.
    """
    depth = deepest = 0
    module = iced()
    rsp = module.Register.RSP
    for line in lines(function):
        insn = line.insn
        if insn.mnemonic == module.Mnemonic.CALL:
            continue
        depth -= insn.stack_pointer_increment
        if insn.op0_register == rsp and insn.op_count == 2:
            constant = insn.op1_kind in _immediates(module)
            if insn.mnemonic == module.Mnemonic.LEA and insn.memory_base == rsp:
                depth -= _signed(insn.memory_displacement)
            elif insn.mnemonic == module.Mnemonic.SUB and constant:
                depth += _signed(insn.immediate(1))
            elif insn.mnemonic == module.Mnemonic.ADD and constant:
                depth -= _signed(insn.immediate(1))
            elif insn.mnemonic == module.Mnemonic.AND and constant:
                depth -= _signed(insn.immediate(1)) + _WORD  # RSP is a multiple of 8 before
        deepest = max(deepest, depth)
    return PcTable((PcValue(function.address, function.end, deepest),))


def _immediates(module: Any) -> tuple[int, ...]:
    kinds = module.OpKind
    return (kinds.IMMEDIATE8TO64, kinds.IMMEDIATE32TO64, kinds.IMMEDIATE8, kinds.IMMEDIATE32)


_WORD: Final = 8


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def merged(one: Image, other: Image) -> Image:
    """Two images that were linked against each other, as one."""
    return Image(
        tuple(sorted((*one.functions, *other.functions), key=lambda f: f.address)),
        (*one.data, *other.data),
        (*one.segments, *other.segments),
        one.lines | other.lines,
    )
