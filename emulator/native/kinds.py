"""Which instructions the real processor does not simply execute, told by their opcodes.

The opcodes are those of the SDM, volume 2, appendix A; emulator.native.cpu says what is done.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from emulator import fence


class Kind(Enum):
    """How an instruction is executed."""

    PLAIN = "plain"
    SYSCALL = "syscall"
    PUSHF = "pushf"
    POPF = "popf"
    TIME = "time"  # RDTSC
    TIME_AND_PROCESSOR = "time and processor"  # RDTSCP
    RANDOM = "random"  # RDRAND, RDSEED
    BREAKPOINT = "breakpoint"
    REFUSED = "refused"


_INTERRUPTS: Final = {0x03: Kind.BREAKPOINT, 0x80: Kind.REFUSED}
_BY_OPCODE: Final = {
    0x8E: Kind.REFUSED,  # MOV to a segment register
    0x9C: Kind.PUSHF, 0x9D: Kind.POPF,
    0xCA: Kind.REFUSED, 0xCB: Kind.REFUSED, 0xCF: Kind.REFUSED,  # far RET, IRET
    0xCC: Kind.BREAKPOINT,
    0xF1: Kind.REFUSED,  # INT1
}  # fmt: skip
_BY_OPCODE_0F: Final = {
    0x02: Kind.REFUSED, 0x03: Kind.REFUSED,  # LAR, LSL
    0x05: Kind.SYSCALL,
    0x31: Kind.TIME,
    0x34: Kind.REFUSED,  # SYSENTER
    0xB2: Kind.REFUSED, 0xB4: Kind.REFUSED, 0xB5: Kind.REFUSED,  # LSS, LFS, LGS
    0xA1: Kind.REFUSED, 0xA9: Kind.REFUSED,  # POP FS, POP GS
}  # fmt: skip


def classify(code: bytes) -> Kind:
    """How the instruction that `code` starts with is executed."""
    prefixes, _, index = fence.opcode(code)
    first, second, third = code[index : index + 3].ljust(3, b"\0")
    digit = second >> 3 & 7
    if first == 0xCD:
        return _INTERRUPTS.get(second, Kind.PLAIN)
    if first == 0xFF:
        return Kind.REFUSED if digit in (3, 5) else Kind.PLAIN  # far CALL and JMP
    if first != 0x0F:
        return _BY_OPCODE.get(first, Kind.PLAIN)
    digit, in_memory = third >> 3 & 7, third < 0xC0
    if second == 0x00:
        return Kind.REFUSED if digit in (0, 1, 4, 5) else Kind.PLAIN  # SLDT, STR, VERR, VERW
    if second == 0x01:
        if third == 0xF9:
            return Kind.TIME_AND_PROCESSOR
        tells = digit == 4 or (in_memory and digit < 2)  # SMSW, SGDT, SIDT
        return Kind.REFUSED if tells or third == 0xEF else Kind.PLAIN  # WRPKRU
    if second == 0xC7 and not in_memory:
        if digit == 7 and 0xF3 in prefixes:
            return Kind.REFUSED  # RDPID
        return Kind.RANDOM if digit in (6, 7) else Kind.PLAIN
    return _BY_OPCODE_0F.get(second, Kind.PLAIN)
