"""What a byte of a register or of memory is, where no number is known: symbols.

A byte is a part of a value, and a value is a register at entry, a sum of one and a distance, or
whatever name somebody gives to what he does not follow. Equal symbols are equal bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Hashable

GENERAL: Final = (
    "RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI",
    "R8", "R9", "R10", "R11", "R12", "R13", "R14", "R15",
)  # fmt: skip
XMM: Final = tuple(f"XMM{n}" for n in range(16))
WIDTHS: Final = dict.fromkeys(GENERAL, 8) | dict.fromkeys(XMM, 16) | {"RFLAGS": 8, "MXCSR": 4}


class UnknownError(Exception):
    """What symbols cannot follow; the message says what and why."""


class Sum(NamedTuple):
    """An eight-byte value: an origin and a distance from it, modulo 2**64."""

    origin: Hashable
    distance: int


class Byte(NamedTuple):
    """Byte number `place` of a value, from the lowest."""

    value: Hashable
    place: int


Bytes = tuple[Byte, ...]


def sum_of(data: Bytes) -> Sum:
    """Eight bytes as a sum: the one that they are the bytes of, or one whose origin they are."""
    first = data[0].value
    if isinstance(first, Sum) and all(b == Byte(first, n) for n, b in enumerate(data)):
        return first
    return Sum(data, 0)


def bytes_of(value: Sum) -> Bytes:
    """The bytes of a sum."""
    if (
        value.distance == 0
        and isinstance(value.origin, tuple)
        and value.origin
        and isinstance(value.origin[0], Byte)
    ):
        return value.origin
    return tuple(Byte(value, n) for n in range(8))


def constant(value: int, size: int) -> Bytes:
    """The bytes of a number."""
    data = (value % 2 ** (8 * size)).to_bytes(size, "little")
    return tuple(Byte(("constant", byte), 0) for byte in data)
