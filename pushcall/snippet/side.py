"""One of the two runtimes of a check, stopped between any two instructions of the snippet."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from runtime_model.boot import GOROUTINE_STACK, boot
from runtime_model.events import GoroutineExited

if TYPE_CHECKING:
    from collections.abc import Callable

    from asm.image import Code
    from emulator.events import Event
    from emulator.linux.process import RandomState
    from emulator.linux.threads import Thread
    from emulator.registers import Registers
    from emulator.snapshot import Snapshot
    from runtime_model.boot import Config
    from runtime_model.runtime import Runtime
    from runtime_model.runtime2 import G


@dataclass(frozen=True)
class Start:
    """A runtime at the first boundary of its goroutine: what other ones can begin with.

    They have the same configuration but for the trampoline, which nothing has run by then.
    """

    user: Code
    snapshot: Snapshot
    tid: int
    sysmon_m: int


class Side:
    """A booted runtime with one goroutine, stopped between two of its instructions."""

    def __init__(self, config: Config, like: Side | Start | None = None) -> None:
        config = replace(config, stack_size=GOROUTINE_STACK, max_stack=GOROUTINE_STACK)
        if isinstance(like, Start):
            self.rt: Runtime = boot(config, user=like.user)
        else:
            self.rt = boot(config, like.rt.text, like.rt.user) if like else boot(config)
        self.machine = self.rt.machine
        self._call = config.call
        self.thread: Thread | None = None  # the one that runs the goroutine
        self.exited: Registers | None = None
        self._first: Start | None = None
        self.on_left: Callable[[], None] = lambda: None
        self._target: int | None = 0
        self.g: G = self.rt.g(self.rt.goroutines[0])
        self.stack_lo, self.stack_hi = self.g.stack_lo, self.g.stack_hi  # it never grows
        self._stack = self.rt.memory.view(self.stack_lo, self.stack_hi - self.stack_lo)
        self.machine.timer = self
        self.rt.watch.on_left = self._left
        self.machine.events.subscribe(self._listen)
        self.regions = [
            (segment.address, len(segment.data))
            for segment in self.rt.user.segments
            if segment.writable and segment.data
        ]

    def begin(self, start: Start | None = None) -> bool:
        """Comes to the first boundary, or takes that of another; False if there is none."""
        self._random = self.machine.cpu.random.getstate()
        if start is None:
            alive = self.advance(0)
            if alive and self._call is not None:
                for name, value in self._call.registers:
                    self.registers[name] = value
            self._first = self.start() if alive else None
            return alive
        self._first = start
        self.machine.restore(start.snapshot)
        self.rt.sysmon_m = start.sysmon_m
        self.thread = self.machine.threads[start.tid]
        self._target = None
        return True

    def start(self) -> Start:
        """The first boundary, where it is now, for others to begin with."""
        assert self.thread is not None
        return Start(self.rt.user, self.machine.snapshot(), self.thread.tid, self.rt.sysmon_m)

    def due(self, thread: Thread) -> int | None:  # noqa: ARG002  # there is one goroutine
        """The machine's timer: stops at the target count."""
        return None if self._target is None else self._target - self.machine.user_instructions

    def fire(self, thread: Thread) -> None:
        """Stops the machine at this boundary."""
        self.thread = thread
        self._target = None
        self.machine.stop()

    def advance(self, instructions: int) -> bool:
        """Runs that many more instructions of the snippet; False when the program has ended."""
        self._target = self.machine.user_instructions + instructions
        if instructions == 1 and self.machine.step():
            self._target = None
            return True
        return self.machine.run() is None

    def skip(self, instructions: int) -> None:
        """Takes note that somebody else has executed so many, which `registers` show."""
        assert self.thread is not None
        self.machine.account(self.thread, instructions)

    @property
    def at(self) -> int:
        """The number of the boundary where it is."""
        return self.machine.user_instructions

    def code(self) -> tuple[int, int]:
        """The range of the snippet's code: address and size."""
        parts = [s for s in self.rt.user.segments if s.executable and s.data]
        start = min(part.address for part in parts)
        return start, max(part.address + len(part.data) for part in parts) - start

    def seek(self, index: int) -> bool:
        """Goes to a boundary, forwards or by starting again; False if the program ends before."""
        if index < self.at or self.exited is not None:
            self.restart()
        return index == self.at or self.advance(index - self.at)

    def restart(self) -> None:
        """Back to the first boundary."""
        assert self._first is not None
        self._become(self._first.snapshot, self._random, self._first.tid)
        self.exited = None

    def follow(self, other: Side) -> None:
        """Becomes a copy of the other runtime, which was booted from the same program."""
        machine = other.machine
        tid = other.thread.tid if other.thread is not None else None
        self._become(machine.snapshot(), machine.cpu.random.getstate(), tid)
        self.exited = other.exited

    def _become(self, snapshot: Snapshot, random_state: RandomState, tid: int | None) -> None:
        self.machine.restore(snapshot)
        self.machine.cpu.random.setstate(random_state)
        self.rt.watch.preempted.clear()
        self.thread = self.machine.threads[tid] if tid is not None else None
        self._target = None

    def _left(self, thread: Thread) -> None:
        self.thread = thread
        self.on_left()

    def _listen(self, event: Event) -> None:
        if isinstance(event, GoroutineExited):
            self.exited = event.registers

    @property
    def registers(self) -> Registers:
        """The goroutine's registers at this boundary."""
        assert self.thread is not None
        return self.thread.registers

    def stack(self) -> bytes:
        """The goroutine's whole stack."""
        return bytes(self._stack)
