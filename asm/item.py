"""What a statement is to the machine: code, a branch, raw bytes, an alignment."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from asm.intel import Insn
    from asm.machine import Encoded
    from asm.operand import Operand, Prog


class Reference(NamedTuple):
    """A symbol that a field of the code refers to."""

    name: str
    static: bool
    offset: int
    operand: Operand


class Code(NamedTuple):
    """An instruction of known bytes but for a field relative to the next instruction."""

    insn: Insn
    reference: Reference | None = None
    encoded: Encoded | None = None  # where the choice of form has encoded it already
    again: Insn | None = None  # what it is from the second pass over the function on


class Branch(NamedTuple):
    """A jump within the function, or JMP and CALL of a symbol."""

    mnemonic: str
    target: Prog | None = None
    reference: Reference | None = None


class Bytes(NamedTuple):
    """What BYTE and its kin say, or a prefix."""

    data: bytes
    prefix: bool = False


class Align(NamedTuple):
    """PCALIGN."""

    alignment: int


Item = Code | Branch | Bytes | Align


class Translates(Protocol):
    """What the layout asks: the machine's view of a statement, or None where it gives no bytes."""

    def translate(self, prog: Prog, /) -> Item | None:
        """Translates one statement; a Fault says what is wrong with it."""
