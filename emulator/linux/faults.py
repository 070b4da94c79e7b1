"""Processor exceptions as signals.

Models arch/x86/kernel/traps.c and arch/x86/mm/fault.c: which signal, si_code and si_addr an
exception becomes, and what the frame tells of it (trapno, err, cr2; SDM volume 3, 6.15 and 4.7).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from emulator.events import Faulted
from emulator.fault import Fault, FaultKind, GuestFault
from emulator.linux import signals
from emulator.linux.clone import TASK_SIZE_MAX
from emulator.linux.signal_abi import (
    FPE_INTDIV,
    ILL_ILLOPN,
    SEGV_ACCERR,
    SEGV_MAPERR,
    SI_KERNEL,
    SigInfo,
    Signal,
)
from emulator.linux.signal_frame import Trap
from emulator.memory import Memory, Prot
from emulator.registers import Flags

if TYPE_CHECKING:
    from emulator.linux.process import Process
    from emulator.linux.threads import Thread

# Vectors.
DE, BP, UD, GP, PF = 0, 3, 6, 13, 14

# Bits of the page-fault error code.
PF_PROT: Final = 1
PF_WRITE: Final = 2
PF_USER: Final = 4
PF_INSTR: Final = 16

_PAGE_FAULTS: Final = {
    FaultKind.READ: 0,
    FaultKind.WRITE: PF_WRITE,
    FaultKind.FETCH: PF_INSTR,
    FaultKind.READ_PROTECTED: 0,
    FaultKind.WRITE_PROTECTED: PF_WRITE,
    FaultKind.FETCH_PROTECTED: PF_INSTR,
}
_PROTECTED: Final = (
    FaultKind.READ_PROTECTED,
    FaultKind.WRITE_PROTECTED,
    FaultKind.FETCH_PROTECTED,
)


def _canonical(address: int) -> bool:
    return (address + (1 << 47)) & 0xFFFF_FFFF_FFFF_FFFF < 1 << 48


def _page_fault(memory: Memory, fault: Fault, address: int, cr2: int) -> tuple[SigInfo, Trap]:
    if not _canonical(address):  # no page fault but #GP, which tells no address
        return SigInfo(Signal.SIGSEGV, SI_KERNEL), Trap(0, GP, cr2)
    err = PF_USER | _PAGE_FAULTS[fault.kind]
    code = SEGV_ACCERR if fault.kind in _PROTECTED else SEGV_MAPERR
    region = memory.find(address)
    # PROT_NONE pages are not present for the processor; the kernel half always seems to be.
    present = region is not None and region.prot is not Prot.NONE
    if (code == SEGV_ACCERR and present) or address >= TASK_SIZE_MAX:
        err |= PF_PROT
    return SigInfo(Signal.SIGSEGV, code, address=address), Trap(err, PF, address)


def describe(memory: Memory, fault: Fault, cr2: int) -> tuple[SigInfo, Trap] | None:
    """The signal of a fault, and what its frame tells.

    None where the fault is not the guest's: an instruction that the engine refuses.
    """
    if fault.kind in _PAGE_FAULTS:
        address = fault.pc if fault.address is None else fault.address
        return _page_fault(memory, fault, address, cr2)
    if fault.kind is FaultKind.INVALID:
        return SigInfo(Signal.SIGILL, ILL_ILLOPN, address=fault.pc), Trap(0, UD, cr2)
    if fault.kind is FaultKind.DIVIDE:
        return SigInfo(Signal.SIGFPE, FPE_INTDIV, address=fault.pc), Trap(0, DE, cr2)
    if fault.kind is FaultKind.PRIVILEGED:
        return SigInfo(Signal.SIGSEGV, SI_KERNEL), Trap(0, GP, cr2)
    if fault.kind is FaultKind.BREAKPOINT:
        return SigInfo(Signal.SIGTRAP, SI_KERNEL), Trap(0, BP, cr2)
    return None


def raise_fault(process: Process, thread: Thread, fault: Fault, *, fatal: bool = False) -> None:
    """Turns a fault at RIP into a pending signal, if the guest has a handler that can take it.

    Otherwise, or if `fatal`, raises GuestFault with the registers at the fault. `thread.registers`
    must be current.
    """
    registers = thread.registers
    process.events.emit(
        Faulted(tid=thread.tid, pc=fault.pc, kind=fault.kind.value, address=fault.address)
    )
    described = describe(process.memory, fault, thread.trap.cr2)
    if fatal or described is None:
        raise GuestFault(fault, thread.tid, registers.copy())
    taken = process.tracer is not None or signals.can_take(process, thread, described[0].signo)
    if not taken:
        raise GuestFault(fault, thread.tid, registers.copy())
    info, thread.trap = described
    if fault.kind is FaultKind.BREAKPOINT:
        # A trap, not a fault: RIP is behind the instruction (CC, or CD 03).
        registers["RIP"] += 1 if process.memory.u8(fault.pc) == 0xCC else 2
    else:
        registers["RFLAGS"] |= Flags.RF  # the processor saves RF as 1 for faults (SDM 3, 17.3.1.1)
    signals.force(process, thread, info, str(fault))
