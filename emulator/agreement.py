"""What two processors need not agree on, by name, along the instructions that one thread executes.

A flag that the manual leaves undefined behind an instruction stays so until another one writes it
(SDM volume 1, appendix A; iced-x86 knows the table). The rest is what emulator.fence says that the
emulator does not model.
"""

from __future__ import annotations

from enum import Enum
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Final

from emulator.fence import opcode
from emulator.registers import Flags, Registers

if TYPE_CHECKING:
    from collections.abc import Iterable


class Known(Enum):
    """Why a register may differ; the value is how reports say it."""

    UNDEFINED = "RFLAGS: flags that the manual leaves undefined"
    ITERATING = "RFLAGS between iterations of REPE CMPS, REPNE SCAS and their like"
    MXCSR = "MXCSR: exception flags, which the emulator leaves as they were"
    FSW = "FSW: exception flags, busy and C1, which the emulator leaves as they were"
    CODES = "FSW: condition codes that the manual leaves undefined"


_MXCSR_FLAGS: Final = 0x3F
_FSW_FLAGS: Final = 0x82FF  # B, C1, ES, SF, PE to IE
_COMPARING_STRINGS: Final = frozenset(b"\xa6\xa7\xae\xaf")  # CMPS, SCAS
_REPEATS: Final = {0xF2, 0xF3}
_PUSHF, _POPF, _SHORT = 0x9C, 0x9D, 0x66
_FLAGS: Final = {"CF": Flags.CF, "PF": Flags.PF, "AF": Flags.AF, "ZF": Flags.ZF, "SF": Flags.SF,
                 "OF": Flags.OF}  # fmt: skip
_CODES: Final = {"C0": 1 << 8, "C2": 1 << 10, "C3": 1 << 14}  # of FSW


class _Iced:
    def __init__(self) -> None:
        import iced_x86  # only where engines are compared

        self.decoder = iced_x86.Decoder
        bits = iced_x86.RflagsBits
        self.flags = [(getattr(bits, name), int(flag)) for name, flag in _FLAGS.items()]
        self.codes = [(getattr(bits, name), code) for name, code in _CODES.items()]


@cache
def _iced() -> _Iced:
    return _Iced()


@lru_cache(maxsize=4096)
def _effects(code: bytes) -> tuple[int, int, int, int]:
    """RFLAGS and FSW bits that an instruction leaves undefined, and those that it defines."""
    iced = _iced()
    instruction: Any = iced.decoder(64, code).decode()
    undefined = instruction.rflags_undefined
    defined = instruction.rflags_modified & ~undefined

    def bits(table: list[tuple[int, int]], of: int) -> int:
        return sum(value for bit, value in table if of & bit)

    return (
        bits(iced.flags, undefined),
        bits(iced.flags, defined),
        bits(iced.codes, undefined),
        bits(iced.codes, defined),
    )


class Agreement:
    """Follows one thread. `met` are the reasons for which something was let differ so far.

    `saved` is shared by all threads: which flags that were stored in memory are undefined, by
    where PUSHF or a signal frame put them.
    """

    def __init__(self, saved: dict[int, int] | None = None) -> None:
        self.met: set[Known] = set()
        self._saved: dict[int, int] = {} if saved is None else saved
        self._flags = 0
        self._codes = 0
        self._iterating = False

    def executed(self, code: bytes, before: Registers, following: int) -> None:
        """An instruction, by its bytes, with the registers before it and the RIP behind it."""
        prefixes, _, index = opcode(code)
        compares = bool(prefixes & _REPEATS) and code[index] in _COMPARING_STRINGS
        self._iterating = compares and following == before["RIP"]
        if self._iterating:
            return
        if code[index] == _PUSHF:
            self.kept(before["RSP"] - (2 if _SHORT in prefixes else 8))
        elif code[index] == _POPF:
            self.taken(before["RSP"])
            return
        undefined, defined, lost, set_codes = _effects(code)
        self._flags = self._flags & ~defined | undefined
        self._codes = self._codes & ~set_codes | lost

    def kept(self, address: int) -> None:
        """The flags were stored at an address, or in a frame there."""
        self._saved[address] = self._flags

    def taken(self, address: int, *, more: bool = False) -> None:
        """They were loaded from there; `more`: computed from them and from what was there."""
        self._flags = self._saved.get(address, 0) | (self._flags if more else 0)

    def differing(self, one: Registers, other: Registers) -> list[str]:
        """Names of the registers that differ for none of the known reasons."""
        names = one.diff(other)
        return [name for name in names if not self._forgiven(name, one[name] ^ other[name])]

    def _forgiven(self, name: str, bits: int) -> bool:
        masks: Iterable[tuple[int, Known]] = ()
        if name == "RFLAGS":
            every = sum(_FLAGS.values()) if self._iterating else 0
            masks = ((self._flags, Known.UNDEFINED), (every, Known.ITERATING))
        elif name == "MXCSR":
            masks = ((_MXCSR_FLAGS, Known.MXCSR),)
        elif name == "FSW":
            masks = ((_FSW_FLAGS, Known.FSW), (self._codes, Known.CODES))
        reasons = set()
        for mask, reason in masks:
            if bits & mask:
                bits &= ~mask
                reasons.add(reason)
        if bits:
            return False
        self.met |= reasons
        return True
