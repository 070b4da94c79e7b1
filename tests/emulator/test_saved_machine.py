"""A machine that is saved between any two instructions goes on elsewhere as if it had not been.

The reference is the same program's run without a stop: its events, output and final registers.
"""

from __future__ import annotations

import dataclasses
import json
import random
from typing import TYPE_CHECKING, Any

import pytest
from small_computer import CODE, DATA, HANDLER, OTHER, computer, exits, install, recorded, syscall

from emulator import plain, saved_machine
from emulator.fault import GuestStopped
from emulator.linux.open_file import Pipe, ReadEnd, WriteEnd
from emulator.memory import PAGE, Prot
from emulator.saved_machine import BadStateError, SavedMachine

if TYPE_CHECKING:
    from emulator.linux.threads import Thread
    from emulator.machine import Machine

# The first thread makes a pipe and maps, unmaps and protects memory; it signals the second one,
# writes into the pipe and waits on a futex. The second sleeps, yields, reads the pipe, wakes the
# first and exits.
FIRST = (
    syscall(22, DATA + 0x100)
    + syscall(9, 0x10000000, 0x4000, 3, 0x32, 2**64 - 1, 0)
    + "mov qword ptr [0x10001008], 77;"
    + syscall(10, 0x10001000, 0x1000, 1)
    + syscall(11, 0x10003000, 0x1000)
    + syscall(234, 1000, 1001, 10)
    + "mov edi, [0x500104];"
    + "mov rsi, 0x10001008; mov edx, 8; mov eax, 1; syscall;"
    + syscall(202, DATA, 128, 0, 0)
    + "mov ecx, 6; a: imul rax, rax, 7; add rax, rcx; dec ecx; jnz a;"
    + "rdrand rbx; mov [0x500200], rbx;"
    + syscall(318, DATA + 0x210, 8, 0)
    + syscall(1, 1, DATA + 0x200, 24)
    + exits("4")
)
SECOND = (
    "mov qword ptr [0x500300], 0; mov qword ptr [0x500308], 90;"
    + syscall(35, DATA + 0x300, 0)
    + syscall(24)
    + "mov edi, [0x500100];"
    + "mov rsi, 0x500400; mov edx, 8; xor eax, eax; syscall;"
    + "mov qword ptr [0x500000], 1;"
    + syscall(202, DATA, 129, 1)
    + syscall(60, 0)
)
STEP = 61
TRIED = 20  # hostile documents
HANDLED = "inc qword ptr [0x500500]; ret"


def loaded(seed: int = 3) -> Machine:
    machine = computer({CODE: FIRST, OTHER: SECOND, HANDLER: HANDLED}, slice_ns=23, seed=seed)
    machine.linux.memory_limit = 1 << 20
    machine.spawn(rip=CODE, rsp=0x60_3F00)
    machine.spawn(rip=OTHER, rsp=0x60_7F00)
    install(machine, 10)
    return machine


class Stop:
    """A timer that stops the machine after so many instructions."""

    def __init__(self, machine: Machine, at: int) -> None:
        self.machine = machine
        self.at = at
        machine.timer = self

    def due(self, _thread: Thread) -> int:
        return self.at - self.machine.instructions

    def fire(self, _thread: Thread) -> None:
        self.machine.timer = None
        self.machine.stop()


def saved(machine: Machine) -> tuple[list[Any], bytes]:
    """The document, through JSON, and the pages."""
    state = saved_machine.save(machine, loaded().memory)
    pages = b"".join(saved_machine.contents(machine, state))
    assert len(pages) == state.pages * PAGE
    document: list[Any] = json.loads(json.dumps(plain.dump(state)))
    return document, pages


def restored(document: Any, pages: bytes) -> Machine:
    machine = loaded()
    rest = bytearray(pages)

    def read(size: int) -> bytes:
        found = bytes(rest[:size])
        del rest[:size]
        return found

    state = plain.Loader().load(SavedMachine, document)
    saved_machine.restore(machine, state, read)
    assert not rest
    return machine


def regions(machine: Machine) -> list[tuple[object, ...]]:
    return [(r.start, r.size, r.prot, r.written, bytes(r.view)) for r in machine.memory.regions]


def test_it_goes_on_from_every_boundary() -> None:
    whole = loaded()
    expected = recorded(whole)
    behind: set[int] = set()  # each system call
    whole.events.subscribe(lambda _: behind.add(whole.instructions))
    assert whole.run() == 4
    assert {event.name for event in expected if hasattr(event, "name")} >= {  # all of it happened
        "pipe", "mmap", "munmap", "mprotect", "tgkill", "futex", "nanosleep", "sched_yield",
        "rt_sigreturn", "getrandom", "write", "read", "exit",
    }  # fmt: skip
    for at in sorted({*range(1, whole.instructions, STEP), *behind} - {0, whole.instructions}):
        first = loaded()
        log = recorded(first)
        Stop(first, at)
        assert first.run() is None
        assert first.instructions == at
        second = restored(*saved(first))
        later = recorded(second)
        assert second.run() == 4
        assert repr(log + later) == repr(expected)
        assert second.linux.output == whole.linux.output
        assert second.instructions == whole.instructions
        assert regions(second) == regions(whole)
        for tid, thread in whole.threads.items():
            assert second.threads[tid].registers == thread.registers
            assert second.threads[tid].time == thread.time


