"""Why an instruction could not be executed, and how a guest's run can end badly.

Kinds follow the exceptions of Intel's SDM volume 3, chapter 6, as Linux turns them into signals
(arch/x86/kernel/traps.c, arch/x86/mm/fault.c).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emulator.registers import Registers


class FaultKind(Enum):
    """What went wrong; the value is the phrase that reports use."""

    READ = "read of unmapped memory"
    WRITE = "write to unmapped memory"
    FETCH = "jump to unmapped memory"
    READ_PROTECTED = "read of protected memory"
    WRITE_PROTECTED = "write to protected memory"
    FETCH_PROTECTED = "jump to memory that is not executable"
    INVALID = "invalid instruction"
    REFUSED = "instruction that this engine cannot execute exactly"
    PRIVILEGED = "privileged instruction or general protection fault"
    DIVIDE = "divide error"
    BREAKPOINT = "breakpoint instruction"
    EXCEPTION = "processor exception"


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault at instruction `pc`; `address` is the memory accessed, where the kind has one."""

    kind: FaultKind
    pc: int
    address: int | None = None
    detail: str = ""

    def __str__(self) -> str:
        where = f" at {self.address:#x}" if self.address is not None else ""
        detail = f" ({self.detail})" if self.detail else ""
        return f"{self.kind.value}{where}{detail}"


class GuestStopped(Exception):  # noqa: N818  # an end of the run, not always an error
    """The guest cannot go on. `tid` is -1 where no thread is to blame."""

    def __init__(self, message: str, tid: int = -1, registers: Registers | None = None) -> None:
        super().__init__(message)
        self.tid = tid
        self.registers = registers


class NotModelled(GuestStopped):
    """The kernel does what the guest asks for, and this one does not; the message says what."""


class GuestFault(GuestStopped):
    """A fault that no handler of the guest took."""

    def __init__(self, fault: Fault, tid: int, registers: Registers) -> None:
        super().__init__(str(fault), tid, registers)
        self.fault = fault


class BudgetExhausted(GuestStopped):
    """The instruction budget ran out: an endless loop, most likely."""


class Deadlock(GuestStopped):
    """Every thread waits and nothing can wake one."""
