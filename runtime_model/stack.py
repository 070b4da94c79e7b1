"""Moving goroutine stacks, to larger ones and to smaller ones (runtime/stack.go).

**Pointers into a stack that moves.** Go knows them by the pointer maps of each frame. A snippet's
text has none. Where it counts as compiled code, any word of a live frame that points into the old
stack is adjusted, as if the maps named it; NO_LOCAL_POINTERS says that there is none among the
locals. With `as_assembly` Go's rule for assembly holds: a frame with locals and without
NO_LOCAL_POINTERS cannot be moved, "missing stackmap". Arguments may be pointers in either case:
Go takes their maps from the function's declaration, which is no part of a snippet. Snippets have
no defers, no panics and wait on no channel, so there are no such records to adjust.

The frame of asyncPreempt is never moved: isShrinkStackSafe refuses, and nothing grows above it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from runtime_model import stackpool
from runtime_model.events import StackCopied
from runtime_model.panic import Throw
from runtime_model.runtime import named
from runtime_model.runtime2 import _Grunning, _Gscan
from runtime_model.symtab import PointerMap
from runtime_model.traceback import PtrSize, stkframe, unwind

if TYPE_CHECKING:
    from runtime_model.runtime import Runtime
    from runtime_model.runtime2 import G, M

stackPreempt: Final = 0xFFFF_FFFF_FFFF_FADE  # Go's name
fixedStack: Final = 2048


# Moving a stack.


@dataclass(slots=True)
class adjustinfo:  # Go's name
    """The old stack, and how far it moves; `adjusted` counts the words that were changed."""

    lo: int
    hi: int
    delta: int
    adjusted: int = 0


@named
def copystack(rt: Runtime, gp: G, newsize: int) -> None:
    """Moves gp, which does not run, to a stack of newsize bytes and frees the old one."""
    if gp.syscallsp != 0:
        raise Throw("stack growth not allowed in system call", rt.tid)
    lo, hi = gp.stack_lo, gp.stack_hi
    if lo == 0:
        raise Throw("nil stackbase", rt.tid)
    used = hi - gp.sched_sp
    new_lo = stackpool.stackalloc(rt, newsize)
    new_hi = new_lo + newsize
    adjinfo = adjustinfo(lo, hi, new_hi - hi)
    rt.memory.write(new_hi - used, rt.memory.view(hi - used, used))
    adjustpointer(rt, adjinfo, gp.field_address("sched.ctxt"))
    adjustpointer(rt, adjinfo, gp.field_address("sched.bp"))
    gp.stack_lo, gp.stack_hi = new_lo, new_hi
    gp.stackguard0 = new_lo + rt.stackGuard  # a request to preempt may be lost here
    gp.sched_sp = new_hi - used
    gp.stktopsp += adjinfo.delta
    for frame in unwind(rt, gp):
        adjustframe(rt, frame, adjinfo)
    stackpool.stackfree(rt, lo, hi - lo)
    rt.machine.events.emit(
        StackCopied(
            tid=rt.tid,
            goid=gp.goid,
            old_lo=lo,
            old_hi=hi,
            new_lo=new_lo,
            new_hi=new_hi,
            used=used,
            adjusted=adjinfo.adjusted,
        )
    )


def adjustpointer(rt: Runtime, adjinfo: adjustinfo, address: int) -> None:
    """Adjusts the word at an address if it points into the old stack."""
    value = rt.memory.u64(address)
    if adjinfo.lo <= value < adjinfo.hi:
        rt.memory.put_u64(address, value + adjinfo.delta)
        adjinfo.adjusted += 1


def adjustframe(rt: Runtime, frame: stkframe, adjinfo: adjustinfo) -> None:
    """Adjusts a frame of the new stack: the saved BP, locals, arguments."""
    if frame.argp - frame.varp == 2 * PtrSize:
        adjustpointer(rt, adjinfo, frame.varp)
    size = frame.varp - frame.sp
    if size > 0:
        pointers = frame.fn.locals_pointer_map
        if pointers is PointerMap.MISSING:
            raise Throw(
                "missing stackmap",
                rt.tid,
                f"frame {frame.fn.name} untyped locals {frame.sp:#x}+{size:#x}",
            )
        if pointers is PointerMap.ANY:
            adjustpointers(rt, adjinfo, frame.varp - size // PtrSize * PtrSize, size // PtrSize)
    adjustpointers(rt, adjinfo, frame.argp, frame.fn.args // PtrSize)


def adjustpointers(rt: Runtime, adjinfo: adjustinfo, address: int, words: int) -> None:
    """Adjusts every word of a range that points into the old stack."""
    lo, hi = adjinfo.lo, adjinfo.hi
    values = struct.unpack(f"<{words}Q", rt.memory.view(address, PtrSize * words))
    for index, value in enumerate(values):
        if lo <= value < hi:
            adjustpointer(rt, adjinfo, address + PtrSize * index)


# Shrinking.


def isShrinkStackSafe(rt: Runtime, gp: G) -> bool:
    """Whether a stack may be moved now: not in a system call, nor at an asynchronous safe point.

    There some frame has no exact pointer maps.
    """
    return gp.syscallsp == 0 and not (rt.version.asynchronous and gp.asyncSafePoint)


@named
def shrinkstack(rt: Runtime, gp: G) -> None:
    """Halves the stack if less than a quarter of it is in use.

    The caller owns gp by its _Gscan bit, or runs in newstack on gp's M.
    """
    mp: M = rt.m(rt.getg().m)
    if gp.stack_lo == 0:
        raise Throw("missing stack in shrinkstack", rt.tid)
    own = gp.address == mp.curg and rt.getg() != gp and gp.atomicstatus == _Grunning
    if not gp.atomicstatus & _Gscan and not own:
        raise Throw("bad status in shrinkstack", rt.tid)
    if not isShrinkStackSafe(rt, gp):
        raise Throw("shrinkstack at bad time", rt.tid)
    oldsize = gp.stack_hi - gp.stack_lo
    newsize = oldsize // 2
    if rt.policy.gcshrinkstackoff or newsize < fixedStack:
        return
    if gp.stack_hi - gp.sched_sp + rt.stackNosplit >= oldsize // 4:
        return
    copystack(rt, gp, newsize)
