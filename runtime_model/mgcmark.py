"""Scanning a goroutine's stack for pointers into the heap (runtime/mgcmark.go).

Frames are scanned by their pointer maps. Of a snippet's compiled frame any word may be a pointer
(stack.py says why); with `as_assembly` a frame without a map throws, as in Go. The frame of
asyncPreempt holds the interrupted registers: every word of it is looked at, and of its caller's,
which was interrupted where it has no maps. Vectors lie in that frame up to 1.25. Since 1.26 they
lie in g.xRegs, which 1.27 scans (xRegScan) and 1.26 does not.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from runtime_model import mheap
from runtime_model.events import StackScanned
from runtime_model.panic import Throw
from runtime_model.runtime import named
from runtime_model.runtime2 import _Gdead, _Grunnable, _Grunning, _Gscan, _Gsyscall, _Gwaiting
from runtime_model.stack import isShrinkStackSafe, shrinkstack
from runtime_model.symtab import PointerMap
from runtime_model.traceback import PtrSize, stkframe, unwind

if TYPE_CHECKING:
    from runtime_model.runtime import Runtime
    from runtime_model.runtime2 import G

_STOPPED: Final = (_Grunnable, _Gsyscall, _Gwaiting)


@dataclass(slots=True)
class stackScanState:  # Go's name
    """What a scan has met; `conservative`: the next frame is scanned conservatively, too."""

    conservative: bool = False
    frames: list[str] = field(default_factory=list)
    conservatively: list[str] = field(default_factory=list)
    objects: list[int] = field(default_factory=list)


@named
def scanstack(rt: Runtime, gp: G) -> stackScanState:
    """Marks what gp's stack points to. The caller owns gp by its _Gscan bit."""
    state = stackScanState()
    status = gp.atomicstatus
    if not status & _Gscan:
        raise Throw("scanstack - bad status", rt.tid)
    status &= ~_Gscan
    if status == _Gdead:
        return state
    if status == _Grunning:
        raise Throw("scanstack: goroutine not stopped", rt.tid)
    if status not in _STOPPED:
        raise Throw("mark - bad status", rt.tid)
    if not rt.version.asynchronous:
        if gp.syscallsp == 0:
            shrinkstack(rt, gp)
    elif isShrinkStackSafe(rt, gp):
        shrinkstack(rt, gp)
    else:
        gp.preemptShrink = 1
    scanblock(rt, gp.field_address("sched.ctxt"), PtrSize, state)
    if rt.version.scans_extended_registers and gp.asyncSafePoint:
        xRegScan(rt, gp, state)
    for frame in unwind(rt, gp):
        scanframeworker(rt, frame, state)
    rt.machine.events.emit(
        StackScanned(
            tid=rt.tid,
            goid=gp.goid,
            frames=tuple(state.frames),
            conservative=tuple(state.conservatively),
            objects=tuple(state.objects),
        )
    )
    return state


def scanframeworker(rt: Runtime, frame: stkframe, state: stackScanState) -> None:
    """Scans one frame: conservatively asyncPreempt's and its caller's, else by maps."""
    name = frame.fn.name
    state.frames.append(name)
    is_async_preempt = name == "runtime.asyncPreempt"
    size = frame.varp - frame.sp
    if state.conservative or is_async_preempt:
        state.conservatively.append(name)
        scanblock(rt, frame.sp, size, state)
        scanblock(rt, frame.argp, frame.fn.args, state)
        state.conservative = is_async_preempt
        return
    if size > 0:
        pointers = frame.fn.locals_pointer_map
        if pointers is PointerMap.MISSING:
            printed = f"frame {name} untyped locals {frame.sp:#x}+{size:#x}"
            raise Throw("missing stackmap", rt.tid, printed)
        if pointers is PointerMap.ANY:
            scanblock(rt, frame.sp, size, state)
    scanblock(rt, frame.argp, frame.fn.args, state)


def scanblock(rt: Runtime, address: int, size: int, state: stackScanState) -> None:
    """Marks the objects that the words of a range point into (scanblock, scanConservative).

    Either way of Go's checks that a word of a stack points to an allocated object.
    """
    if size <= 0:
        return
    words = size // PtrSize
    for value in struct.unpack(f"<{words}Q", rt.memory.view(address, words * PtrSize)):
        obj = mheap.findObject(rt, value)
        if obj and mheap.greyobject(rt, obj):
            state.objects.append(obj)


@named
def xRegScan(rt: Runtime, gp: G, state: stackScanState) -> None:
    """Scans the vectors of a goroutine that was preempted asynchronously (preempt_xreg.go)."""
    if gp.xRegs_state == 0:
        raise Throw("gp.xRegs.state == nil on a scanstack attempt during async preemption", rt.tid)
    scanblock(rt, gp.xRegs_state, rt.layout.size("xRegState"), state)
