"""A whole run of a machine, recorded: instructions, threads, events and memory at every step.

Steps are numbered from 0 in the order of execution, over all threads; an event belongs to the step
before which it came. The run itself is as without the log.

Where only some threads are followed, the others' instructions are no steps. What they change in
memory is found by comparison when a followed one goes on, and then counts as written by nobody's
instruction, between two steps.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import TYPE_CHECKING

from emulator.counting_cpu import CountingCpu
from emulator.events import Unrecorded
from emulator.history import History, Mapped, Overwritten
from emulator.memory import PAGE, Prot
from emulator.native.cpu import NativeCpu
from emulator.recording import Recorder

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

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
    """Records a machine from `start` to `stop`; what it has may be asked for after that.

    elsewhere: which events are kept of threads that are not followed.
    """

    history: History
    _stops: list[int]
    events: list[Marked]

    def __init__(
        self,
        machine: Machine,
        progress: Callable[[int], None] = lambda _: None,
        *,
        elsewhere: Callable[[Event], bool] = lambda _: True,
    ) -> None:
        if not isinstance(machine.cpu, CountingCpu | NativeCpu):
            raise TypeError(f"{machine.cpu.name} cannot be recorded")
        self._machine = machine
        self._elsewhere = elsewhere
        self._followed: Collection[int] | None = None
        self._paused: dict[int, bytes] | None = None  # memory as it was, by address
        self._paused_at = 0  # instructions of all threads
        self._back: int | None = None  # events before a followed thread's first one since then
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
        machine.live.log = self
        machine.events.subscribe(self._listen)
        self._recorder.start()

    @property
    def position(self) -> int:
        """How many instructions were recorded so far, those that faulted included."""
        return self._recorder.position

    def follow(self, tids: Collection[int] | None) -> None:
        """From now on only these threads' instructions are steps; None: all threads'.

        Not while an instruction is executed.
        """
        self._followed = tids
        running = self._machine.scheduler.current
        if running is not None:
            self.entered(running)

    def _pause(self) -> None:
        self._recorder.stop()
        self._paused_at, self._back = self._machine.instructions, None
        self._paused = {
            region.start: bytes(region.view)
            for region in self._machine.memory.regions
            if region.prot & Prot.WRITE
        }

    def _resume(self) -> None:
        paused, self._paused = self._paused, None
        assert paused is not None
        for start, before in paused.items():
            for part in self._machine.memory.overlapping(start, len(before)):
                old = memoryview(before)[part.start - start : part.end - start]
                for at in range(0, len(old), PAGE):
                    page = old[at : at + PAGE]
                    if page != part.view[at : at + PAGE]:
                        self.overwritten(part.start + at, bytes(page))
        self._recorder.start()
        count = self._machine.instructions - self._paused_at
        if count:
            running = self._machine.scheduler.current
            tid = -1 if running is None else running.tid
            self._machine.events.emit(Unrecorded(tid=tid, instructions=count))
            if self._back is not None:  # what a followed thread has done since then comes behind
                self._events.insert(self._back, self._events.pop())

    def stop(self) -> None:
        """Ends the recording, and makes the run's past accessible."""
        machine = self._machine
        if self._paused is not None:
            self._resume()
        self._recorder.stop()
        machine.memory.journal = machine.live.log = None
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
        if self._paused is not None or (self.position, address) == self._recorder.noted:
            return
        self._writes.append(Overwritten(self._recorder.position, address, before))

    def mapped(self, region: Region) -> None:
        """The process has another region."""
        self._maps.append(Mapped(self._recorder.position, region.start, region.end, True))

    def unmapping(self, region: Region) -> None:
        """The process loses memory."""
        paused = self._paused
        if paused is None:
            self.overwritten(region.start, bytes(region.view))
        else:
            self._paused = None  # what was there before the pause
            for start, before in paused.items():
                low, high = max(start, region.start), min(start + len(before), region.end)
                if low < high:
                    self.overwritten(low, before[low - start : high - start])
            self._paused = paused
        self._maps.append(Mapped(self._recorder.position, region.start, region.end, False))

    # emulator.observer.ThreadLog

    def entered(self, thread: Thread) -> None:
        """The thread's instructions follow."""
        followed = self._followed is None or thread.tid in self._followed
        if not followed:
            if self._paused is None:
                self._pause()
            return
        if self._paused is not None:
            self._resume()
        self._switches[self._recorder.position] = thread.tid

    def left(self, registers: Registers) -> None:
        """The registers behind the last instruction."""
        if self._paused is not None:
            return
        place = self._recorder.position
        if place not in self._behind:
            self._behind[place] = registers.copy()

    def _listen(self, event: Event) -> None:
        followed = self._followed is None or event.tid in self._followed
        if not followed and not self._elsewhere(event):
            return
        if followed and self._paused is not None and self._back is None:
            self._back = len(self._events)
        self._events.append((self._recorder.position, event))
