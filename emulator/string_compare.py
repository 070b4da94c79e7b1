"""PCMPESTRI and PCMPESTRM: two strings of explicit length, compared element by element.

Unicorn sets other flags, and some lengths crash it. Specified in Intel's SDM volume 2, 4.1 (the
control byte, and what comparisons with elements behind a string's end give) and their own pages.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from emulator.operation import source_value, vector
from emulator.registers import ARITHMETIC_FLAGS, Flags

if TYPE_CHECKING:
    from emulator.memory import Memory
    from emulator.operation import Operation, Row, Store
    from emulator.registers import Registers

_WIDTH: Final = 16  # bytes of an operand
# The control byte.
_WORDS, _SIGNED, _NEGATIVE, _MASKED, _LAST_OR_EXPANDED = 1, 2, 1 << 4, 1 << 5, 1 << 6
_EQUAL_ANY, _RANGES, _EQUAL_EACH = 0, 1, 2  # bits 3:2; else "equal ordered"


def rows() -> dict[str, Row]:
    """By iced's mnemonic, as emulator.avx.rows; lengths are of 32 bits, or with REX.W of 64."""
    found: dict[str, Row] = {}
    for suffix, bits in (("", 32), ("64", 64)):
        found[f"PCMPESTRI{suffix}"] = (partial(_compare, bits, True), 1, False, 0)
        found[f"PCMPESTRM{suffix}"] = (partial(_compare, bits, False), 1, False, 0)
    return found


def _compare(
    bits: int, index: bool, operation: Operation, registers: Registers, memory: Memory
) -> list[Store]:
    control = operation.immediate
    size = 2 if control & _WORDS else 1
    count = _WIDTH // size
    wanted = _elements(vector(registers, operation.operands[0]), control)
    text = _elements(source_value(operation, registers, memory, 1), control)
    lengths = [_length(registers[name], bits) for name in ("RAX", "RDX")]
    del wanted[lengths[0] :], text[lengths[1] :]
    result = _aggregate(wanted, text, count, control >> 2 & 3)
    if control & _NEGATIVE:
        result ^= (1 << (len(text) if control & _MASKED else count)) - 1
    if index:
        registers["RCX"] = _bit_index(result, count, last=bool(control & _LAST_OR_EXPANDED))
    elif control & _LAST_OR_EXPANDED:
        ones = (1 << 8 * size) - 1
        registers["XMM0"] = sum(ones << 8 * size * i for i in range(count) if result >> i & 1)
    else:
        registers["XMM0"] = result
    registers["RFLAGS"] = (
        registers["RFLAGS"] & ~int(ARITHMETIC_FLAGS)
        | (Flags.CF if result else 0)
        | (Flags.ZF if lengths[1] < count else 0)
        | (Flags.SF if lengths[0] < count else 0)
        | (Flags.OF if result & 1 else 0)
    )
    return []


def _length(value: int, bits: int) -> int:
    """The absolute value of a length; whoever uses it cuts it to the number of elements."""
    value &= (1 << bits) - 1
    return min(value, (1 << bits) - value)


def _elements(value: int, control: int) -> list[int]:
    size = 2 if control & _WORDS else 1
    data = value.to_bytes(_WIDTH, "little")
    signed = bool(control & _SIGNED)
    return [
        int.from_bytes(data[at : at + size], "little", signed=signed)
        for at in range(0, _WIDTH, size)
    ]


def _aggregate(wanted: list[int], text: list[int], count: int, how: int) -> int:
    """A bit for each element of the text (IntRes1), valid elements only given."""
    if how == _EQUAL_ANY:
        held = [element in wanted for element in text]
    elif how == _RANGES:
        ranges = list(zip(wanted[::2], wanted[1::2], strict=False))
        held = [any(low <= element <= high for low, high in ranges) for element in text]
    elif how == _EQUAL_EACH:
        # Behind the end of both strings elements are equal, behind the end of one they are not.
        both, longer = min(len(wanted), len(text)), max(len(wanted), len(text))
        held = [wanted[i] == text[i] for i in range(both)]
        held += [i >= longer for i in range(both, count)]
    else:
        # A match may run over the last element of the register, though not over the text's end.
        held = [
            all(
                at + i < len(text) and text[at + i] == element
                for i, element in enumerate(wanted)
                if at + i < count
            )
            for at in range(count)
        ]
    return sum(1 << i for i, holds in enumerate(held) if holds)


def _bit_index(result: int, count: int, *, last: bool) -> int:
    if not result:
        return count
    return result.bit_length() - 1 if last else (result & -result).bit_length() - 1
