"""Addresses at which machine code calls Python: a page of the guest's with no code that counts.

A thread that comes to one has made a call: the return address lies at RSP. What the function
does takes no time of the machine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from emulator.fault import Fault, FaultKind
from emulator.linux.threads import Thread
from emulator.memory import Prot, UnmappedError

if TYPE_CHECKING:
    from emulator.cpu import Cpu
    from emulator.memory import Memory

GATES: Final = 0x7FFF_F000_0000
GATE_SPACING: Final = 4
GATES_SIZE: Final = 0x1000

GateFunction = Callable[[Thread], int | None]


class Gates:
    """The gates of one machine: `functions` and `names` by address."""

    def __init__(self, memory: Memory, cpu: Cpu, start: int) -> None:
        self.functions: dict[int, GateFunction] = {}
        self.names: dict[int, str] = {}
        self._memory = memory
        region = memory.map("gates", start, GATES_SIZE, Prot.RX)
        cpu.attach(region)
        cpu.add_gates(region.start, region.end)
        self._next = region.start
        self._end = region.end

    def add(self, name: str, function: GateFunction) -> int:
        """A new gate's address.

        The function gets the thread, with its registers current, and may change them. If it
        returns None the thread goes on as RET would, else at the address that it returns.
        """
        address = self._next
        if address >= self._end:
            raise ValueError(f"no room for gate {name}: {len(self.functions)} are defined")
        self._next += GATE_SPACING
        self.functions[address] = function
        self.names[address] = name
        return address

    def call(self, thread: Thread, function: GateFunction) -> Fault | None:
        """Calls a gate's function for the thread that is there; a fault where its RET fails."""
        address = function(thread)
        registers = thread.registers
        if address is None:
            rsp = registers["RSP"]
            try:
                address = self._memory.u64(rsp)
            except UnmappedError:
                return Fault(FaultKind.READ, registers["RIP"], rsp, "RET of a gate")
            registers["RSP"] = rsp + 8
        registers["RIP"] = address
        return None
