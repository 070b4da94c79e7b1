"""Instructions that Unicorn 2.1.4 executes in another way than a processor in user mode.

VEX forms lose their prefix and run as something else (KMOVQ as SETcc, VZEROUPPER as EMMS), XOP
forms run as POP; IN and OUT do nothing where they must fault; SYSENTER does nothing; INT1 ends the
run; RDRAND and RDSEED give random numbers. EVEX forms are invalid to it, as is what else it does
not know.
Encodings: Intel's SDM volume 2, chapter 2 and appendix A; AMD's manual volume 3 for XOP.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from emulator.disassembly import disassemble
from emulator.hooks import Mark

_LEGACY_PREFIXES: Final = frozenset(b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3")
_REPEAT_PREFIXES: Final = frozenset(b"\xf2\xf3")
_STRING: Final = frozenset(b"\xa4\xa5\xa6\xa7\xaa\xab\xac\xad\xae\xaf")
_PORT: Final = frozenset(b"\x6c\x6d\x6e\x6f\xe4\xe5\xe6\xe7\xec\xed\xee\xef")
_VEX: Final = frozenset(b"\xc4\xc5")
_EVEX: Final = 0x62
MAX_LENGTH: Final = 15  # SDM volume 2, 2.3.11

# First bytes, behind a REX prefix if there is one, that alone say that all is well.
_HARMLESS: Final = (
    frozenset(range(256))
    - _LEGACY_PREFIXES
    - _PORT
    - _VEX
    - frozenset(range(0x40, 0x50))
    - {_EVEX, 0x0F, 0x8F, 0xF1}
)
_EXAMINED: Final = int(Mark.EXAMINED)


class Special(Enum):
    """What the bytes of an instruction are, as far as the fence cares."""

    PLAIN = "plain"
    REPEAT = "repeat"  # a string instruction with REP, REPE or REPNE
    RANDOM = "random"  # RDRAND, RDSEED
    PORT = "port"  # IN, OUT, INS, OUTS: privileged while IOPL is 0
    FOREIGN = "foreign"  # not to be executed: named by `name`


@dataclass(frozen=True, slots=True)
class Random:
    """A RDRAND or RDSEED: destination register 0-15 (RAX, RCX, …, R15), its bits, its length."""

    register: int
    bits: int
    size: int


def _opcode(code: bytes) -> tuple[set[int], int, int]:
    """Legacy prefixes, REX (0 if none) and where the opcode starts."""
    prefixes = set()
    index = 0
    while index < len(code) and code[index] in _LEGACY_PREFIXES:
        prefixes.add(code[index])
        index += 1
    rex = 0
    while index < len(code) and code[index] & 0xF0 == 0x40:
        rex = code[index]
        index += 1
        if index < len(code) and code[index] in _LEGACY_PREFIXES:
            # A REX that a legacy prefix follows is ignored.
            more, rex, length = _opcode(code[index:])
            return prefixes | more, rex, index + length
    return prefixes, rex, index


def classify(code: bytes) -> Special:
    """What the instruction at the start of `code` is."""
    prefixes, _, index = _opcode(code)
    opcode, operand, modrm = code[index : index + 3].ljust(3, b"\0")
    if opcode in _VEX or opcode == _EVEX:
        return Special.FOREIGN
    if opcode == 0x8F and operand & 0x38:
        return Special.FOREIGN
    if opcode in _PORT:
        return Special.PORT
    if opcode in _STRING and prefixes & _REPEAT_PREFIXES:
        # With 32-bit addresses ECX counts; nothing uses it.
        return Special.FOREIGN if 0x67 in prefixes else Special.REPEAT
    if opcode == 0xF1 or (opcode == 0x0F and operand == 0x34):
        return Special.FOREIGN
    if opcode == 0x0F and operand == 0xC7 and modrm >= 0xF0:
        return Special.FOREIGN if prefixes & _REPEAT_PREFIXES else Special.RANDOM
    return Special.PLAIN


def marks(code: bytes) -> int:
    """The marks of an instruction that was examined."""
    first = code[0]
    if (code[1] if first & 0xF0 == 0x40 else first) in _HARMLESS:
        return _EXAMINED
    special = classify(code)
    if special is Special.PLAIN:
        return _EXAMINED
    return _EXAMINED | (Mark.REPEAT if special is Special.REPEAT else Mark.FENCE)


def is_undefined(code: bytes) -> bool:
    """Whether it is UD0, UD1 or UD2, which are there to be invalid."""
    _, _, index = _opcode(code)
    return code[index : index + 2] in (b"\x0f\x0b", b"\x0f\xb9", b"\x0f\xff")


def random(code: bytes) -> Random:
    """The operands of a RDRAND or RDSEED."""
    prefixes, rex, index = _opcode(code)
    register = code[index + 2] & 7 | (rex & 1) << 3
    bits = 64 if rex & 8 else 16 if 0x66 in prefixes else 32
    return Random(register, bits, index + 3)


def name(code: bytes, address: int) -> str:
    """The text of the instruction at the start of `code`, or its bytes where it has none."""
    decoded = disassemble(code, address, 1)
    if decoded:
        return decoded[0].text
    return "bytes " + code.hex(" ")
