"""Memory for goroutine stacks: stackalloc and stackfree (runtime/stack.go).

Go has per-P caches, pools of spans by size, and the heap for what is large. Here each stack has
pages of its own, below which GUARD bytes are not mapped, and freed ones wait in a list for their
size, last in, first out; its heads lie in memory, and the first word of a free stack leads to the
next one, as in Go. The rest of a free stack is poison.

Go has no guard: what overruns a stack there silently changes whatever lies below.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from emulator.memory import PAGE, Prot
from runtime_model.panic import Throw
from runtime_model.poison import STACK_POISON

if TYPE_CHECKING:
    from runtime_model.runtime import Runtime

STACKS: Final = 0xC0_0040_0000
GUARD: Final = 0x1_0000
_ORDERS: Final = 48  # a list for each power of two
_CURSOR: Final = 8 * _ORDERS
_CHUNK: Final = 1 << 20
_POISON: Final = STACK_POISON * _CHUNK


def stackinit(rt: Runtime, stacks: int) -> int:
    """Empty lists, and behind them the cursor; the first stack lies a page above `stacks`."""
    pool = rt.persistentalloc(_CURSOR + 8)
    rt.memory.put_u64(pool + _CURSOR, stacks + PAGE - GUARD)
    return pool


def stackalloc(rt: Runtime, n: int) -> int:
    """The low end of a stack of n bytes, a power of two. What is in it is anything."""
    head = _head(rt, n)
    memory = rt.memory
    low = memory.u64(head)
    if low:
        memory.put_u64(head, memory.u64(low))
        memory.write(low, STACK_POISON * 8)
        return low
    low = memory.u64(rt.stackpool + _CURSOR) + GUARD
    size = -(-n // PAGE) * PAGE
    try:
        region = memory.map(f"stack of goroutine, {n} bytes", low, size, Prot.RW)
    except OSError:
        raise Throw("out of memory (stackalloc)", rt.tid) from None
    rt.machine.cpu.attach(region)
    memory.put_u64(rt.stackpool + _CURSOR, low + size)
    return low


def stackfree(rt: Runtime, low: int, n: int) -> None:
    """Puts the stack of n bytes at `low` into its list, poisoned."""
    for at in range(0, n, _CHUNK):
        rt.memory.write(low + at, _POISON[: min(_CHUNK, n - at)])
    head = _head(rt, n)
    rt.memory.put_u64(low, rt.memory.u64(head))
    rt.memory.put_u64(head, low)


def _head(rt: Runtime, n: int) -> int:
    if n & (n - 1):
        raise Throw("stack size not a power of 2", rt.tid)
    return rt.stackpool + 8 * (n.bit_length() - 1)
