"""A copy of all that a run can change, for `Machine.snapshot` and `Machine.restore`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from emulator.memory import Memory, Prot

if TYPE_CHECKING:
    from emulator.cpu import Cpu
    from emulator.linux.process import ProcessState

Content = tuple[tuple[str, int, Prot, bytes], ...]  # name, start, protection, bytes by region


@dataclass(frozen=True, slots=True)
class MachineState:
    """The kernel's state, what later slices depend on, counters, and whose turn it is."""

    process: ProcessState
    slices: tuple[int, object]
    instructions: int
    current: int | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Writable memory, and all else that a run can change."""

    regions: Content
    state: MachineState


def save_memory(memory: Memory) -> Content:
    """What is writable, with its bytes."""
    return tuple(
        (region.name, region.start, region.prot, bytes(region.view))
        for region in memory.regions
        if region.prot & Prot.WRITE
    )


def restore_memory(memory: Memory, cpu: Cpu, regions: Content) -> None:
    """Back to saved content; ValueError where the map of writable memory is another one now."""
    known = {start for _, start, _, _ in regions}
    for region in memory.regions:
        if region.prot & Prot.WRITE and region.start not in known:
            raise ValueError(f"{region.name} was mapped after the snapshot was taken")
    for name, start, prot, data in regions:
        found = memory.find(start)
        if found is None:
            found = memory.map(name, start, len(data), prot)
            cpu.attach(found)
        if (found.start, found.size) != (start, len(data)):
            raise ValueError(f"{name} has another size than in the snapshot")
        if found.prot != prot:
            memory.protect(start, len(data), prot)
            cpu.remap()
        memory.write(start, data)
        if prot & Prot.EXEC:
            cpu.flush_code(start, len(data))
