"""Anonymous memory: mm/mmap.c, mm/madvise.c; see mmap(2), munmap(2), madvise(2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from emulator.fault import GuestStopped
from emulator.linux.errno import Errno
from emulator.memory import PAGE, Prot

if TYPE_CHECKING:
    from emulator.linux.process import Process
    from emulator.linux.threads import Thread

MAP_SHARED: Final = 0x01
MAP_PRIVATE: Final = 0x02
MAP_FIXED: Final = 0x10
MAP_ANONYMOUS: Final = 0x20
MAP_FIXED_NOREPLACE: Final = 0x100000

MADV_DONTNEED: Final = 4
MADV_COLLAPSE: Final = 25
_ADVICE_WITHOUT_EFFECT: Final = (0, 1, 2, 3, 8, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21)


def _unmodelled(thread: Thread, what: str) -> GuestStopped:
    return GuestStopped(f"{what} is not modelled", thread.tid, thread.registers.copy())


def _free(process: Process, start: int, size: int) -> bool:
    return all(start >= r.end or r.start >= start + size for r in process.memory.regions)


def mmap(
    process: Process, thread: Thread, addr: int, length: int, prot: int, flags: int, fd: int, _: int
) -> int:
    """New zeroed memory, at the hint if that is free, else at the next free address."""
    if not flags & MAP_ANONYMOUS:
        raise _unmodelled(thread, f"mmap of file descriptor {fd & 0xFFFF_FFFF}")
    size = (length + PAGE - 1) & -PAGE
    if not size or not flags & (MAP_PRIVATE | MAP_SHARED):
        return -Errno.EINVAL
    fixed = flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)
    if fixed and addr % PAGE:
        return -Errno.EINVAL
    start = addr & -PAGE
    if fixed and not _free(process, start, size):
        if flags & MAP_FIXED_NOREPLACE:
            return -Errno.EEXIST
        raise _unmodelled(thread, "mmap with MAP_FIXED over memory that is mapped")
    if not fixed and (not start or not _free(process, start, size)):
        start = process.mmap_next
        while not _free(process, start, size):
            start += PAGE
        process.mmap_next = start + size
    region = process.memory.map(f"mmap {start:#x}", start, size, Prot(prot & 7))
    process.attach(region)
    return start


def munmap(process: Process, thread: Thread, addr: int, length: int) -> int:
    """Refused where anything is mapped: memory that is gone would have to fault."""
    size = (length + PAGE - 1) & -PAGE
    if addr % PAGE or not size:
        return -Errno.EINVAL
    if _free(process, addr, size):
        return 0
    raise _unmodelled(thread, "munmap")


def madvise(process: Process, thread: Thread, start: int, length: int, advice: int) -> int:
    """MADV_DONTNEED zeroes anonymous memory; the other kinds that programs use change nothing."""
    advice &= 0xFFFF_FFFF
    size = (length + PAGE - 1) & -PAGE
    if start % PAGE or advice == MADV_COLLAPSE:
        return -Errno.EINVAL
    if advice in _ADVICE_WITHOUT_EFFECT:
        return 0
    if advice != MADV_DONTNEED:
        raise _unmodelled(thread, f"madvise with advice {advice}")
    end = start + size
    for region in process.memory.regions:
        low, high = max(start, region.start), min(end, region.end)
        if low < high:
            region.view[low - region.start : high - region.start] = bytes(high - low)
            size -= high - low
    return -Errno.ENOMEM if size else 0
