"""Anonymous memory: mm/mmap.c, mm/mprotect.c, mm/madvise.c; see mmap(2), mprotect(2), madvise(2).

A mapping takes host memory only where it is touched. `Process.memory_limit` bounds what may have
been written to, which is more than RLIMIT_DATA counts: memory that is made read-only keeps what it
holds. Beyond it a call fails with ENOMEM.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from emulator.fault import NotModelled
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

TASK_SIZE: Final = (1 << 47) - PAGE
MMAP_MIN_ADDR: Final = 0x1_0000  # vm.mmap_min_addr
MAX_MAP_COUNT: Final = 16_384  # vm.max_map_count; the host has 65,530 for all that it does

MADV_DONTNEED: Final = 4
MADV_COLLAPSE: Final = 25
_CHUNK: Final = 1 << 20  # bytes that are written at once
_ADVICE_WITHOUT_EFFECT: Final = (0, 1, 2, 3, 8, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21)


def _unmodelled(thread: Thread, what: str) -> NotModelled:
    return NotModelled(f"{what} is not modelled", thread.tid, thread.registers.copy())


def _free(process: Process, start: int, size: int) -> bool:
    return not process.memory.overlapping(start, size)


def _place(process: Process, size: int) -> int:
    """The next address without a hint at which so much is free; 0 where there is none."""
    start = process.mmap_next
    while start + size <= TASK_SIZE and (taken := process.memory.overlapping(start, size)):
        start = taken[-1].end
    if start + size > TASK_SIZE:
        return 0
    process.mmap_next = start + size
    return start


def _writable(process: Process, start: int, size: int, prot: int) -> bool:
    """Whether a range may become so, under the limit on writable memory."""
    if not prot & Prot.WRITE or process.memory_limit is None:
        return True
    before = sum(r.size for r in process.memory.overlapping(start, size) if r.written)
    total = sum(r.size for r in process.memory.regions if r.written)
    return total - before + size <= process.memory_limit


def mmap(
    process: Process, thread: Thread, addr: int, length: int, prot: int, flags: int, fd: int, _: int
) -> int:
    """New zeroed memory, at the hint if that is free, else at the next free address."""
    size = (length + PAGE - 1) & -PAGE
    if not size or not flags & (MAP_PRIVATE | MAP_SHARED):
        return -Errno.EINVAL
    if size > TASK_SIZE:
        return -Errno.ENOMEM
    if not flags & MAP_ANONYMOUS:
        if fd & 0xFFFF_FFFF not in process.files:
            return -Errno.EBADF
        raise _unmodelled(thread, f"mmap of file descriptor {fd & 0xFFFF_FFFF}")
    fixed = flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)
    if fixed and addr % PAGE:
        return -Errno.EINVAL
    start = addr & -PAGE
    if fixed and (start < MMAP_MIN_ADDR or start + size > TASK_SIZE):
        return -Errno.EPERM if start < MMAP_MIN_ADDR else -Errno.ENOMEM
    if flags & MAP_FIXED_NOREPLACE and not _free(process, start, size):
        return -Errno.EEXIST
    hinted = MMAP_MIN_ADDR <= start <= TASK_SIZE - size
    if not fixed and not (hinted and _free(process, start, size)):
        start = _place(process, size)
    if not start or not _writable(process, start, size, prot):
        return -Errno.ENOMEM
    return start if _fill(process, start, size, Prot(prot & 7)) else -Errno.ENOMEM


def _fill(process: Process, start: int, size: int, prot: Prot) -> bool:
    """Zeroed memory in a range; what is mapped there already keeps its place in the host.

    False, and nothing is changed, where the host has no more address space, or there would be too
    many pieces.
    """
    memory = process.memory
    there = memory.overlapping(start, size)
    ends = [part.start for part in there] + [start + size]
    gaps = [
        (at, end)
        for at, end in zip([start, *(part.end for part in there)], ends, strict=True)
        if at < end
    ]
    if len(memory.regions) + len(gaps) > MAX_MAP_COUNT:
        return False
    made = []
    try:
        for at, end in gaps:
            made.append(memory.map(f"mmap {at:#x}", at, end - at, prot, private=True))
            process.attach(made[-1])
    except OSError:
        for region in made:
            memory.unmap(region.start, region.size)
        process.remap()
        return False
    for part in there:
        memory.zero(part.start, part.size)
        memory.protect(part.start, part.size, prot, fresh=True)
    process.remap()
    return True


def munmap(process: Process, thread: Thread, addr: int, length: int) -> int:
    """What was mapped in the range is gone; that nothing was is no error."""
    del thread
    size = (length + PAGE - 1) & -PAGE
    if addr % PAGE or not size or addr + size > TASK_SIZE:
        return -Errno.EINVAL
    process.memory.zero(addr, size)
    if process.memory.unmap(addr, size):
        process.remap()
    return 0


def mprotect(process: Process, thread: Thread, addr: int, length: int, prot: int) -> int:
    """Changes protection; ENOMEM where part of the range is not mapped."""
    size = (length + PAGE - 1) & -PAGE
    if addr % PAGE:
        return -Errno.EINVAL
    if prot & ~7:
        raise _unmodelled(thread, f"mprotect with protection {prot:#x}")
    if sum(part.size for part in process.memory.overlapping(addr, size)) != size:
        return -Errno.ENOMEM
    if not _writable(process, addr, size, prot):
        return -Errno.ENOMEM
    process.memory.protect(addr, size, Prot(prot))
    process.remap()
    return 0


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
    process.memory.zero(start, size)
    mapped = sum(part.size for part in process.memory.overlapping(start, size))
    return 0 if mapped == size else -Errno.ENOMEM


def brk(process: Process, thread: Thread, addr: int) -> int:
    """The end of the data segment, which does not move: as where there is no room for it."""
    del thread, addr
    return process.brk


def mincore(process: Process, thread: Thread, addr: int, length: int, vec: int) -> int:
    """ENOMEM where nothing is mapped, which is all that programs ask it for."""
    size = (length + PAGE - 1) & -PAGE
    if addr % PAGE:
        return -Errno.EINVAL
    if sum(part.size for part in process.memory.overlapping(addr, size)) != size:
        return -Errno.ENOMEM
    from emulator.linux.uaccess import check_writable, copy_to_user

    del thread
    pages = size // PAGE
    check_writable(process.memory, vec, pages)
    for at in range(0, pages, _CHUNK):
        copy_to_user(process.memory, vec + at, b"\1" * min(_CHUNK, pages - at))
    return 0
