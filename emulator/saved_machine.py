"""The state of a machine with a loaded program, as values that a file can hold.

Memory is told as what differs from the program as it is loaded: the map of regions, and the pages
that are not as they were then (or zero, where nothing was). To go on, the same program is loaded
into a new machine, and changed by that.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from emulator.linux.mm import MAX_MAP_COUNT
from emulator.linux.open_file import Output
from emulator.linux.process import MOST_FILES, ProcessState, RandomState
from emulator.linux.signal_abi import NSIG, SigInfo
from emulator.linux.threads import Thread, ThreadState
from emulator.memory import PAGE, Prot
from emulator.registers import loadable_flags
from emulator.snapshot import MachineState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from emulator.machine import Machine
    from emulator.memory import Memory, Region

_CHUNK: Final = 1 << 20  # bytes that are compared at once
_TASK_SIZE: Final = 1 << 47


class BadStateError(ValueError):
    """No machine can be in such a state."""


@dataclass(frozen=True, slots=True)
class SavedRegion:
    """A region and (first page, how many) of those whose bytes come with it, in order."""

    name: str
    start: int
    size: int
    prot: int
    written: bool
    runs: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class SavedMachine:
    """All of it but the bytes of pages, which come beside it in the order of regions and runs."""

    regions: tuple[SavedRegion, ...]
    process: ProcessState
    slice_ns: int
    slice_random: RandomState | None
    cpu_random: RandomState
    instructions: int
    current: int | None

    @property
    def pages(self) -> int:
        """How many pages come beside it."""
        return sum(count for region in self.regions for _, count in region.runs)


def save(machine: Machine, fresh: Memory) -> SavedMachine:
    """The state of a machine that stands; `fresh` is the memory of a new one, loaded alike."""
    state = machine.state()
    slice_ns, slice_random = state.slices
    return SavedMachine(
        tuple(
            SavedRegion(
                region.name,
                region.start,
                region.size,
                int(region.prot),
                region.written,
                tuple(_runs(region.view, _basis(fresh, region.start, region.size))),
            )
            for region in machine.memory.regions
        ),
        state.process,
        slice_ns,
        slice_random,  # type: ignore[arg-type]
        machine.cpu.random.getstate(),
        state.instructions,
        state.current,
    )


def contents(machine: Machine, saved: SavedMachine) -> Iterator[memoryview]:
    """The bytes of the pages."""
    for region in saved.regions:
        for first, count in region.runs:
            yield machine.memory.view(region.start + first * PAGE, count * PAGE)


def restore(machine: Machine, saved: SavedMachine, read: Callable[[int], bytes]) -> None:
    """Changes a new machine, loaded alike, to a saved state; `read` gives so many bytes of pages.

    Raises BadStateError, or what `read` raises; the machine is then good for nothing.
    """
    _check(machine, saved)
    memory, cpu = machine.memory, machine.cpu
    kept = {(region.start, region.size) for region in saved.regions}
    for old in tuple(memory.regions):
        if (old.start, old.size) not in kept:
            memory.unmap(old.start, old.size)
    cpu.remap()
    try:
        for region in saved.regions:
            if memory.find(region.start) is None:
                made = memory.map(region.name, region.start, region.size, Prot.NONE, private=True)
                cpu.attach(made)
            for prot in (Prot.RW, Prot(region.prot)) if region.written else (Prot(region.prot),):
                memory.protect(region.start, region.size, prot, fresh=not region.written)
            for first, count in region.runs:
                memory.write(region.start + first * PAGE, read(count * PAGE))
    except (ValueError, OSError, OverflowError) as error:
        raise BadStateError(str(error)) from None
    cpu.remap()
    slices = (saved.slice_ns, saved.slice_random)
    machine.set_state(MachineState(saved.process, slices, saved.instructions, saved.current))
    cpu.random.setstate(saved.cpu_random)


def _basis(fresh: Memory, start: int, size: int) -> memoryview | None:
    """What a region holds before the program runs; None for zeros."""
    region = fresh.find(start)
    same = region is not None and (region.start, region.size) == (start, size)
    return region.view if region is not None and same else None


def _runs(view: memoryview, basis: memoryview | None) -> Iterator[tuple[int, int]]:
    """(first page, how many) of pages that differ from what they were."""
    first, count = 0, 0
    zeros = bytes(_CHUNK)
    for chunk in range(0, len(view), _CHUNK):
        end = min(chunk + _CHUNK, len(view))
        now = bytes(view[chunk:end])  # compared much faster than a view
        before = zeros[: end - chunk] if basis is None else bytes(basis[chunk:end])
        if now == before:
            continue
        for at in range(chunk, end, PAGE):
            page = slice(at - chunk, at - chunk + PAGE)
            if now[page] == before[page]:
                continue
            if first + count != at // PAGE:
                if count:
                    yield first, count
                first, count = at // PAGE, 0
            count += 1
    if count:
        yield first, count


# What types do not say. The guest can be in any state that a program can bring about, but no other.


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise BadStateError(what)


def _check(machine: Machine, saved: SavedMachine) -> None:
    process = saved.process
    threads = {thread.tid: thread for thread in process.threads}
    _require(0 < len(threads) == len(process.threads), "threads")
    _require(list(threads) == sorted(threads), "threads")
    _require(saved.current is None or saved.current in threads, "the current thread")
    _require(process.exit_status is None, "an exit status")
    _require(0 < saved.slice_ns < 1 << 62 and 0 <= saved.instructions < 1 << 62, "counters")
    _require(len(process.actions) == NSIG + 1, "signal actions")
    _require(max(threads) < process.next_tid < 1 << 31, "thread numbers")
    _require(0 < process.mmap_next < _TASK_SIZE, "mmap_next")
    for thread in process.threads:
        _check_thread(thread)
    waiting = {tid for tid, t in threads.items() if t.state is ThreadState.FUTEX}
    _require(sorted(process.futex_queue) == sorted(waiting), "the futex queue")
    _check_signals(process.pending)
    for action in process.actions:
        _require(min(action.handler, action.flags, action.restorer, action.mask) >= 0, "an action")
    _require(dict(process.output).keys() == {1, 2}, "output")
    for fd, file in process.files.items():
        _require(0 <= fd < MOST_FILES, "a file descriptor")
        _require(not isinstance(file, Output) or file.fd in (1, 2), "an output")
        _require(0 <= file.flags < 1 << 31 and 0 <= file.mode < 1 << 31, "a file")
    for state in (process.random, saved.slice_random, saved.cpu_random):
        try:
            random.Random().setstate(state or random.getstate())  # noqa: S311  # only to see
        except (TypeError, ValueError, OverflowError):
            raise BadStateError("random numbers") from None
    _check_regions(machine, saved)


def _check_thread(thread: Thread) -> None:
    try:
        loadable_flags(thread.registers["RFLAGS"])
        struct.pack("<3Q", thread.trap.err, thread.trap.trapno, thread.trap.cr2)
        thread.altstack.FORMAT.pack(thread.altstack.sp, thread.altstack.flags, thread.altstack.size)
    except (ValueError, struct.error):
        raise BadStateError("registers") from None
    runs = thread.state in (ThreadState.RUNNABLE, ThreadState.EXITED)
    _require(runs == (thread.wait is None), "a wait")
    _require(not runs or thread.wake_at is None, "an alarm")
    for number in (thread.time, thread.wake_at, thread.again_until, thread.sigmask,
                   thread.instructions, thread.user_instructions, thread.tid):  # fmt: skip
        _require(number is None or number >= 0, "a number")
    _require(thread.time < 1 << 62, "a time")
    _check_signals(thread.pending)


def _check_signals(pending: list[SigInfo] | tuple[SigInfo, ...]) -> None:
    for info in pending:
        _require(1 <= info.signo <= NSIG, "a signal")
        try:
            info.pack()
        except struct.error:
            raise BadStateError("a signal") from None


def _check_regions(machine: Machine, saved: SavedMachine) -> None:
    limit = machine.linux.memory_limit
    fresh: dict[tuple[int, int], Region] = {
        (region.start, region.size): region for region in machine.memory.regions
    }
    _require(len(saved.regions) <= MAX_MAP_COUNT + len(fresh), "too many regions")
    end, writable = PAGE, 0
    for region in saved.regions:
        _require(region.start >= end and region.size > 0, "regions")
        _require(not region.start % PAGE and not region.size % PAGE, "regions")
        end = region.start + region.size
        _require(end <= _TASK_SIZE or (region.start, region.size) in fresh, "regions")
        _require(0 <= region.prot <= 7, "a protection")
        _require(region.written or not region.prot & Prot.WRITE, "a protection")
        writable += region.size if region.written else 0
        page = 0
        for first, count in region.runs:
            _require(first >= page and count > 0, "pages")
            page = first + count
        _require(page * PAGE <= region.size, "pages")
    loaded = sum(each.size for each in fresh.values() if each.written)
    _require(limit is None or writable <= limit + loaded, "more memory than allowed")
    _require(limit is None or saved.pages * PAGE <= 2 * limit, "more memory than allowed")
    gates = [key for key, region in fresh.items() if region.name == "gates"]
    kept = {(region.start, region.size) for region in saved.regions}
    _require(kept.issuperset(gates), "gates")
