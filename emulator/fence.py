"""Instructions that Unicorn 2.1.4 executes in another way than a processor in user mode.

VEX forms lose their prefix and run as something else (KMOVQ as SETcc, VZEROUPPER as EMMS), EVEX
forms are invalid to it: emulator.avx does those that preemption code needs, the others are refused.
XOP forms run as POP; IN and OUT do nothing where they must fault; SYSENTER does nothing; INT1 ends
the run; RDRAND and RDSEED give random numbers. What stepping it beside a real processor has shown:

- 128-bit memory operands of SSE instructions may lie anywhere: emulator.checks looks first;
- MMX instructions leave the exponents of the x87 registers alone, EMMS leaves TOP;
- CMPXCHG of 32 bits clears the upper half of RAX, or of the destination, where it writes neither:
  in memory, that half is put back;
- RCPPS, RSQRTPS and their scalar forms give other digits, DPPS and DPPD round otherwise; PHADDW and
  its kin mix their operands; PCMPESTRI and PCMPESTRM set other flags, or crash:
  emulator.string_compare does them;
- far transfers and segment loads read descriptor tables that are not there;
- SSE exceptions are not raised, denormals neither flushed nor taken for zero everywhere: MXCSR
  must mask all exceptions and leave FZ and DAZ alone (emulator.checks);
- x87: see emulator.x87.

Not modelled, as no state but their own depends on them: the exception flags of MXCSR (bits 0-5)
and of the x87 status word (IE to SF, and C1), which stay as they were loaded. Between iterations
of REPE CMPS and REPNE SCAS the flags are the last iteration's, while a processor may still show
those from before the instruction. Where both operands of an SSE instruction are NaNs, the result
may be the other one's.
Encodings: Intel's SDM volume 2, chapter 2 and appendix A; AMD's manual volume 3 for XOP.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from emulator import x87
from emulator.disassembly import disassemble
from emulator.hooks import Mark

_LEGACY_PREFIXES: Final = frozenset(b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3")
_REPEAT_PREFIXES: Final = frozenset(b"\xf2\xf3")
_STRING: Final = frozenset(b"\xa4\xa5\xa6\xa7\xaa\xab\xac\xad\xae\xaf")
_PORT: Final = frozenset(b"\x6c\x6d\x6e\x6f\xe4\xe5\xe6\xe7\xec\xed\xee\xef")
_VEX: Final = frozenset(b"\xc4\xc5")
_EVEX: Final = 0x62
_INTERRUPT: Final = frozenset(b"\xcc\xcd\xce\xf4")
# INT1, far returns, loads of segment registers.
_REFUSED: Final = frozenset(b"\xf1\xca\xcb\xcf\x8e")
MAX_LENGTH: Final = 15  # SDM volume 2, 2.3.11

# First bytes, behind a REX prefix if there is one, that alone say that all is well.
_HARMLESS: Final = (
    frozenset(range(256))
    - _LEGACY_PREFIXES
    - _PORT
    - _VEX
    - _INTERRUPT
    - _REFUSED
    - x87.OPCODES
    - frozenset(range(0x40, 0x50))
    - {_EVEX, 0x0F, 0x8F, 0xC8, 0xFF}
)
_EXAMINED: Final = int(Mark.EXAMINED)


def _bytes(text: str) -> frozenset[int]:
    """Opcodes, or ranges of them: "10 20-2f"."""
    found: set[int] = set()
    for word in text.split():
        first, _, last = word.partition("-")
        found.update(range(int(first, 16), int(last or first, 16) + 1))
    return frozenset(found)


# Behind 0F, by mandatory prefix (0 for none).
_REFUSED_0F: Final = {
    0: _bytes("02 03 0e 0f 34 35 a1 a9 b2 b4 b5 52 53 2a 2c 2d 60-77 7e 7f c4 c5 d1-d5 d7-e5 "
              "e7-ef f1-ff"),
    0x66: _bytes("02 03 34 35 a1 a9 b2 b4 b5 2a 2c 2d"),
    0xF3: _bytes("02 03 34 35 a1 a9 b2 b4 b5 52 53 d6"),
    0xF2: _bytes("02 03 34 35 a1 a9 b2 b4 b5 d6"),
}  # fmt: skip
# With a 128-bit memory operand that must be aligned (SDM volume 2, 2.4: types 1, 2 and 4).
_ALIGNED_0F: Final = {
    0: _bytes("14 15 28 29 2b 51 54-59 5b-5f c2 c6"),
    0x66: _bytes("14 15 28 29 2b 51 54-6d 6f 70 74-76 7c 7d 7f c2 c6 d0-d5 d8-ef f1-f6 f8-fe"),
    0xF3: _bytes("12 16 5b 70"),
    0xF2: _bytes("70 7c 7d d0 e6"),
}
_ALIGNED_0F38: Final = _bytes("00-0b 10 14 15 17 1c-1e 28-2b 37-41 db-df")
_ALIGNED_0F3A: Final = _bytes("08 09 0c-0f 42 44 df")
_REFUSED_0F38: Final = _bytes("01-03 05-07")  # PHADDx, PHSUBx
_REFUSED_0F3A: Final = _bytes("40 41")  # DPPS, DPPD
_COMPUTED_0F3A: Final = _bytes("60 61")  # PCMPESTRM, PCMPESTRI


class Special(Enum):
    """What the bytes of an instruction are, as far as the fence cares."""

    PLAIN = "plain"
    REPEAT = "repeat"  # a string instruction with REP, REPE or REPNE
    ALONE = "alone"  # asks for the count, or ends in an exception behind it
    RANDOM = "random"  # RDRAND, RDSEED
    XGETBV = "xgetbv"
    CPUID = "cpuid"  # tells of more than is executed
    PORT = "port"  # IN, OUT, INS, OUTS: privileged while IOPL is 0
    ALIGNED = "aligned"  # with a memory operand that must be aligned to 16 bytes
    MXCSR = "mxcsr"  # loads MXCSR
    X87 = "x87"
    CMPXCHG = "cmpxchg"  # of 32 bits, in memory
    COMPUTED = "computed"  # done by emulator.computed; VEX and EVEX: or not to be executed
    FOREIGN = "foreign"  # not to be executed: named by `name`


_FENCED: Final = frozenset(set(Special) - {Special.PLAIN, Special.REPEAT, Special.ALONE})


@dataclass(frozen=True, slots=True)
class Random:
    """A RDRAND or RDSEED: destination register 0-15 (RAX, RCX, …, R15), its bits, its length."""

    register: int
    bits: int
    size: int


def opcode(code: bytes) -> tuple[set[int], int, int]:
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
            more, rex, length = opcode(code[index:])
            return prefixes | more, rex, index + length
    return prefixes, rex, index


def classify(code: bytes) -> Special:
    """What the instruction at the start of `code` is."""
    prefixes, rex, index = opcode(code)
    first, second, third, fourth = code[index : index + 4].ljust(4, b"\0")
    if first == 0x0F and second == 0xB1 and third < 0xC0:
        narrow = not rex & 8 and 0x66 not in prefixes
        return Special.CMPXCHG if narrow else Special.PLAIN
    if first == 0x0F:
        return _classify_0f(prefixes, second, third, fourth)
    if first in _VEX or first == _EVEX:
        return Special.COMPUTED
    if first in _REFUSED:
        return Special.FOREIGN
    if first == 0x8F and second & 0x38:
        return Special.FOREIGN  # XOP
    if first == 0xC8 and fourth & 31:
        return Special.FOREIGN  # ENTER with nested frames
    if first == 0xFF and second & 0x38 in (0x18, 0x28):
        return Special.FOREIGN  # far CALL and JMP
    if first in x87.OPCODES:
        return Special.X87
    if first in _PORT:
        return Special.PORT
    if first in _INTERRUPT:
        return Special.ALONE
    if first in _STRING and prefixes & _REPEAT_PREFIXES:
        # With 32-bit addresses ECX counts; nothing uses it.
        return Special.FOREIGN if 0x67 in prefixes else Special.REPEAT
    return Special.PLAIN


def _classify_0f(prefixes: set[int], second: int, third: int, fourth: int) -> Special:
    mandatory = 0xF3 if 0xF3 in prefixes else 0xF2 if 0xF2 in prefixes else 0
    mandatory = mandatory or (0x66 if 0x66 in prefixes else 0)
    in_memory = third < 0xC0
    digit = third >> 3 & 7
    if second in (0x38, 0x3A):
        return _classify_0f38(second, mandatory, third, fourth < 0xC0)
    if second == 0x00:
        return Special.PLAIN if digit in (2, 3) else Special.FOREIGN  # LLDT, LTR fault
    if second == 0x01:
        if third == 0xF9:
            return Special.ALONE  # RDTSCP
        if third == 0xD0 and not prefixes & _REPEAT_PREFIXES:
            return Special.XGETBV
        if in_memory:
            return Special.PLAIN if digit in (2, 3, 6, 7) else Special.FOREIGN
        return Special.PLAIN if third == 0xF8 or digit == 6 else Special.FOREIGN
    if second == 0x31:
        return Special.ALONE  # RDTSC
    if second == 0xA2:
        return Special.CPUID
    if second == 0xC7:
        if not in_memory and digit in (6, 7):
            return Special.FOREIGN if prefixes & _REPEAT_PREFIXES else Special.RANDOM
        return Special.PLAIN if digit == 1 else Special.FOREIGN
    if second == 0xAE and in_memory:
        if digit in (4, 5) or (digit == 6 and not mandatory):
            return Special.FOREIGN  # XSAVE, XRSTOR, XSAVEOPT
        return Special.MXCSR if digit in (1, 2) else Special.PLAIN
    if second == 0xB1:
        return Special.FOREIGN  # CMPXCHG r32, r32
    if second in _REFUSED_0F[mandatory]:
        return Special.FOREIGN
    if in_memory and second in _ALIGNED_0F[mandatory]:
        return Special.ALIGNED
    return Special.PLAIN


def _classify_0f38(escape: int, mandatory: int, code: int, in_memory: bool) -> Special:
    if mandatory != 0x66:
        # MOVBE and CRC32; else MMX forms.
        return Special.PLAIN if escape == 0x38 and code in (0xF0, 0xF1) else Special.FOREIGN
    refused, aligned = (
        (_REFUSED_0F38, _ALIGNED_0F38) if escape == 0x38 else (_REFUSED_0F3A, _ALIGNED_0F3A)
    )
    if code in refused:
        return Special.FOREIGN
    if escape == 0x3A and code in _COMPUTED_0F3A:
        return Special.COMPUTED
    return Special.ALIGNED if in_memory and code in aligned else Special.PLAIN


def marks(code: bytes) -> int:
    """The marks of an instruction that was examined."""
    first = code[0]
    if (code[1] if first & 0xF0 == 0x40 else first) in _HARMLESS:
        return _EXAMINED
    special = classify(code)
    if special in _FENCED:
        return int(_EXAMINED | Mark.FENCE)
    if special is Special.REPEAT:
        return int(_EXAMINED | Mark.REPEAT)
    return int(_EXAMINED | Mark.ALONE) if special is Special.ALONE else _EXAMINED


def is_guarded(code: bytes) -> bool:
    """Whether a look at RAX says if it may be executed: see GUARD_TEXT of emulator.hooks."""
    return classify(code) is Special.CMPXCHG


def is_undefined(code: bytes) -> bool:
    """Whether it is UD0, UD1 or UD2, which are there to be invalid."""
    _, _, index = opcode(code)
    return code[index : index + 2] in (b"\x0f\x0b", b"\x0f\xb9", b"\x0f\xff")


def random(code: bytes) -> Random:
    """The operands of a RDRAND or RDSEED."""
    prefixes, rex, index = opcode(code)
    register = code[index + 2] & 7 | (rex & 1) << 3
    bits = 64 if rex & 8 else 16 if 0x66 in prefixes else 32
    return Random(register, bits, index + 3)


def name(code: bytes, address: int) -> str:
    """The text of the instruction at the start of `code`, or its bytes where it has none."""
    decoded = disassemble(code, address, 1)
    if decoded:
        return decoded[0].text
    return "bytes " + code.hex(" ")
