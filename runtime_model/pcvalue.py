"""A decoded PC-value table (runtime/symtab.go's pcvalue)."""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


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
