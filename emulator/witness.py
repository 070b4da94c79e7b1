"""Which address a faulting instruction accessed.

In virtual TLB mode Unicorn tells the page only. A second engine in plain mode, where a hook is
told the address, executes the one instruction again from the same state: it does what the first
did, up to the same access. Used only when something has faulted.
"""

from __future__ import annotations

import ctypes
from ctypes import CFUNCTYPE, c_bool, c_int, c_int64, c_uint64, c_void_p
from typing import TYPE_CHECKING

from emulator.unicorn_raw import CTL_TB_REMOVE_CACHE, CTL_TLB_FLUSH, HOOK_MEM_INVALID, Engine

if TYPE_CHECKING:
    from collections.abc import Iterable

    from emulator.memory import Region
    from emulator.register_batch import RegisterBatch

LONGEST = 15  # bytes of an instruction (SDM volume 2, 2.3.11)

_MEMORY_HOOK = CFUNCTYPE(c_bool, c_void_p, c_int, c_uint64, c_int, c_int64, c_void_p)


class Witness:
    """An engine that sees the same memory. `protections` are Unicorn's, which are mmap's bits."""

    def __init__(self, regions: Iterable[tuple[Region, int]]) -> None:
        self._address: int | None = None
        self._callback = _MEMORY_HOOK(self._on_invalid)
        self._engine = Engine()
        for region, protection in regions:
            self._engine.map(region.start, region.view, protection)
        address = ctypes.cast(self._callback, c_void_p).value or 0
        self._engine.hook(HOOK_MEM_INVALID, address, 0)

    def _on_invalid(
        self, _engine: int, _kind: int, address: int, _size: int, _value: int, _data: int
    ) -> bool:
        if self._address is None:
            self._address = address
        return False

    def address(self, rip: int, registers: RegisterBatch) -> int | None:
        """The first address that the instruction at `rip` may not access."""
        self._address = None
        # What the TLB holds is accessed without the hook.
        self._engine.control(CTL_TLB_FLUSH)
        # The code may have changed since it faulted here before.
        self._engine.control(CTL_TB_REMOVE_CACHE, c_uint64(rip), c_uint64(rip + LONGEST))
        registers.write(self._engine.handle)
        self._engine.start(rip, count=1)
        return self._address
