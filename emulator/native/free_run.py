"""The real processor running freely: no boundary is seen until the guest traps or faults.

Gates hold INT3, whose trap comes with RIP behind it (SDM volume 3, 6.15). An interval timer that
counts the guest's own processor time (setitimer(2), ITIMER_VIRTUAL) stops what never ends.
"""

from __future__ import annotations

import signal
import struct
from typing import TYPE_CHECKING, Final

from emulator.cpu import Stop, StopReason
from emulator.fault import Fault, FaultKind
from emulator.native.fenced_child import FencedChild

if TYPE_CHECKING:
    from emulator.memory import Memory
    from emulator.registers import Registers

INT3: Final = b"\xcc"
TICK_US: Final = 50_000  # of the guest's processor time
PATIENCE: Final = 2  # ticks without any other stop before a run is given up

_SETITIMER: Final = 38
_ITIMER_VIRTUAL: Final = 1
_ITIMERVAL: Final = struct.Struct("<QQQQ")  # seconds and microseconds: interval, first
_LONG: Final = 3600  # seconds
_KINDS: Final = {
    signal.SIGILL: FaultKind.INVALID,
    signal.SIGSEGV: FaultKind.PRIVILEGED,
    signal.SIGBUS: FaultKind.PRIVILEGED,
    signal.SIGFPE: FaultKind.DIVIDE,
    signal.SIGTRAP: FaultKind.BREAKPOINT,
}


class FreeCpu:
    """A fenced child that runs from gate to gate, which are places of INT3 in `memory`.

    `scratch` is the address of 32 bytes that may be overwritten now. Raises NativeUnavailableError.
    """

    name = "native"

    def __init__(self, memory: Memory, gates: frozenset[int], scratch: int) -> None:
        self.memory = memory
        self.child = FencedChild(memory)
        self._gates = gates
        self._rip = 0
        memory.write(scratch, _ITIMERVAL.pack(0, TICK_US, 0, TICK_US))
        assert self.child.system_call(_SETITIMER, _ITIMER_VIRTUAL, scratch, 0) == 0
        memory.write(scratch, bytes(_ITIMERVAL.size))

    @property
    def features(self) -> int:
        """Components of the state that the processor has, as bits of XCR0."""
        return self.child.features

    def load(self, registers: Registers) -> None:
        """Sets all registers."""
        self.child.load(registers)

    def save(self, registers: Registers) -> None:
        """Stores all registers, RIP as `rip` says it."""
        self.child.save(registers)
        registers["RIP"] = self._rip

    def flush_code(self, start: int, size: int) -> None:
        """Nothing: a stop is a serializing event (SDM volume 3, 8.1.3)."""

    def rip(self) -> int:
        """Where the last run stopped."""
        return self._rip

    def run(self, _count: int = 0) -> Stop:
        """Runs to a gate, a fault, or, as if a count had been reached, for PATIENCE ticks."""
        ticks = 0
        while True:
            halt = self.child.resume(_LONG)
            if halt.signo == signal.SIGVTALRM:
                ticks += 1
                if ticks < PATIENCE:
                    continue
            self._rip = self.child.rip()
            if halt.signo == signal.SIGVTALRM:
                return Stop(StopReason.COUNT, 0)
            if halt.signo == signal.SIGTRAP and self._rip - len(INT3) in self._gates:
                self._rip -= len(INT3)
                return Stop(StopReason.GATE, 0)
            kind = FaultKind.EXCEPTION  # a system call, too
            if halt.signo:
                kind = _KINDS.get(signal.Signals(halt.signo), kind)
            return Stop(StopReason.FAULT, 0, Fault(kind, self._rip))