def test_memory_is_told_by_what_differs() -> None:
    machine = loaded()
    Stop(machine, 60)
    machine.run()
    state = saved_machine.save(machine, loaded().memory)
    runs = {region.start: region.runs for region in state.regions}
    assert runs[CODE] == ()
    assert runs[DATA] == ((0, 1),)
    assert runs[0x1000_0000] == ()  # PROT_READ | PROT_WRITE, and zero
    assert runs[0x1000_1000] == ((0, 1),)
    assert {r.start: (r.prot, r.written) for r in state.regions}[0x1000_1000] == (Prot.READ, True)
    assert 0x1000_3000 not in runs


def test_an_object_that_two_refer_to_is_one_again() -> None:
    pipe = Pipe()
    pipe.reader, pipe.writer = ReadEnd(0o10600, pipe=pipe), WriteEnd(0o10600, pipe=pipe)
    files = [pipe.reader, pipe.writer, pipe.reader]
    text = json.dumps(plain.dump(files))
    found = plain.Loader().load(list[ReadEnd | None], json.loads(text)[:1])
    assert found[0].pipe.reader is found[0]
    assert found[0].pipe.writer.pipe is found[0].pipe


@pytest.mark.parametrize(
    ("kind", "bad"),
    [
        (int, True), (int, "1"), (int, 2**64), (int, -(2**63) - 1), (int, 1.0), (bytes, "?"),
        (bytes, 7), (tuple[int, int], [1]), (dict[int, int], [[1]]), (list[int], 5),
        (ReadEnd, ["WriteEnd", []]), (ReadEnd, ["Popen", []]), (ReadEnd, 0), (Pipe, [[], []]),
    ],
)  # fmt: skip
def test_a_plain_value_of_another_type_is_refused(kind: Any, bad: Any) -> None:
    with pytest.raises(plain.NotPlainError):
        plain.Loader().load(kind, bad)


def test_a_state_that_no_machine_can_be_in_is_refused() -> None:
    machine = loaded()
    Stop(machine, 60)
    machine.run()
    state = saved_machine.save(machine, loaded().memory)
    first = state.regions[0]
    for changes in (
        {"current": 7},
        {"slice_ns": 0},
        {"instructions": -1},
        {"slice_random": (3, (1, 2), None)},
        {"regions": (first, first)},
        {"regions": (dataclasses.replace(first, start=0), *state.regions[1:])},
        {"regions": (dataclasses.replace(first, runs=((0, 99),)), *state.regions[1:])},
        {"regions": (dataclasses.replace(first, size=1 << 30, prot=3), *state.regions[1:])},
        {"regions": tuple(r for r in state.regions if r.name != "gates")},
        {"process": dataclasses.replace(state.process, futex_queue=(1000, 1001))},
        {"process": dataclasses.replace(state.process, exit_status=0)},
        {"process": dataclasses.replace(state.process, threads=())},
        {"process": dataclasses.replace(state.process, next_tid=1000)},
        {"process": dataclasses.replace(state.process, actions=())},
    ):
        with pytest.raises(BadStateError):
            saved_machine.restore(loaded(), dataclasses.replace(state, **changes), bytes)


BAD: tuple[Any, ...] = (
    0, 1, -1, 5, 1001, 2**31, 2**32, 2**47, 2**63, 2**64 - 1, None, True, "", "AAAA", [], [[]],
    "RUNNABLE", "futex",
)  # fmt: skip


def spoil(document: list[Any], chosen: random.Random) -> None:
    """Puts something else somewhere."""
    target: list[Any] = document
    while True:
        index = chosen.randrange(len(target))
        if not isinstance(target[index], list) or not target[index] or chosen.random() < 0.05:
            target[index] = chosen.choice(BAD)
            return
        target = target[index]


def test_a_hostile_document_is_refused_or_a_state_to_go_on_from() -> None:
    """Whatever stands in it, nothing else follows than a refusal, or an end of the run."""
    machine = loaded()
    Stop(machine, 61)
    machine.run()
    document, pages = saved(machine)
    chosen = random.Random(8)
    outcomes = {"refused": 0, "stopped": 0, "ended": 0}
    for _ in range(TRIED):
        changed = json.loads(json.dumps(document))
        spoil(changed, chosen)
        try:
            hostile = restored(changed, pages)
            hostile.budget = hostile.instructions + 3000
            hostile.run()
            outcomes["ended"] += 1
        except (BadStateError, plain.NotPlainError):
            outcomes["refused"] += 1
        except GuestStopped:
            outcomes["stopped"] += 1
    assert outcomes["refused"] > 0
    assert outcomes["ended"] > 0
