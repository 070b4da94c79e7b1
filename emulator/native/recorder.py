"""Records boundaries as frames on the real processor, without a stop at each.

A fenced child has the memory of a machine, and a copy of its program's code that records
(emulator.native.code_copy). Where the guest needs somebody else the child stops right before, as it
does at what faults, and the machine goes on from there by itself.
"""

from __future__ import annotations

import signal
import struct
from typing import TYPE_CHECKING, Final

from emulator.hooks import host_address
from emulator.memory import PAGE, Memory, Prot
from emulator.native.code_copy import ProbedCopy
from emulator.native.fenced_child import FencedChild
from emulator.native.probe import (
    BLOCK,
    CODE,
    CODE_SIZE,
    CONTROL,
    LEFT,
    MAP,
    RECORD,
    START,
    STOP,
)
from emulator.registers import SIZE, Flags

if TYPE_CHECKING:
    from collections.abc import Iterable

    from emulator.frame_recorder import FrameRecorder
    from emulator.registers import Registers

_SECONDS: Final = 60


class NativeRecorder:
    """Runs a program's code in the memory of a machine, for a FrameRecorder of it.

    `instructions` are the program's, (address, bytes) each, below 2 GiB. Raises
    NativeUnavailableError.
    """

    def __init__(
        self, memory: Memory, recorder: FrameRecorder, instructions: Iterable[tuple[int, bytes]]
    ) -> None:
        self._recorder = recorder
        self._copy = copy = ProbedCopy(instructions)
        start, size = recorder.code
        table = bytearray(8 * size)
        for pc, place in copy.places.items():
            if 0 <= pc - start < size:
                struct.pack_into("<Q", table, 8 * (pc - start), place)
        self._theirs, self._regions = memory, list(memory.regions)
        self.memory = shared = Memory()
        for region in memory.regions:
            if not region.private and region.name != "gates":
                shared.share(region)
        code = bytes(copy.made).ljust(-(-len(copy.made) // PAGE) * PAGE, b"\xcc")
        shared.map("copy", CODE, len(code), Prot.RX).view[:] = code
        room = -(-len(table) // PAGE) * PAGE
        rows = shared.map("copy's table", CODE + len(code), room, Prot.READ)
        rows.view[: len(table)] = table
        page = shared.map("control", CONTROL, PAGE, Prot.RW)
        self._words = page.view.cast("Q")
        self._block = page.view[BLOCK - CONTROL : BLOCK - CONTROL + SIZE]
        for host in recorder.hosts():
            shared.adopt("record", host_address(memoryview(host)), host, Prot.RW)
        words = self._words
        words[START], words[CODE_SIZE], words[MAP] = start, size, rows.start
        words[RECORD] = host_address(recorder.words.cast("B"))
        self._child = FencedChild(shared)

    def _has_the_memory(self) -> bool:
        """Whether what is mapped is still what the child has."""
        now, then = self._theirs.regions, self._regions
        return len(now) == len(then) and all(
            one is other for one, other in zip(now, then, strict=True)
        )

    def run(self, registers: Registers, count: int) -> int:
        """Executes up to `count` instructions, whose boundaries are recorded; returns how many.

        Fewer: somebody else must execute the next one. `registers` are then those before it.
        """
        place = self._copy.places.get(registers["RIP"])
        if place is None or registers.extended or not self._has_the_memory():
            return 0
        recorder = self._recorder
        before = recorder.index
        self._block[:] = registers.block
        self._words[LEFT] = count
        entry = registers.copy()
        entry["RIP"] = place
        self._child.load(entry)
        halt = self._child.resume(_SECONDS)
        rip = self._child.rip()
        if halt.signo == signal.SIGTRAP and rip == CODE + STOP + 1:
            registers.block[:] = self._block
        else:
            self._child.save(registers)  # the instruction that was recorded last did not end
            registers["RIP"] = self._copy.pc(rip)
            registers["RFLAGS"] &= ~Flags.RF  # which a fault sets in what it stores
            recorder.drop_at(registers["RIP"])
        return recorder.index - before
