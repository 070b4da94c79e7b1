"""Stack walks: by frame tables (runtime/traceback.go: unwinder) and by frame pointers.

Of each function the table says how far SP lies below its value at the entry, so the return
address is found at every PC. Two functions of the runtime's assembly change stacks: behind
morestack the goroutine goes on at g.sched, and systemstack returns to the stack that called it.

Up to 1.16 the walk ends at functions that it knows by name (topofstack); since 1.17 the linker
marks them (TOPFRAME), and those that load SP (SPWRITE): mcall and gogo, through which no frame
can be followed. The ends are the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Flag
from typing import TYPE_CHECKING, Final

from emulator.memory import UnmappedError
from runtime_model.panic import Throw

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runtime_model.executable import ExecutableFunc
    from runtime_model.runtime import Runtime
    from runtime_model.runtime2 import G
    from runtime_model.symtab import SnippetFunc

PtrSize: Final = 8


class unwindFlags(Flag):  # Go's name
    """How a walk takes what it does not understand, and whether it changes stacks."""

    NONE = 0  # throws: the walk must be right (copystack, scanstack)
    PrintErrors = 1
    SilentErrors = 2  # ends there
    JumpStack = 8  # from g0 to the goroutine that called systemstack or morestack


@dataclass(slots=True)
class stkframe:  # Go's name
    """One frame: SP at `pc` is `sp`, and was `fp` before the call."""

    fn: SnippetFunc | ExecutableFunc
    pc: int
    sp: int
    fp: int = 0
    lr: int = 0  # the return PC; 0: nobody called it
    varp: int = 0  # the end of the locals: the saved BP or the return PC lies there
    argp: int = 0  # the arguments
    continpc: int = 0  # where it goes on; no frame of a snippet panics, so that is `pc`


def unwind(
    rt: Runtime, gp: G, flags: unwindFlags = unwindFlags.NONE, pc: int = 0, sp: int = 0
) -> Iterator[stkframe]:
    """The frames of gp, innermost first, from pc and sp, or from where gp.sched goes on.

    Throws as Go does at an unknown PC or an SPWRITE function, unless flags say otherwise.
    """
    if sp == 0:
        pc, sp = (gp.syscallpc, gp.syscallsp) if gp.syscallsp else (gp.sched_pc, gp.sched_sp)
    tolerant = bool(flags & (unwindFlags.PrintErrors | unwindFlags.SilentErrors))
    fn = rt.functions.findfunc(pc)
    if fn is None:
        if not tolerant:
            raise Throw("unknown pc", rt.tid, f"g {gp.goid}: unknown pc {pc:#x}")
        return
    frame = stkframe(fn, pc, sp)
    innermost = True
    while True:
        gp = _resolve(rt, gp, frame, flags, innermost)
        yield frame
        if frame.lr == 0:
            return
        caller = rt.functions.findfunc(frame.lr)
        if caller is None:
            if not tolerant:
                name = frame.fn.name
                raise Throw(
                    "unknown caller pc",
                    rt.tid,
                    f"unexpected return pc for {name} called from {frame.lr:#x}",
                )
            return
        frame = stkframe(caller, frame.lr, frame.fp)
        innermost = False


def _resolve(rt: Runtime, gp: G, frame: stkframe, flags: unwindFlags, innermost: bool) -> G:
    """Fills in what follows from fn, pc and sp; returns the g whose stack the frame is on."""
    sp_write = frame.fn.sp_write
    if flags & unwindFlags.JumpStack:
        mp = rt.m(gp.m) if gp.m else None
        if mp is not None and gp.address == mp.g0 and mp.curg:
            name = frame.fn.name
            if name == "runtime.morestack":
                gp = rt.g(mp.curg)
                fn = rt.functions.findfunc(gp.sched_pc)
                assert fn is not None
                frame.fn, frame.pc, frame.sp = fn, gp.sched_pc, gp.sched_sp
                sp_write = fn.sp_write
            elif name == "runtime.systemstack":
                gp = rt.g(mp.curg)
                frame.sp = gp.sched_sp
                sp_write = False
    frame.fp = frame.sp + frame.fn.funcspdelta(frame.pc) + PtrSize
    tolerant = bool(flags & (unwindFlags.PrintErrors | unwindFlags.SilentErrors))
    if frame.fn.top_frame:
        frame.lr = 0
    elif sp_write and (not innermost or tolerant):
        if not tolerant:
            raise Throw("traceback", rt.tid, f"unexpected SPWRITE function {frame.fn.name}")
        frame.lr = 0
    else:
        try:
            frame.lr = rt.memory.u64(frame.fp - PtrSize)
        except UnmappedError:
            printed = f"the frame of {frame.fn.name} ends outside of memory, at {frame.fp:#x}"
            raise Throw("traceback", rt.tid, printed) from None
    frame.varp = frame.fp - PtrSize
    if frame.varp > frame.sp:
        frame.varp -= PtrSize  # the saved BP
    frame.argp = frame.fp
    frame.continpc = frame.pc
    return gp


def fpTracebackPCs(rt: Runtime, fp: int, limit: int = 1 << 20) -> Iterator[int]:
    """Return PCs along the chain of saved BPs (trace.go, tracestack.go), innermost first.

    Frames that save no BP are not in it, nor is a frame whose prologue has not set it up yet.
    """
    while fp != 0 and limit > 0:
        yield rt.memory.u64(fp + PtrSize)
        fp = rt.memory.u64(fp)
        limit -= 1
