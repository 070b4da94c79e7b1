"""PC-value tables: a value for each PC of a function (runtime/symtab.go's step and pcvalue).

A table is a run of pairs of uvarints, (zigzag delta of the value, delta of the PC), behind which
stands a delta of 0. The value begins at -1. No compiler writes an empty run, so that the first
zero byte behind the first delta is a sound table's end; such a table is taken apart by C code of
Python's library, every other one step by step, as the runtime does it.
"""

from __future__ import annotations

import bisect
import itertools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_TABLE: Final = re.compile(rb".[^\0]*\0", re.DOTALL)
_UVARINT: Final = re.compile(rb"[\x80-\xff]*[\x00-\x7f]")
_LONGEST: Final = 5  # bytes of a uvarint of 32 bits
_INT32: Final = 1 << 31


class PcValueError(ValueError):
    """A table that cannot be right."""


@dataclass(frozen=True, slots=True)
class PcValues:
    """A decoded PC-value table: value i holds up to `ends[i]`, counted from the function's entry.

    It begins at the entry and no run is empty; behind the last end it says nothing.
    """

    ends: Sequence[int]
    values: Sequence[int]

    def at(self, offset: int) -> int | None:
        """The index of the run that holds the offset, or None behind the last one."""
        index = bisect.bisect_right(self.ends, offset)
        return index if index < len(self.ends) else None


class _Uvarints(dict[bytes, int]):
    """Numbers by their bytes; those of one or two are remembered."""

    def __missing__(self, data: bytes) -> int:
        if len(data) > _LONGEST:
            raise PcValueError("a number of more than five bytes in a PC-value table")
        value = sum((byte & 0x7F) << 7 * place for place, byte in enumerate(data)) & 0xFFFF_FFFF
        if len(data) <= 2:
            self[data] = value
        return value


_NUMBERS: Final = _Uvarints()
_SIGNED: Final = [-(delta >> 1) - 1 if delta & 1 else delta >> 1 for delta in range(128)]


def decode(view: memoryview, at: int, size: int) -> PcValues:
    """The table that begins at `at`, of a function of `size` bytes. PcValueError."""
    found = _TABLE.match(view, at, at + 2 * _LONGEST * size + 2)
    if found is not None:
        table = found.group()[:-1]
        numbers: Sequence[int] = table
        if not table.isascii():
            numbers = list(map(_NUMBERS.__getitem__, _UVARINT.findall(table)))
        deltas, steps = numbers[::2], numbers[1::2]
        if len(deltas) == len(steps) and table[-1] < 0x80 and 0 not in steps:
            if max(deltas) < 128:
                values = itertools.accumulate(map(_SIGNED.__getitem__, deltas), initial=-1)
            else:
                signed = (-(delta >> 1) - 1 if delta & 1 else delta >> 1 for delta in deltas)
                values = itertools.accumulate(signed, initial=-1)
            runs = PcValues(list(itertools.accumulate(steps)), list(values)[1:])
            if runs.ends[-1] <= size and -_INT32 <= min(runs.values) <= max(runs.values) < _INT32:
                return runs
    return _walk(view, at, size)


def _walk(view: memoryview, at: int, size: int) -> PcValues:
    """runtime.step, to the end."""
    start = at
    ends: list[int] = []
    values: list[int] = []
    value = -1
    pc = 0
    try:
        while True:
            delta = view[at]
            if delta == 0 and pc != 0:
                break
            delta, at = _uvarint(view, at)
            value += -(delta >> 1) - 1 if delta & 1 else delta >> 1
            step, at = _uvarint(view, at)
            pc += step
            if pc > size or (step == 0 and at - start > 4 * size + 64):
                raise PcValueError(f"a PC-value table goes past its function's {size}")
            if step:  # what is empty holds at no PC
                ends.append(pc)
                values.append((value + _INT32) % (1 << 32) - _INT32)
    except IndexError:
        raise PcValueError("a PC-value table has no end") from None
    return PcValues(ends, values)


def _uvarint(view: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 7 * _LONGEST, 7):
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF, at
    raise PcValueError("a number of more than five bytes in a PC-value table")
