"""The states of emulator.extended along a recording, small: each as what differs from the last.

A difference is mostly zeros and is kept compressed; every so many of them a state stands whole.
"""

from __future__ import annotations

import bisect
import zlib
from typing import Final

from emulator import extended

WHOLE_EVERY: Final = 64
_LEVEL: Final = 1  # zlib's fastest


class ExtendedHistory:
    """Which state holds from which number on; numbers never fall."""

    def __init__(self) -> None:
        self._numbers: list[int] = []
        self._changes: list[bytes] = []
        self._last = extended.INITIAL
        self._known = (-1, extended.INITIAL)  # the entry that was read last, and its state

    def add(self, number: int, state: bytes) -> None:
        """From `number` on it is `state`."""
        if state == self._last:
            return
        whole = len(self._changes) % WHOLE_EVERY == 0
        base = extended.INITIAL if whole else self._last
        self._numbers.append(number)
        self._changes.append(zlib.compress(_xor(state, base), _LEVEL))
        self._last = state

    def at(self, number: int) -> bytes:
        """The state that holds at a number."""
        index = bisect.bisect_right(self._numbers, number) - 1
        if index < 0:
            return extended.INITIAL
        known, state = self._known
        first = index - index % WHOLE_EVERY
        if not first <= known <= index:
            known, state = first - 1, extended.INITIAL
        for change in self._changes[known + 1 : index + 1]:
            state = extended.normal(_xor(zlib.decompress(change), state))
        self._known = (index, state)
        return state

    def changes(self, last: int) -> list[int]:
        """The numbers up to `last` from which on another state holds, rising."""
        return self._numbers[: bisect.bisect_right(self._numbers, last)]

    def size(self) -> int:
        """Bytes that the states take."""
        return sum(map(len, self._changes))


def _xor(one: bytes, other: bytes) -> bytes:
    a, b = (int.from_bytes(extended.whole(each), "little") for each in (one, other))
    return (a ^ b).to_bytes(extended.SIZE, "little")
