"""What every CPU engine offers: run an exact number of instructions, and say why it stopped.

A boundary is the gap between two instructions. An engine always stops on a boundary, with all
registers as the instructions before it left them, and reports how many it executed, exactly.
Each iteration of a REP instruction is a boundary, as on the processor (SDM volume 1, 7.3.9.4).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable
    from random import Random

    from emulator.fault import Fault
    from emulator.memory import Memory, Region
    from emulator.registers import Registers


class StopReason(Enum):
    """Why `Cpu.run` returned."""

    COUNT = "count"  # the asked number of instructions was executed
    SYSCALL = "syscall"  # a SYSCALL was executed: RIP is behind it, nothing else has changed
    GATE = "gate"  # RIP is a gate: nothing there is ever executed
    WATCH = "watch"  # armed, and RIP is in a watched range
    BREAK = "break"  # armed, and RIP is a breakpoint
    DATA = "data"  # the instruction before RIP has accessed watched data
    FAULT = "fault"  # the instruction at RIP could not be executed


@dataclass(frozen=True, slots=True)
class DataBreakpoint:
    """`[start, start + size)`; a trap comes behind each instruction that accesses a byte of it.

    As the debug registers have it (SDM volume 3, 17.2), but for any number of bytes, and for reads
    alone, too. What the kernel reads and writes is no access.
    """

    start: int
    size: int
    read: bool
    write: bool


@dataclass(frozen=True, slots=True)
class Access:
    """The first access of an instruction that met a data breakpoint."""

    breakpoint: DataBreakpoint
    address: int


@dataclass(frozen=True, slots=True)
class Stop:
    """The outcome of a run: reason, number of instructions executed, and the fault or access."""

    reason: StopReason
    executed: int
    fault: Fault | None = None
    access: Access | None = None


class Cpu(Protocol):
    """One processor in user mode (CPL 3 semantics), running the code of one `Memory`."""

    memory: Memory
    random: Random  # gives the numbers of RDRAND and RDSEED
    name: str  # of the engine and its way of counting, as reports quote it

    def attach(self, region: Region) -> None:
        """Makes a region of `memory` visible to the processor."""

    def remap(self) -> None:
        """Takes notice that regions of `memory` were unmapped or have another protection."""

    def load(self, registers: Registers) -> None:
        """Sets all registers."""

    def save(self, registers: Registers) -> None:
        """Stores all registers into the given block."""

    def rip(self) -> int:
        """The current RIP, without saving the rest."""

    def run(self, count: int, *, armed: bool = True) -> Stop:
        """Executes at most `count` instructions.

        Armed, it stops before an instruction in a watched range or at a breakpoint, the first
        instruction included; disarmed, it passes them. Gates and SYSCALL always stop.
        """

    def add_gates(self, start: int, end: int) -> None:
        """Declares `[start, end)` to be gates."""

    def add_watch(self, start: int, end: int) -> None:
        """Declares `[start, end)` to be watched."""

    def add_breakpoint(self, address: int) -> None:
        """Stops armed runs before the instruction at `address`."""

    def remove_breakpoint(self, address: int) -> None:
        """Takes a breakpoint back."""

    def watch_data(self, breakpoints: tuple[DataBreakpoint, ...]) -> None:
        """Has exactly these data breakpoints from now on."""

    def refuse(self, address: int, detail: str) -> None:
        """Makes the instruction at `address` a REFUSED fault, armed or not."""

    def load_code(self, instructions: Iterable[tuple[int, bytes]]) -> None:
        """Examines instructions, as (address, bytes), that are in memory already.

        An engine examines code in any case when it first reaches it.
        """

    def flush_code(self, start: int, size: int) -> None:
        """Forgets translations of code that Python has changed."""
