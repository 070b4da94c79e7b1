"""Register names of Go's assembler for amd64 (cmd/internal/obj/x86/list6.go, a.out.go)."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class RegClass(Enum):
    """What kind of register a name stands for."""

    GPR = "general"  # AX … R15: the instruction's name says the width
    BYTE = "byte"  # AL … R15B
    HIGH = "high byte"  # AH CH DH BH
    X87 = "x87"
    MMX = "MMX"
    XMM = "XMM"
    YMM = "YMM"
    ZMM = "ZMM"
    MASK = "mask"
    SEGMENT = "segment"
    CONTROL = "control"
    DEBUG = "debug"
    SYSTEM = "system"  # GDTR IDTR LDTR MSW TASK
    TLS = "TLS"
    PSEUDO = "pseudo"  # SB FP PC


class Register(NamedTuple):
    """A register: its class and its number in the machine's encoding."""

    name: str
    kind: RegClass
    number: int


_GPR = ("AX", "CX", "DX", "BX", "SP", "BP", "SI", "DI", *(f"R{n}" for n in range(8, 16)))
_BYTE = ("AL", "CL", "DL", "BL", "SPB", "BPB", "SIB", "DIB", *(f"R{n}B" for n in range(8, 16)))


def _table() -> dict[str, Register]:
    rows: list[tuple[RegClass, tuple[str, ...], int]] = [
        (RegClass.GPR, _GPR, 0),
        (RegClass.BYTE, _BYTE, 0),
        (RegClass.HIGH, ("AH", "CH", "DH", "BH"), 4),
        (RegClass.X87, tuple(f"F{n}" for n in range(8)), 0),
        (RegClass.MMX, tuple(f"M{n}" for n in range(8)), 0),
        (RegClass.XMM, tuple(f"X{n}" for n in range(32)), 0),
        (RegClass.YMM, tuple(f"Y{n}" for n in range(32)), 0),
        (RegClass.ZMM, tuple(f"Z{n}" for n in range(32)), 0),
        (RegClass.MASK, tuple(f"K{n}" for n in range(8)), 0),
        (RegClass.SEGMENT, ("ES", "CS", "SS", "DS", "FS", "GS"), 0),
        (RegClass.CONTROL, tuple(f"CR{n}" for n in range(16)), 0),
        (RegClass.DEBUG, tuple(f"DR{n}" for n in range(8)), 0),
        (RegClass.SYSTEM, ("GDTR", "IDTR", "LDTR", "MSW", "TASK"), 0),
        (RegClass.TLS, ("TLS",), 0),
        (RegClass.PSEUDO, ("SB", "FP", "PC"), 0),
    ]
    table = {
        name: Register(name, kind, first + number)
        for kind, names, first in rows
        for number, name in enumerate(names)
    }
    # The register of the current goroutine in ABIInternal has a second name.
    table["g"] = table["R14"]
    return table


REGISTERS = _table()

# Intel's names by number and width in bits.
INTEL_GPR: dict[int, tuple[str, ...]] = {
    64: ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{n}" for n in range(8, 16))),
    32: ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi", *(f"r{n}d" for n in range(8, 16))),
    16: ("ax", "cx", "dx", "bx", "sp", "bp", "si", "di", *(f"r{n}w" for n in range(8, 16))),
    8: ("al", "cl", "dl", "bl", "spl", "bpl", "sil", "dil", *(f"r{n}b" for n in range(8, 16))),
}
INTEL_HIGH = {4: "ah", 5: "ch", 6: "dh", 7: "bh"}
