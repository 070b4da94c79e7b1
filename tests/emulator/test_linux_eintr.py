"""System calls that wait and are interrupted by a signal: signal(7), restart_syscall(2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from small_computer import (
    CODE,
    DATA,
    FUTEX,
    HANDLER,
    NANOSLEEP,
    OTHER,
    PID,
    TGKILL,
    calls,
    computer,
    exits,
    frames,
    install,
    recorded,
    start,
    syscall,
)

from emulator.linux.errno import Errno
from emulator.linux.signal_abi import (
    SaFlags,
    Signal,
    bit,
)
from emulator.linux.threads import ThreadState

if TYPE_CHECKING:
    from emulator.events import Event
    from emulator.machine import Machine

USR1 = Signal.SIGUSR1
HANDLED = DATA + 0x100  # counts calls of the handler


def interrupted(code: str, flags: int) -> tuple[Machine, list[Event]]:
    """Thread 0 makes a system call that waits; thread 1 sends SIGUSR1 and then ends the run."""
    machine = computer(
        {
            CODE: f"{code} mov rbx, rax; s: pause; jmp s",
            OTHER: f"mov rcx, 500; l: dec rcx; jnz l; {syscall(TGKILL, PID, PID, USR1)}"
            f"mov ecx, 5000; m: dec rcx; jnz m; {exits('0')}",
            HANDLER: f"inc byte ptr [rdi + {HANDLED - USR1}]; ret",
        }
    )
    install(machine, USR1, flags=flags)
    log = recorded(machine)
    start(machine, index=0)
    start(machine, OTHER, 1)
    return machine, log


@pytest.mark.parametrize("flags", [0, SaFlags.RESTART])
def test_nanosleep_is_interrupted_with_eintr_even_under_restart_and_tells_the_rest(
    flags: int,
) -> None:
    machine, _ = interrupted(syscall(NANOSLEEP, DATA, DATA + 16), flags)
    machine.memory.put_u64(DATA, 2)
    assert machine.run() == 0
    thread = machine.threads[PID]
    assert thread.registers["RBX"] == -Errno.EINTR % 2**64
    assert machine.memory.u8(HANDLED) == 1
    slept = 2_000_000_000 - (machine.memory.u64(DATA + 16) * 10**9 + machine.memory.u64(DATA + 24))
    # It began at 4, was interrupted by the tgkill at 1 + 1000 + 5.
    assert slept == 1006 - 4


def test_futex_wait_without_restart_is_interrupted_with_eintr() -> None:
    machine, _ = interrupted(syscall(FUTEX, DATA, 128, 0, 0), 0)
    assert machine.run() == 0
    assert machine.threads[PID].registers["RBX"] == -Errno.EINTR % 2**64
    assert machine.linux.futex_queue == []


def test_futex_wait_under_restart_waits_again_after_the_handler() -> None:
    machine, log = interrupted(syscall(FUTEX, DATA, 128, 0, 0), SaFlags.RESTART)
    assert machine.run() == 0
    thread = machine.threads[PID]
    assert thread.state is ThreadState.FUTEX
    assert machine.memory.u8(HANDLED) == 1
    assert len(calls(log, "futex")) == 2
    assert machine.linux.futex_queue == [PID]


def test_futex_wait_with_timeout_is_interrupted_with_eintr_even_under_restart() -> None:
    machine, _ = interrupted(syscall(FUTEX, DATA, 128, 0, DATA + 16), SaFlags.RESTART)
    machine.memory.put_u64(DATA + 16, 1)
    assert machine.run() == 0
    assert machine.threads[PID].registers["RBX"] == -Errno.EINTR % 2**64


def test_blocked_signal_does_not_interrupt_a_wait() -> None:
    machine, log = interrupted(syscall(FUTEX, DATA, 128, 0, 0), 0)
    machine.threads[PID].sigmask = bit(USR1)
    assert machine.run() == 0
    assert machine.threads[PID].state is ThreadState.FUTEX
    assert not frames(log)
