"""What AVX adds belongs to a thread: switches, signals, snapshots and system calls keep it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from small_computer import (
    CODE,
    DATA,
    HANDLER,
    OTHER,
    PID,
    TGKILL,
    computer,
    exits,
    install,
    start,
    syscall,
)

from emulator.linux.signal_frame import OFFSETS

if TYPE_CHECKING:
    from emulator.machine import Machine

# Machine code as GNU as writes it, for Keystone, which does not know all of it.
LOAD = ".byte 0xc5, 0xfe, 0x6f, 0x07;"  # VMOVDQU YMM0, [RDI]
STORE = ".byte 0xc5, 0xfe, 0x7f, 0x06;"  # VMOVDQU [RSI], YMM0
TO_MASK = ".byte 0xc4, 0xe1, 0xfb, 0x92, 0xd9;"  # KMOVQ K3, RCX
FROM_MASK = ".byte 0xc4, 0xe1, 0xfb, 0x93, 0xd3;"  # KMOVQ RDX, K3
SIGUSR1 = 10
OWN = (bytes(range(32)), bytes(range(100, 132)))


def both(machine: Machine) -> None:
    for index, data in enumerate(OWN):
        machine.memory.write(DATA + 64 * index, data)


def loops(index: int) -> str:
    """Loads its data, loops for long, and stores what the registers hold then."""
    return (
        f"mov rdi, {DATA + 64 * index}; mov rsi, {DATA + 0x200 + 64 * index};"
        f"mov ecx, {7 + index}; {LOAD} {TO_MASK} mov ecx, 3000; l: dec ecx; jnz l;"
        f"{STORE} {FROM_MASK} mov [rsi + 32], rdx;"
    )


def test_each_thread_has_its_own_registers() -> None:
    texts = {CODE: loops(0) + syscall(60, 0), OTHER: loops(1) + exits("5")}
    machine = computer(texts, slice_ns=100)
    both(machine)
    start(machine)
    start(machine, OTHER)
    assert machine.run() == 5
    for index, data in enumerate(OWN):
        assert machine.memory.read(DATA + 0x200 + 64 * index, 32) == data
        assert machine.memory.u64(DATA + 0x220 + 64 * index) == 7 + index


# Linux: a handler starts with the initial state (fpu__clear_user_states); rt_sigreturn restores.
def test_a_handler_starts_without_it_and_the_frame_brings_it_back() -> None:
    main = (
        f"mov rdi, {DATA}; mov rsi, {DATA + 0x200}; mov ecx, 7; {LOAD} {TO_MASK}"
        + syscall(TGKILL, PID, PID, SIGUSR1)
        + f"mov rsi, {DATA + 0x200}; {STORE} {FROM_MASK} mov [rsi + 32], rdx;"
        + exits("0")
    )
    # The handler stores what it finds, then makes the registers dirty and changes the frame: 2688
    # bytes, the upper half of YMM0 at 576 and K3 at 1112.
    handler = (
        f"mov r8, [rdx + {OFFSETS['fpstate']}]; mov rsi, {DATA + 0x300}; {STORE} mov r9, rdx;"
        f"{FROM_MASK} mov [rsi + 32], rdx; mov rdi, {DATA + 64}; {LOAD} mov ecx, 99; {TO_MASK}"
        "mov qword ptr [r8 + 1112], 8; mov byte ptr [r8 + 576], 0x55; ret"
    )
    machine = computer({CODE: main, HANDLER: handler})
    both(machine)
    install(machine, SIGUSR1)
    start(machine)
    assert machine.run() == 0
    assert machine.memory.read(DATA + 0x300, 40) == bytes(40)
    expected = OWN[0][:16] + b"\x55" + OWN[0][17:]
    assert machine.memory.read(DATA + 0x200, 32) == expected
    assert machine.memory.u64(DATA + 0x220) == 8


def test_a_snapshot_has_it() -> None:
    machine = computer({CODE: loops(0) + exits("0")}, slice_ns=100)
    both(machine)
    thread = start(machine)
    machine.timer = At(machine, 500)
    assert machine.run() is None
    machine.timer = None
    snapshot = machine.snapshot()
    assert thread.registers["K3"] == 7
    thread.registers["K3"] = 0
    thread.registers["ZMM0"] = 0
    machine.restore(snapshot)
    assert machine.run() == 0
    assert machine.memory.read(DATA + 0x200, 40) == OWN[0] + (7).to_bytes(8, "little")
    machine.restore(snapshot)
    machine.memory.write(DATA + 0x200, bytes(40))
    assert machine.run() == 0
    assert machine.memory.read(DATA + 0x200, 32) == OWN[0]


class At:
    """Stops the machine once, at a number of instructions."""

    def __init__(self, machine: Machine, count: int) -> None:
        self.machine = machine
        self.count = count

    def due(self, thread: object) -> int | None:
        del thread
        return max(0, self.count - self.machine.instructions)

    def fire(self, thread: object) -> None:
        del thread
        self.machine.timer = None
        self.machine.stop()
