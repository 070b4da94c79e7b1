"""The past of memory that is mapped, unmapped, zeroed and written across lines (mmap(2)).

What is expected follows from the order of the writes alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import small_computer as computers

from emulator.events import Unrecorded
from emulator.history import LINE
from emulator.memory import PAGE, Prot, UnmappedError
from emulator.run_log import RunLog

if TYPE_CHECKING:
    from collections.abc import Callable

    from emulator.machine import Machine

PLACE = 0x5000_0000
EDGE = computers.DATA + LINE


def acted(*actions: Callable[[Machine], object], text: str = "") -> RunLog:
    """A log of NOPs; before the first, second … one comes an action, then `text` runs."""
    nops = "nop; " * len(actions)
    machine = computers.computer({computers.CODE: f"{nops}{text}{computers.exits('0')}"})
    computers.start(machine)
    for index, action in enumerate(actions):
        machine.add_breakpoint(computers.CODE + index, lambda _, action=action: action(machine))
    log = RunLog(machine)
    log.start()
    machine.run()
    log.stop()
    return log


def byte(log: RunLog, step: int, address: int) -> int | None:
    """A byte at a step, None where none is mapped."""
    try:
        return log.history.at(log.recording.records(step)).u8(address)
    except UnmappedError:
        return None


def test_memory_comes_and_goes_with_its_content() -> None:
    def map_(machine: Machine) -> None:
        machine.cpu.attach(machine.memory.map("new", PLACE, 3 * PAGE, Prot.RW))

    log = acted(
        lambda _: None,
        map_,
        lambda machine: machine.memory.write(PLACE + PAGE - 1, b"\x01\x02"),
        lambda machine: machine.memory.unmap(PLACE, PAGE),
        lambda machine: machine.memory.zero(PLACE + PAGE, PAGE),
        lambda machine: machine.memory.put_u8(PLACE + PAGE, 9),
        map_again,
        lambda machine: machine.memory.put_u8(PLACE + PAGE - 1, 7),
    )
    last, first = PLACE + PAGE - 1, PLACE + PAGE
    assert [byte(log, step, last) for step in range(9)] == [
        None, 0, 1, None, None, None, 0, 7, 7,
    ]  # fmt: skip
    assert [byte(log, step, first) for step in range(9)] == [None, 0, 2, 2, 0, 9, 9, 9, 9]


def map_again(machine: Machine) -> None:
    machine.cpu.attach(machine.memory.map("again", PLACE, PAGE, Prot.RW))


def test_a_write_across_lines_is_undone_in_both() -> None:
    log = acted(
        lambda machine: machine.memory.write(EDGE - 4, bytes(range(1, 9))),
        lambda machine: machine.memory.write(EDGE - 4, b"\xee" * (3 * LINE)),
        text=f"mov rax, {EDGE - 3}; mov qword ptr [rax], -1;",
    )
    assert log.history.at(0).read(EDGE - 5, 10) == bytes([0, 1, 2, 3, 4, 5, 6, 7, 8, 0])
    past = log.history.at(1)
    assert past.read(EDGE - 5, 3 * LINE + 2) == b"\0" + b"\xee" * (3 * LINE) + b"\0"
    end = log.history.at(log.recording.records(4))
    assert end.read(EDGE - 4, 10) == b"\xee" + b"\xff" * 8 + b"\xee"
    for address in (EDGE - 8, EDGE):
        change = log.history.last_change(4, address)
        assert change is not None
        assert (change.place, change.by_instruction) == (4, True)
    change = log.history.last_change(4, EDGE + 2 * LINE)
    assert change is not None
    assert (change.place, change.by_instruction) == (1, False)


def test_memory_of_the_past_cannot_be_written() -> None:
    log = acted(lambda _: None)
    with pytest.raises(TypeError):
        log.history.at(0).put_u64(computers.DATA, 1)


def two_threads(*, follow_one: bool) -> tuple[RunLog, int]:
    """Two threads that add to the same words by turns."""
    loop = "again: inc qword ptr [rax]; add qword ptr [rax + 4092], rcx; dec rcx; jnz again;"
    one = f"mov rax, {computers.DATA}; mov ecx, 40; {loop} {computers.exits('0')}"
    other = (
        f"mov rax, {computers.DATA}; mov ecx, 200; {loop} {computers.syscall(computers.EXIT, 0)}"
    )
    machine = computers.computer({computers.CODE: one, computers.OTHER: other}, slice_ns=7)
    first = computers.start(machine)
    computers.start(machine, computers.OTHER)
    log = RunLog(machine)
    log.start()
    if follow_one:
        log.follow({first.tid})
    machine.run()
    log.stop()
    return log, first.tid


def test_of_a_followed_thread_every_step_is_as_in_the_whole_run() -> None:
    whole, tid = two_threads(follow_one=False)
    part, _ = two_threads(follow_one=True)
    ends = [start for start, _ in whole.threads()[1:]] + [len(whole.recording)]
    mine = [
        step
        for (start, who), end in zip(whole.threads(), ends, strict=True)
        if who == tid
        for step in range(start, end)
    ]
    assert len(part.recording) == len(mine) > 160
    assert part.threads() == [(0, tid)]
    for number, step in enumerate(mine):
        assert part.recording.registers(number) == whole.recording.registers(step)
        now = part.history.at(part.recording.records(number)).read(computers.DATA, 2 * PAGE)
        assert now == whole.history.at(whole.recording.records(step)).read(computers.DATA, 2 * PAGE)


def test_what_others_wrote_is_nobodys_instruction_and_told() -> None:
    log, _ = two_threads(follow_one=True)
    told = [marked for marked in log.events if isinstance(marked.event, Unrecorded)]
    assert len(told) > 5
    assert all(marked.event.instructions > 0 for marked in told)
    change = log.history.last_change(log.recording.records(told[3].step), computers.DATA)
    assert change is not None
    assert not change.by_instruction
