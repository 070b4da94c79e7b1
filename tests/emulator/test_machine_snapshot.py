"""Two runs are the same, and a machine goes on from a snapshot as the original does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from small_computer import (
    CODE,
    DATA,
    HANDLER,
    NANOSLEEP,
    OTHER,
    PID,
    STACK,
    TGKILL,
    computer,
    install,
    start,
    syscall,
)

from emulator.events import Event, SystemCall
from emulator.fault import BudgetExhausted
from emulator.memory import Prot

if TYPE_CHECKING:
    from emulator.linux.threads import Thread
    from emulator.machine import Machine

LOOP = "l: inc rbx; dec rcx; jnz l;"
SIGNAL = 10

BUSY = {
    CODE: f"""
        s: {syscall(NANOSLEEP, DATA, 0)}
        mov rcx, 300; {LOOP}
        {syscall(TGKILL, PID, PID + 1, SIGNAL)}
        jmp s
    """,
    OTHER: f"{LOOP.replace('dec rcx', 'test rsp, rsp')} nop",
    HANDLER: "inc r13; ret",
}


def busy() -> tuple[Machine, list[Event]]:
    machine = computer(BUSY, slice_ns=700, budget=200_000)
    machine.memory.put_u64(DATA + 8, 5000)
    install(machine, SIGNAL)
    start(machine, CODE, 0)
    start(machine, OTHER, 1)
    start(machine, OTHER, 2)
    log: list[Event] = []
    machine.events.subscribe(log.append)
    return machine, log


def end(machine: Machine) -> list[object]:
    with pytest.raises(BudgetExhausted):
        machine.run()
    stacks = bytes(machine.memory.view(STACK, 0x4000 * 4))
    return [machine.instructions, stacks, *(t.copy() for t in machine.threads.values())]


def test_two_runs_are_the_same_event_by_event() -> None:
    (one, log), (two, other) = busy(), busy()
    assert end(one) == end(two)
    assert log == other
    assert sum(isinstance(event, SystemCall) for event in log) > 40


def test_a_twin_goes_on_from_a_snapshot_as_the_original_does() -> None:
    machine, log = busy()
    hits = [0]

    def hit(thread: Thread) -> None:
        del thread
        hits[0] += 1
        if hits[0] == 5:
            machine.stop()

    machine.add_breakpoint(HANDLER, hit)
    assert machine.run() is None
    machine.remove_breakpoint(HANDLER)
    machine.threads[PID + 1].break_passed = None
    snapshot = machine.snapshot()
    seen = len(log)
    expected = end(machine)
    twin, twin_log = busy()
    twin.restore(snapshot)
    assert end(twin) == expected
    assert twin_log == log[seen:]
    before = machine.threads[PID]
    machine.restore(snapshot)
    assert machine.threads[PID] is before
    log.clear()
    assert end(machine) == expected
    assert log == twin_log


def test_snapshot_is_not_restored_where_memory_was_mapped_since() -> None:
    machine = computer({})
    snapshot = machine.snapshot()
    machine.cpu.attach(machine.memory.map("more", 0x100_0000, 0x1000, Prot.RW))
    with pytest.raises(ValueError, match="more was mapped after"):
        machine.restore(snapshot)


def test_a_machine_that_runs_cannot_be_restored() -> None:
    machine = computer({CODE: "nop"})
    snapshot = machine.snapshot()
    start(machine, machine.gate("gate", lambda _: machine.restore(snapshot)))
    with pytest.raises(RuntimeError, match="stop it first"):
        machine.run()
