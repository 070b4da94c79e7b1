"""Who is called while threads run: the observer of watched code, the exact timer, the clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable

    from emulator.cpu import Access
    from emulator.linux.signal_abi import SigInfo
    from emulator.linux.threads import Thread
    from emulator.registers import Registers


class Observer(Protocol):
    """Who follows threads through watched code.

    `thread.registers` is current in `left` and `entered`, and changes to it count. In `stepping`
    only `rip` is; `Machine.registers` brings the others.
    """

    def stepping(self, thread: Thread, rip: int) -> None:
        """Before each instruction of watched code."""

    def left(self, thread: Thread) -> None:
        """Before the first instruction of other code, after watched code or a gate."""

    def entered(self, thread: Thread) -> None:
        """Before the first instruction of watched code, or a gate, after other code."""


class ThreadLog(Protocol):
    """Who hears what the processor's registers are whose."""

    def entered(self, thread: Thread) -> None:
        """The processor is about to execute another thread than before."""

    def left(self, registers: Registers) -> None:
        """The processor's registers, before anything but an instruction changes them."""


class InstructionTimer(Protocol):
    """A timer that counts a thread's unwatched instructions (`Thread.user_instructions`)."""

    def due(self, thread: Thread) -> int | None:
        """How many more the thread may execute before it fires; 0 for now, None for never."""

    def fire(self, thread: Thread) -> None:
        """Called at the boundary. Where it changes nothing, `due` must no longer say 0."""


class Debugger(Protocol):
    """Who may stop the machine between any two instructions, as a tracer of ptrace(2) may.

    In all of these `thread.registers` is current, and changes to it count.
    """

    breakpoints: set[int]  # changed by Machine.set_debug_stop

    def reached(self, thread: Thread) -> None:
        """Before the instruction at one of `breakpoints`, once for each time it is reached."""

    def accessed(self, thread: Thread, access: Access) -> None:
        """Behind an instruction that met a data breakpoint."""

    def signalled(self, thread: Thread, info: SigInfo) -> SigInfo | None:
        """Before a signal is delivered: which one is to be, None for none, or HELD."""


class StepRecorder(Protocol):
    """Who records each instruction that a processor executes (`CountingCpu.record`)."""

    @property
    def room(self) -> int:
        """How many instructions may be executed before `collect` must be called."""

    def collect(self) -> None:
        """Makes room."""

    def drop(self) -> None:
        """The last instruction did not come to its end."""

    def note(self, engine: int, address: int) -> None:
        """Python is about to execute an instruction."""

    def note_extended(self, state: bytes) -> None:
        """What AVX adds to the registers before the next instruction (emulator.extended)."""

    def note_store(self, address: int, size: int) -> None:
        """Python is about to store in the guest's name."""


@runtime_checkable
class TimeStamped(Protocol):
    """A processor whose RDTSC asks for the time."""

    time_stamp: Callable[[], int]

    def executed(self) -> int:
        """Instructions that the current run has completed."""
