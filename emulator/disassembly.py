"""Machine code to text in Intel's syntax, by Capstone, which is loaded at the first use."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any


@dataclass(frozen=True, slots=True)
class Decoded:
    """One instruction: its address, size in bytes, whole text and mnemonic, in lower case."""

    address: int
    size: int
    text: str
    mnemonic: str


@cache
def _capstone() -> Any:
    import capstone  # noqa: PLC0415  # a tenth of a second, and most runs need none

    return capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)


def disassemble(data: bytes, address: int, count: int = 0) -> list[Decoded]:
    """The instructions of `data`, which lies at `address`; at most `count` unless that is 0.

    It ends where the bytes are no instruction that Capstone knows.
    """
    return [
        Decoded(start, size, f"{mnemonic} {operands}".rstrip(), mnemonic)
        for start, size, mnemonic, operands in _capstone().disasm_lite(data, address, count)
    ]
