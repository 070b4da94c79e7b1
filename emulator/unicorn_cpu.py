"""The processor on Unicorn that programs run on: exact as emulator.counting_cpu, at full speed.

Where the host allows hooks in machine code, a second engine in the same memory has a hook before
each block instead of each instruction. It subtracts the block's instructions from those that are
left (emulator.hooks) and stops before a block that would overshoot, that holds something special,
or that was not seen yet; single instructions take over from there. What a block does besides
running to its end, a fault that is, is undone in the count and done again by single instructions,
which know how to tell it: state and memory are those of the boundary before it.

A block is known once the counting engine has met each of its instructions, so instruction lengths
are Unicorn's own, and all instructions have passed the fence.

Rejected: `count=` of uc_emu_start, which counts each instruction in any case; patching translated
code; undoing a whole block, which needs its stores.
"""

from __future__ import annotations

import ctypes
import mmap
from ctypes import c_uint64
from functools import partial
from typing import TYPE_CHECKING, Final

from emulator.counting_cpu import CountingCpu
from emulator.cpu import Stop, StopReason
from emulator.fault import Fault, FaultKind
from emulator.hooks import (
    ARMED,
    BLOCK_ENTRIES,
    BLOCK_ENTRY,
    DISARMED,
    LENGTH,
    Field,
    Reason,
    host_address,
)
from emulator.memory import PRIVATE
from emulator.unicorn_raw import (
    CTL_TB_REMOVE_CACHE,
    HOOK_BLOCK,
    HOOK_CODE,
    MEM_FETCH,
    Engine,
    Error,
    Register,
    UnicornError,
)
from emulator.unicorn_stops import DEBUG
from emulator.user_mode import enter_user_mode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from emulator.memory import Memory

BLOCKS_FROM: Final = 1500  # shorter runs are faster without changing engines
FIRST_CHUNK: Final = 64  # instructions executed singly where a block cannot be
LAST_CHUNK: Final = 4096
PATIENCE: Final = 20_000_000  # instructions between two chances for Python to see a Ctrl-C

_NOWHERE: Final = 2**64 - 1


class UnicornCpu(CountingCpu):
    """One processor, an `emulator.cpu.Cpu`; see `CountingCpu` for its attributes.

    `counting` is "block", "machine-code" (each instruction), or "python" where the host forbids
    machine code; the constructor may ask for one. The results are the same.
    """

    def __init__(self, memory: Memory, *, counting: str | None = None, seed: int = 0) -> None:
        self._fast: Engine | None = None
        self._guards: set[int] = set()  # addresses that GUARD_TEXT watches
        super().__init__(memory, counting=counting, seed=seed)
        self._chunks = (FIRST_CHUNK, LAST_CHUNK)
        if self.counting == "machine-code" and counting != "machine-code":
            self.counting = "block"
            self._marks.guard = self._guard
            self._unwatched = self._blocks_from = BLOCKS_FROM
        self.name = f"unicorn, {self.counting} counting"

    def load_code(self, instructions: Iterable[tuple[int, bytes]]) -> None:
        """See `emulator.cpu.Cpu.load_code`; lengths must come from Unicorn, so not with blocks."""
        if self.counting != "block":
            super().load_code(instructions)

    def _open_fast(self) -> Engine:
        table = memoryview(mmap.mmap(-1, BLOCK_ENTRIES * BLOCK_ENTRY, flags=PRIVATE))
        self._kept.append(table)
        place = self._words[Field.TABLE] = host_address(table)
        self._marks.changed = partial(ctypes.memset, place, 0, len(table))
        fast = Engine()
        enter_user_mode(fast)
        self._hook(fast)
        fast.hook(HOOK_BLOCK, self._addresses["BLOCK"], self.control.address)
        for address, function, data in self._calls:
            fast.hook(HOOK_CODE, function, data, at=address)
        for address in self._guards:
            fast.hook(HOOK_CODE, self._addresses["GUARD"], self.control.address, at=address)
        self._tables.add_engine(fast)
        self._tables.tell()
        self._enter(fast)
        fast.keep_context()
        return fast

    def _guard(self, address: int) -> None:
        """Has GUARD_TEXT look before the instruction at `address` whether it may be executed."""
        if address in self._guards:
            return
        self._guards.add(address)
        if self._fast is not None:
            data = self.control.address
            self._fast.hook(HOOK_CODE, self._addresses["GUARD"], data, at=address)
            self._fast.control(CTL_TB_REMOVE_CACHE, c_uint64(address), c_uint64(address + 1))

    def _run_otherwise(self, count: int, armed: bool) -> Stop:
        if self._recorder is not None or self._data is not None:
            return super()._run_otherwise(count, armed)
        fast = self._fast
        if fast is None:
            fast = self._fast = self._open_fast()
        words = self._words
        words[Field.MASK] = ARMED if armed else DISARMED
        first, last = self._chunks
        chunk = first
        left = count
        while True:
            words[Field.LEFT] = given = min(left, PATIENCE)
            words[Field.REASON] = words[Field.BLOCK] = 0
            if self._live != fast.handle:
                self._enter(fast)
            error = fast.start(self._rip)
            words[Field.LEFT] += left - given
            stop = self._ended(fast, error, count)
            if stop is not None:
                return stop
            done = left - words[Field.LEFT]
            left -= done
            if left == 0:
                return Stop(StopReason.COUNT, count)
            # Code that is new, or cannot run in blocks, comes in stretches.
            chunk = first if done > 4 * chunk else min(2 * chunk, last)
            stop = self._run_singly(count - left, min(chunk, left))
            if stop is not None:
                return stop
            left = count - self._asked
            if left == 0:
                return Stop(StopReason.COUNT, count)

    def _ended(self, fast: Engine, error: int, count: int) -> Stop | None:
        """What ended a run of blocks; None if it ended on a boundary to go on from singly."""
        words = self._words
        reason = words[Field.REASON]
        if reason == Reason.BLOCK and not error:
            self._rip = words[Field.RIP]
            return None
        self._rip = fast.read(Register.RIP)
        if reason == Reason.GUARD:
            self._undo()
            return None
        if reason == Reason.SYSCALL:
            return Stop(StopReason.SYSCALL, count - words[Field.LEFT])
        if reason == Reason.INTERRUPT:
            # Unicorn never ends an exception: the next one would be a double fault to it.
            self._batch.read(fast.handle)
            fast.restore_context()
            self._live = 0
            if words[Field.NUMBER] == DEBUG:
                fault = Fault(FaultKind.EXCEPTION, self._rip, None, "single-step trap")
                return Stop(StopReason.FAULT, count - words[Field.LEFT], fault)
            self._undo()
        elif error == Error.INSN_INVALID or (
            error == Error.EXCEPTION and words[Field.ACCESS] != MEM_FETCH
        ):
            self._undo()
        elif error not in (Error.OK, Error.EXCEPTION):
            raise UnicornError(f"Unicorn ended a run of blocks at {self._rip:#x}, error {error}")
        return None

    def _undo(self) -> None:
        """Takes what the last block has not executed, from RIP on, back out of the count."""
        place = self._words[Field.BLOCK]
        if not place:
            return
        start, size, count = (c_uint64 * 3).from_address(place)
        assert start <= self._rip < start + size, "a fault away from its block"
        found = self._marks.find(start)
        assert found is not None
        lengths = found[0].lengths
        offset = found[1]
        end = offset + self._rip - start
        executed = 0
        while offset < end:
            offset += lengths[offset] & LENGTH
            executed += 1
        assert offset == end, "a fault away from a boundary"
        self._words[Field.LEFT] += count - executed
