"""The text listing of an image: address, bytes, source."""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from asm.image import Function, Image, Instruction, Relocation

_BYTES = 10  # of an instruction on one line; most have fewer


def listing(image: Image) -> str:
    """All functions, then the data symbols, as `pushcall asm` prints them."""
    lines: list[str] = []
    for function in image.functions:
        lines += [*function_lines(function, image.undefined), ""]
    for symbol in image.data:
        lines.append(f"{symbol.address:#010x}  {symbol.name}  {symbol.size} bytes")
        lines += _left_open(image.undefined, symbol.address, symbol.address + symbol.size)
    return "\n".join(lines).rstrip("\n") + "\n"


def function_lines(function: Function, undefined: Sequence[Relocation] = ()) -> Iterator[str]:
    """One function: its name and size, and a line for each instruction.

    What the assembler inserted has a plus sign before its source; what no preemption may
    interrupt an exclamation mark. Below an instruction stands what a linker has to fill in.
    """
    yield f"{function.name}  {function.abi}  {function.size} bytes  {function.position}"
    table = function.pcdata.get(0)
    for instruction in function.instructions:
        unsafe = table is not None and table.at(instruction.address) is not None
        yield from _instruction_lines(instruction, unsafe=unsafe)
        yield from _left_open(undefined, instruction.address, instruction.end)


def _left_open(undefined: Sequence[Relocation], start: int, end: int) -> Iterator[str]:
    first = bisect.bisect_left(undefined, start, key=lambda r: r.address)
    last = bisect.bisect_left(undefined, end, key=lambda r: r.address)
    for relocation in undefined[first:last]:
        yield f"{relocation.address:#010x}  {'':{3 * _BYTES}}   {relocation}"


def _instruction_lines(instruction: Instruction, *, unsafe: bool) -> Iterator[str]:
    marks = ("!" if unsafe else " ") + ("+" if instruction.inserted else " ")
    data = instruction.data
    first = data[:_BYTES].hex(" ")
    yield f"{instruction.address:#010x}  {first:<{3 * _BYTES}}{marks} {instruction.source}"
    for at in range(_BYTES, len(data), _BYTES):
        yield f"{instruction.address + at:#010x}  {data[at : at + _BYTES].hex(' ')}"
