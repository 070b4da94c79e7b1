"""rt_sigreturn honours every changed field of the frame, as restore_sigcontext does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from small_computer import (
    CODE,
    DATA,
    EXIT_GROUP,
    HANDLER,
    OTHER,
    PID,
    TGKILL,
    assemble,
    computer,
    exits,
    install,
    start,
    syscall,
)

from emulator.fault import GuestFault, GuestStopped
from emulator.linux.signal_abi import (
    Signal,
    bit,
)
from emulator.linux.signal_frame import OFFSETS
from emulator.linux.signals import GuestKilled

if TYPE_CHECKING:
    from emulator.machine import Machine

USR1, USR2 = Signal.SIGUSR1, Signal.SIGUSR2
HANDLED = DATA + 0x100  # counts calls of the handler
KILL_SELF = syscall(TGKILL, PID, PID, USR1)


def changed(handler: str, after: str = "", **start_values: int) -> Machine:
    machine = computer(
        {CODE: f"{KILL_SELF} {after or exits('0')}", HANDLER: f"{handler}; ret", OTHER: exits("99")}
    )
    install(machine, USR1)
    start(machine, **start_values)
    return machine


def test_changed_rip_and_rsp_in_the_ucontext_are_where_the_thread_goes_on() -> None:
    machine = changed(
        f"mov rax, {OTHER}; mov [rdx + {OFFSETS['RIP']}], rax;"
        f"mov rax, {DATA + 0x800}; mov [rdx + {OFFSETS['RSP']}], rax"
    )
    assert machine.run() == 99
    assert machine.threads[PID].registers["RSP"] == DATA + 0x800


def test_pushed_return_address_as_gos_pushcall_does_it() -> None:
    machine = changed(
        f"mov rcx, [rdx + {OFFSETS['RSP']}]; sub rcx, 8; mov [rdx + {OFFSETS['RSP']}], rcx;"
        f"mov rax, [rdx + {OFFSETS['RIP']}]; mov [rcx], rax;"
        f"mov eax, {CODE + 0x800}; mov [rdx + {OFFSETS['RIP']}], rax",
        exits("rbx"),
    )
    machine.memory.write(CODE + 0x800, assemble("mov rbx, 55; ret", CODE + 0x800))
    rsp = machine.threads[PID].registers["RSP"]
    assert machine.run() == 55
    assert machine.threads[PID].registers["RSP"] == rsp


@pytest.mark.parametrize("name", ["RBX", "RBP", "R8", "R11", "R14", "RCX", "RAX"])
def test_changed_general_register(name: str) -> None:
    machine = changed(f"mov byte ptr [rdx + {OFFSETS[name]}], 200", "hlt")
    with pytest.raises(GuestFault):
        machine.run()
    assert machine.threads[PID].registers[name] & 0xFF == 200


def test_changed_flags_are_the_users_alone() -> None:
    machine = changed(f"mov eax, 0x38D5; mov [rdx + {OFFSETS['RFLAGS']}], rax", "hlt")
    with pytest.raises(GuestFault):
        machine.run()
    # 0x38d5 asks for IOPL 3 and no IF. RF is what the processor saves for the fault.
    assert machine.threads[PID].registers["RFLAGS"] & ~0x10000 == 0xAD7


def test_changed_xmm_in_the_fpstate() -> None:
    machine = changed(
        f"mov rcx, [rdx + {OFFSETS['fpstate']}]; mov eax, 321; mov [rcx + 160 + 16 * 7], rax",
        f"movq rdi, xmm7; sub rdi, 300; mov eax, {EXIT_GROUP}; syscall",
    )
    assert machine.run() == 21


def test_changed_sigmask_in_the_ucontext() -> None:
    machine = changed(f"mov eax, {bit(USR2)}; mov [rdx + {OFFSETS['uc_sigmask']}], rax")
    assert machine.run() == 0
    assert machine.threads[PID].sigmask == bit(USR2)


def test_bad_fpstate_pointer_is_sigsegv() -> None:
    machine = changed(f"mov eax, 64; mov [rdx + {OFFSETS['fpstate']}], rax")
    with pytest.raises(GuestKilled, match="SIGSEGV: bad frame in rt_sigreturn"):
        machine.run()


def test_bad_mxcsr_is_sigsegv() -> None:
    machine = changed(
        f"mov rcx, [rdx + {OFFSETS['fpstate']}]; mov eax, 0xFFFFFFFF; mov [rcx + 24], eax"
    )
    with pytest.raises(GuestKilled, match="SIGSEGV: bad frame in rt_sigreturn"):
        machine.run()


def test_other_segments_and_the_trap_flag_are_refused() -> None:
    with pytest.raises(GuestStopped, match="CS=0x23"):
        changed(f"mov byte ptr [rdx + {OFFSETS['cs']}], 0x23").run()
    with pytest.raises(GuestStopped, match="trap flag"):
        changed(f"or dword ptr [rdx + {OFFSETS['RFLAGS']}], 0x100").run()


def test_rt_sigreturn_without_a_frame_is_sigsegv() -> None:
    machine = computer({CODE: f"xor esp, esp; {syscall(15)}"})
    start(machine)
    with pytest.raises(GuestKilled, match="bad frame"):
        machine.run()
