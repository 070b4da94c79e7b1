"""A run that ended badly, as one report: what, where in code and source, and the registers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from emulator import extended
from emulator.fault import GuestFault
from emulator.registers import GENERAL

if TYPE_CHECKING:
    from asm.image import Function
    from emulator.fault import GuestStopped
    from emulator.registers import Registers
    from runtime_model.booted import Booted
    from runtime_model.runtime import Runtime

    Running = Runtime | Booted


@dataclass(frozen=True)
class Place:
    """A PC in words: symbol+offset, the source line, file and line. Empty where unknown."""

    pc: int
    symbol: str = ""
    source: str = ""
    position: str = ""

    def __str__(self) -> str:
        symbol = f" {self.symbol}" if self.symbol else " (no symbol)"
        position = f"  {self.position}" if self.position else ""
        return f"{self.pc:#x}{symbol}{position}"


def place(rt: Running, pc: int) -> Place:
    """The place of a PC in the snippet, the runtime or the gates, or in the executable."""
    for image in (rt.user, rt.text):
        function = image.findfunc(pc)
        if function is not None:
            return _in_function(function, pc)
    gate = rt.machine.gates.names.get(pc)
    return Place(pc, f"runtime.{gate}") if gate else Place(pc)


def _in_function(function: Function, pc: int) -> Place:
    offset = f"+{pc - function.address:#x}" if pc != function.address else ""
    instruction = function.instruction_holding(pc)
    return Place(
        pc,
        function.name + offset,
        " ".join(instruction.source.split()) if instruction is not None else "",
        str(instruction.position) if instruction is not None else "",
    )


@dataclass(frozen=True)
class Crash:
    """Why the guest stopped. Registers are those of the thread to blame, if one is."""

    title: str
    where: Place | None
    goroutine: int
    registers: Registers | None

    def lines(self) -> list[str]:
        """The report as text lines."""
        lines = [self.title]
        if self.where is not None:
            lines.append(f"at {self.where}")
            if self.where.source:
                lines.append(f"    {self.where.source}")
        if self.goroutine > 0:
            lines.append(f"in goroutine {self.goroutine}")
        if self.registers is not None:
            names = (*GENERAL, "RIP", "RFLAGS")
            row = [f"{name:6} {self.registers[name]:016x}" for name in names]
            lines += ["  ".join(row[i : i + 3]) for i in range(0, len(row), 3)]
            wide = extended.shown(self.registers.extended)
            lines += [f"{name:6} {self.registers[name]:x}" for name in wide]
        return lines

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object."""
        where = self.where
        return {
            "message": self.title,
            "pc": f"{where.pc:#x}" if where else None,
            "symbol": where.symbol if where else None,
            "source": where.source if where else None,
            "position": where.position if where else None,
            "goroutine": self.goroutine,
            "registers": {n: f"{self.registers[n]:#x}" for n in _shown(self.registers)}
            if self.registers is not None
            else None,
        }


def _shown(registers: Registers) -> list[str]:
    return [*GENERAL, "RIP", "RFLAGS", *extended.shown(registers.extended)]


def describe(rt: Running, stopped: GuestStopped) -> Crash:
    """The report of a stop."""
    thread = rt.machine.threads.get(stopped.tid)
    registers = stopped.registers
    if registers is None and thread is not None:
        registers = thread.registers
    pc = getattr(stopped, "pc", None)
    if pc is None and isinstance(stopped, GuestFault):
        pc = stopped.fault.pc
    if pc is None and registers is not None:
        pc = registers["RIP"]
    goroutine = -1
    if thread is not None:
        g = rt.getg_of(thread)
        mp = rt.m(rt.g(g).m) if g else None
        if mp is not None and mp.curg:
            goroutine = rt.g(mp.curg).goid
    return Crash(str(stopped), place(rt, pc) if pc is not None else None, goroutine, registers)
