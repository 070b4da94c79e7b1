"""A whole run of a machine, recorded: instructions, threads, events and memory at every step.

Steps are numbered from 0 in the order of execution, over all threads; an event belongs to the step
before which it came. The run itself is as without the log.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import TYPE_CHECKING

from emulator.counting_cpu import CountingCpu
from emulator.history import History, Mapped, Overwritten
from emulator.native_cpu import NativeCpu
from emulator.recording import Recorder

if TYPE_CHECKING:
    from collections.abc import Callable

    from emulator.events import Event
    from emulator.linux.threads import Thread
    from emulator.machine import Machine
    from emulator.memory import Region
    from emulator.registers import Registers


@dataclass(frozen=True, slots=True)
class Marked:
    """An event and the step before which it came."""

    step: int
    event: Event


class RunLog:
    """Records a machine from `start` to `stop`; what it has may be asked for after that."""

    history: History
    _stops: list[int]
    events: list[Marked]

    def __init__(self, machine: Machine, progress: Callable[[int], None] = lambda _: None) -> None:
        if not isinstance(machine.cpu, CountingCpu | NativeCpu):
            raise TypeError(f"{machine.cpu.name} cannot be recorded")
        self._machine = machine
        self._recorder = Recorder(machine.cpu, progress=progress)
        self.recording = self._recorder.recording
        self._writes: list[Overwritten] = []
        self._maps: list[Mapped] = []
        self._events: list[tuple[int, Event]] = []
        self._switches: dict[int, int] = {}  # place -> tid
        self._behind: dict[int, Registers] = {}  # place -> registers behind the record before it

    def start(self) -> None:
        """Begins; the machine is at its first instruction or anywhere behind."""
        machine = self._machine
        machine.memory.journal = self
        machine.log = self
        machine.events.subscribe(self._listen)
        self._recorder.start()

    def stop(self) -> None:
        """Ends the recording, and makes the run's past accessible."""
        machine = self._machine
        self._recorder.stop()
        machine.memory.journal = machine.log = None
        machine.events.listeners.remove(self._listen)
        threads = self.threads()
        if threads:  # the last one's, with what was done behind its last instruction
            self.recording.end = machine.registers(machine.threads[threads[-1][1]]).copy()
        steps = self.recording.steps
        self.events = [Marked(steps(place), event) for place, event in self._events]
        self._stops = sorted({steps(place) for place in self._behind})
        self.history = History(machine.memory, self.recording, self._writes, self._maps)

    def threads(self) -> list[tuple[int, int]]:
        """(first step, tid) of each stretch that one thread executes, rising."""
        found: list[tuple[int, int]] = []
        for place, tid in sorted(self._switches.items()):
            step = self.recording.steps(place)
            if found and found[-1][0] == step:
                found.pop()
            if step < len(self.recording) and (not found or found[-1][1] != tid):
                found.append((step, tid))
        return found

    def behind(self, step: int) -> Registers:
        """The registers behind an instruction, before the kernel or anybody else changes them."""
        first, last = self.recording.records(step) + 1, self.recording.records(step + 1)
        for place in range(first, last + 1):  # more than one where instructions faulted
            registers = self._behind.get(place)
            if registers is not None:
                return registers.copy()
        return self.recording.registers(step + 1)

    def interrupted(self, first: int, last: int) -> list[int]:
        """The steps in `(first, last]` before which something else than instructions ran."""
        low = bisect.bisect_right(self._stops, first)
        return self._stops[low : bisect.bisect_right(self._stops, last)]

    # emulator.memory.Journal

    def overwritten(self, address: int, before: bytes) -> None:
        """Python is about to write; an instruction's store that it makes is in the recording."""
        if (self._recorder.position, address) == self._recorder.noted:
            return
        self._writes.append(Overwritten(self._recorder.position, address, before))

    def mapped(self, region: Region) -> None:
        """The process has another region."""
        self._maps.append(Mapped(self._recorder.position, region.start, region.end, True))

    def unmapping(self, region: Region) -> None:
        """The process loses memory."""
        self.overwritten(region.start, bytes(region.view))
        self._maps.append(Mapped(self._recorder.position, region.start, region.end, False))

    # emulator.observer.ThreadLog

    def entered(self, thread: Thread) -> None:
        """The thread's instructions follow."""
        self._switches[self._recorder.position] = thread.tid

    def left(self, registers: Registers) -> None:
        """The registers behind the last instruction."""
        place = self._recorder.position
        if place not in self._behind:
            self._behind[place] = registers.copy()

    def _listen(self, event: Event) -> None:
        self._events.append((self._recorder.position, event))
