"""Operands and statements of Go's assembler as parsed (cmd/internal/obj/link.go: Addr, Prog)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asm.image import TextFlag
    from asm.registers import RegClass, Register
    from asm.source import Span


class Kind(Enum):
    """How an operand is addressed (obj.AddrType)."""

    REG = auto()
    CONST = auto()  # $1
    FLOAT = auto()  # $1.0
    STRING = auto()  # $"text"
    MEM = auto()  # off(R)(I*s), sym+off(SB)
    ADDR = auto()  # $sym+off(SB), $off(R)
    BRANCH = auto()  # label, n(PC)
    INDIRECT = auto()  # *sym(SB)
    REGLIST = auto()  # [Z0-Z3]


class Name(Enum):
    """Which pseudo register an offset counts from (obj.AddrName)."""

    NONE = auto()
    EXTERN = auto()  # sym(SB)
    STATIC = auto()  # sym<>(SB)
    AUTO = auto()  # x-8(SP)
    PARAM = auto()  # x+8(FP)


@dataclass(slots=True, eq=False, repr=False)
class Operand:
    """One operand. `symbol` is the linker name, `label` a jump target within the function."""

    kind: Kind
    span: Span
    reg: Register | None = None  # the register, or the base of an address
    index: Register | None = None
    scale: int = 0
    offset: int = 0
    name: Name = Name.NONE
    symbol: str = ""
    abi: str = "ABI0"
    label: str = ""
    value: float | bytes = 0.0
    last: Register | None = None  # of a register list


@dataclass(slots=True, eq=False, repr=False)
class Prog:
    """One statement of a function, or an instruction that the frame inserted (obj.Prog).

    `number` counts statements from 1 for TEXT, as `JMP 2(PC)` counts them.
    """

    op: str
    operands: list[Operand]
    span: Span
    source: str
    suffixes: tuple[str, ...] = ()
    number: int = 0
    inserted: bool = False
    spadj: int = 0
    target: Prog | None = None
    label_target: str = ""


@dataclass(slots=True, eq=False, repr=False)
class Text:
    """A TEXT directive and the statements that follow it."""

    name: str
    static: bool
    abi: str
    flags: TextFlag
    frame: int
    args: int | None
    span: Span
    source: str
    progs: list[Prog] = field(default_factory=list)
    labels: dict[str, Prog] = field(default_factory=dict)
    end: Prog | None = None  # what a label after the last statement stands for


@dataclass(slots=True, eq=False, repr=False)
class Globl:
    """A GLOBL directive."""

    name: str
    static: bool
    flags: TextFlag
    size: int
    span: Span


@dataclass(slots=True, eq=False, repr=False)
class Data:
    """A DATA directive: `width` bytes at `offset` of a symbol."""

    name: str
    static: bool
    offset: int
    width: int
    value: Operand
    span: Span


@dataclass(slots=True, eq=False, repr=False)
class Unit:
    """What one file says."""

    texts: list[Text] = field(default_factory=list)
    globls: list[Globl] = field(default_factory=list)
    data: list[Data] = field(default_factory=list)


def is_register(operand: Operand, *kinds: RegClass) -> bool:
    """Whether the operand is a register of one of these kinds."""
    return operand.kind is Kind.REG and operand.reg is not None and operand.reg.kind in kinds
