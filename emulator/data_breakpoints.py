"""Data breakpoints of a Unicorn engine: which instruction has accessed which of them.

Unicorn calls a hook before each access in a range, in the middle of an instruction. The run is then
cut, so that this instruction is its last one: what is reported is the boundary behind it, as the
processor reports it (SDM volume 3, 17.3.1.2).
"""

from __future__ import annotations

import ctypes
from ctypes import CFUNCTYPE, c_int, c_int64, c_uint64, c_void_p
from typing import TYPE_CHECKING, Final

from emulator.cpu import Access, DataBreakpoint, Stop, StopReason
from emulator.unicorn_raw import CTL_TB_FLUSH, HOOK_MEM_READ, HOOK_MEM_WRITE, MEM_WRITE, Engine

if TYPE_CHECKING:
    from collections.abc import Callable

_LONGEST: Final = 64  # bytes of one access: it may begin before the range

_MEMORY_HOOK = CFUNCTYPE(None, c_void_p, c_int, c_uint64, c_int, c_int64, c_void_p)


class DataBreakpoints:
    """Those of one engine, from now until `close`. `cut` ends the run behind the instruction."""

    def __init__(
        self, engine: Engine, breakpoints: tuple[DataBreakpoint, ...], cut: Callable[[], None]
    ) -> None:
        self.access: Access | None = None  # in the current run
        self._engine = engine
        self._breakpoints = breakpoints
        self._cut = cut
        self._callback = _MEMORY_HOOK(self._on_access)
        callback = ctypes.cast(self._callback, c_void_p).value or 0
        self._hooks = [
            engine.hook(
                kind, callback, 0, at=max(each.start - _LONGEST, 0), last=each.start + each.size - 1
            )
            for each in breakpoints
            for kind, wanted in ((HOOK_MEM_READ, each.read), (HOOK_MEM_WRITE, each.write))
            if wanted
        ]
        engine.control(CTL_TB_FLUSH)  # code translated without hooks calls none

    def close(self) -> None:
        """Takes the hooks back."""
        for number in self._hooks:
            self._engine.unhook(number)

    def accessed(self, address: int, size: int, *, write: bool) -> None:
        """The instruction that is being executed accesses these bytes."""
        for each in self._breakpoints:
            wanted = each.write if write else each.read
            overlaps = address < each.start + each.size and each.start < address + size
            if wanted and overlaps and self.access is None:
                self.access = Access(each, max(address, each.start))
                self._cut()

    def stop(self, stop: Stop | None, executed: int) -> Stop | None:
        """How a run ends that would otherwise end with `stop`, None for its count.

        An instruction that faults has not been executed, whatever it accessed before.
        """
        access, self.access = self.access, None
        if access is not None and (stop is None or stop.reason is StopReason.COUNT):
            return Stop(StopReason.DATA, executed, access=access)
        return None if stop is not None and stop.reason is StopReason.COUNT else stop

    def _on_access(
        self, _engine: int, kind: int, address: int, size: int, _value: int, _data: int
    ) -> None:
        self.accessed(address, size, write=kind == MEM_WRITE)
