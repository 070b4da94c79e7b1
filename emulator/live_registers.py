"""Whose registers the processor holds, and whether `Thread.registers` has them, too.

They stay in the processor for as long as the thread runs. Where Python wants them they are
brought (`sync`); whatever it then changes is there again when the thread goes on (`enter`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from emulator.registers import SIZE, Registers

if TYPE_CHECKING:
    from emulator.cpu import Cpu
    from emulator.linux.threads import Thread
    from emulator.observer import ThreadLog

_NO_REGISTERS: Final = bytes(SIZE)


class LiveRegisters:
    """The processor's registers, and the thread that they are of.

    `fresh`: they are in the thread's `registers`, too, where they may have been changed.
    """

    def __init__(self, cpu: Cpu) -> None:
        self.log: ThreadLog | None = None
        self.fresh = False
        self._cpu = cpu
        self._thread: Thread | None = None
        self._image = (b"", b"")  # what the processor holds, while fresh

    def sync(self, thread: Thread) -> None:
        """Brings the thread's registers from the processor, if they are there."""
        if self._thread is thread and not self.fresh:
            self._cpu.save(thread.registers)
            self._image = (bytes(thread.registers.block), thread.registers.extended)
            self.fresh = True
            if self.log is not None:
                self.log.left(thread.registers)

    def sync_all(self) -> None:
        """Every thread's `registers` are its registers."""
        if self._thread is not None:
            self.sync(self._thread)

    def enter(self, thread: Thread) -> None:
        """Brings the thread's registers into the processor, unless they are there."""
        if self._thread is thread:
            if not self.fresh:
                return
            registers = thread.registers
            block, state = self._image
            if registers.block != block or registers.extended != state:
                self._cpu.load(thread.registers)
        else:
            self.sync_all()
            self._cpu.load(thread.registers)
            self._thread = thread
            if self.log is not None:
                self.log.entered(thread)
        self.fresh = False

    def forget(self) -> None:
        """The processor's are nobody's: every thread's are in its `registers`."""
        self._thread = None

    def rip(self, thread: Thread) -> int:
        """Where the thread is."""
        if self._thread is thread and not self.fresh:
            return self._cpu.rip()
        return thread.registers["RIP"]

    def recorded(self) -> Registers:
        """A copy of what the processor holds, for an event."""
        registers = Registers(_NO_REGISTERS)
        self._cpu.save(registers)
        return registers
