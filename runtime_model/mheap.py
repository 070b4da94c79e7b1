"""A heap small enough to look objects up in: spans, their objects, mark bits (runtime/mheap.go).

A conservative scan asks of a word whether it points into an object. For that each page of the
arena belongs to one span: objects of one size, a power of two (Go has 68 size classes), with a bit
for allocated and one for marked each. All of it lies in emulated memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from emulator.memory import Prot
from runtime_model.panic import Throw

if TYPE_CHECKING:
    from runtime_model.runtime import Runtime

ARENA: Final = 0xC0_0020_0000
ARENA_SIZE: Final = 0x4_0000
PAGE_SIZE: Final = 8192  # Go's
_MIN: Final = 16
_BITS: Final = PAGE_SIZE // _MIN // 8  # bytes of a bitmap
_ALLOCATED: Final = 8
_MARKED: Final = _ALLOCATED + _BITS
_SPAN: Final = _MARKED + _BITS  # elemsize, allocBits, gcmarkBits


def mallocinit(rt: Runtime) -> int:
    """Maps the arena. Returns the address of its spans, one for each page, all free."""
    rt.machine.cpu.attach(rt.memory.map("objects", ARENA, ARENA_SIZE, Prot.RW))
    return rt.persistentalloc(ARENA_SIZE // PAGE_SIZE * _SPAN)


def _span(rt: Runtime, page: int) -> int:
    return rt.mheap + page * _SPAN


def mallocgc(rt: Runtime, size: int) -> int:
    """A new zeroed object of `size` bytes, at most a page."""
    elemsize = max(_MIN, 1 << (size - 1).bit_length())
    memory = rt.memory
    for page in range(ARENA_SIZE // PAGE_SIZE):
        span = _span(rt, page)
        if memory.u64(span) == 0:
            memory.put_u64(span, elemsize)
        if memory.u64(span) != elemsize:
            continue
        for index in range(PAGE_SIZE // elemsize):
            if not _bit(rt, span + _ALLOCATED, index):
                _set(rt, span + _ALLOCATED, index)
                address = ARENA + page * PAGE_SIZE + index * elemsize
                memory.write(address, bytes(elemsize))
                return address
    raise Throw("out of memory", rt.tid)


def findObject(rt: Runtime, pointer: int) -> int:
    """The address of the allocated object that a word points into; 0 if it is no pointer."""
    if not rt.mheap or not ARENA <= pointer < ARENA + ARENA_SIZE:
        return 0
    page, offset = divmod(pointer - ARENA, PAGE_SIZE)
    span = _span(rt, page)
    elemsize = rt.memory.u64(span)
    if elemsize == 0 or not _bit(rt, span + _ALLOCATED, offset // elemsize):
        return 0
    return pointer - offset % elemsize


def greyobject(rt: Runtime, address: int) -> bool:
    """Marks an object; whether it was not marked before."""
    page, offset = divmod(address - ARENA, PAGE_SIZE)
    span = _span(rt, page)
    index = offset // rt.memory.u64(span)
    if _bit(rt, span + _MARKED, index):
        return False
    _set(rt, span + _MARKED, index)
    return True


def is_marked(rt: Runtime, address: int) -> bool:
    """Whether an object has been marked since clear_marks."""
    page, offset = divmod(address - ARENA, PAGE_SIZE)
    span = _span(rt, page)
    return _bit(rt, span + _MARKED, offset // rt.memory.u64(span))


def clear_marks(rt: Runtime) -> None:
    """What the start of a cycle does: nothing is marked."""
    for page in range(ARENA_SIZE // PAGE_SIZE):
        rt.memory.write(_span(rt, page) + _MARKED, bytes(_BITS))


def _bit(rt: Runtime, bits: int, index: int) -> bool:
    return bool(rt.memory.u8(bits + index // 8) >> index % 8 & 1)


def _set(rt: Runtime, bits: int, index: int) -> None:
    at = bits + index // 8
    rt.memory.put_u8(at, rt.memory.u8(at) | 1 << index % 8)
