"""A stack at a step of a recorded run, and what each slot is, told by who wrote it last.

CALL writes return PCs, PUSHQ BP the caller's frame pointer, PUSHFQ the flags, a trampoline's moves
the registers (any trampoline's), pushCall the PC that it pushes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from emulator.linux.signal_frame import OFFSETS, RED_ZONE
from emulator.memory import UnmappedError
from pushcall.snippet.crash import place
from pushcall.trace.code import instruction, is_call
from runtime_model.events import PushedCall
from runtime_model.poison import STACK_POISON
from runtime_model.runtime2 import G

if TYPE_CHECKING:
    from pushcall.trace.recorded import RecordedRun, Writer

_STORE: Final = re.compile(r"(?:PUSH\w*|V?MOV\w*|KMOV\w*) (\$?[\w·]+)(?:,|$)")  # Go
_INTEL: Final = re.compile(r"(?:push|v?mov\w*|kmov\w*) (?:[^,]*\[[^]]*\], )?([a-z]\w+)$")
_NAMES: Final = {
    **{n: f"R{n}" for n in ("AX", "BX", "CX", "DX", "SI", "DI", "SP")},
    "BP": "BP",
    "RBP": "BP",
}


@dataclass(frozen=True, slots=True)
class Slot:
    """Eight bytes of a stack; `what` says what they are, `writer` who wrote them last."""

    address: int
    value: int
    what: str
    writer: Writer | None


@dataclass(frozen=True, slots=True)
class Stack:
    """A stack from some slots above its pointer to some below; highest address first."""

    owner: str
    rsp: int
    how: str  # where rsp comes from
    slots: tuple[Slot, ...]


def stack(
    run: RecordedRun, step: int, goid: int | None = None, *, above: int = 16, below: int = 2
) -> Stack:
    """The stack that runs at a step, or a goroutine's; up to so many slots of it."""
    owner, rsp, how = pointer(run, step, goid)
    memory = run.memory(step)
    found = []
    for address in range(rsp + 8 * (above - 1), rsp - 8 * below - 1, -8):
        try:
            value = memory.u64(address)
        except UnmappedError:
            continue
        writer = run.wrote_memory(step, address)
        what = meaning(run, address, value, writer)
        if address < rsp and not what.startswith("pushed"):
            zone = "red zone" if rsp - address <= RED_ZONE else "dead"
            what = f"{zone}: {what}" if what else zone
        found.append(Slot(address, value, what, writer))
    return Stack(owner, rsp, how, tuple(found))


def pointer(run: RecordedRun, step: int, goid: int | None = None) -> tuple[str, int, str]:
    """(whose, RSP, where that comes from) of the stack at a step, or of a goroutine's.

    Of an interrupted goroutine the ucontext has it, of one that does not run its gobuf.
    """
    who = run.who(step)
    if goid is None:
        frame = run.interrupted(step, who.m)
        if frame is not None and who.g > 0:
            rsp = run.memory(step).u64(frame.ucontext + OFFSETS["RSP"])
            return f"G{who.g}", rsp, "interrupted: RSP of the ucontext"
        owner = {0: f"g0 of M{who.m}", -1: "the thread"}.get(who.g, f"G{who.g}")
        return owner, run.registers(step)["RSP"], "RSP"
    if goid == who.g:
        return pointer(run, step)
    return _elsewhere(run, step, goid)


def _elsewhere(run: RecordedRun, step: int, goid: int) -> tuple[str, int, str]:
    """The pointer of a goroutine that another thread runs, or none."""
    past = run.memory(step)
    gp, owner = G(past, run.rt.layout, run.goroutines[goid]), f"G{goid}"
    if gp.m:
        m = run.rt.m(gp.m).id
        frame = run.interrupted(step, m)
        if frame is not None:
            rsp = past.u64(frame.ucontext + OFFSETS["RSP"])
            return owner, rsp, f"interrupted on M{m}: RSP of the ucontext"
        spans = run.spans_of(step, lambda span: span.m == m and span.start < step, back=True)
        span = next(spans, None)
        if span is not None and span.g == goid:
            rsp = run.behind(min(span.end, step) - 1)["RSP"]
            return owner, rsp, f"running on M{m}: RSP"
    return owner, gp.sched_sp, "not running: gobuf.sp"


def meaning(run: RecordedRun, address: int, value: int, writer: Writer | None) -> str:
    """What a slot is, in words; empty where it was never written."""
    if writer is None:
        return _code(run, value, "return PC") if value else ""
    if not writer.by_instruction:
        for event in run.events_at(writer.step):
            if isinstance(event, PushedCall) and event.rsp_after == address:
                return _code(run, value, "pushed PC")
        if value == int.from_bytes(STACK_POISON * 8, "little"):
            return "poison: anybody's"
        return "written by the kernel or the runtime"
    if (address, value) in run.pushed:  # by Go's own code for sigctxt.pushCall
        return _code(run, value, "pushed PC")
    pc = run.pc(writer.step)
    found = instruction(run.rt, pc)
    at = place(run.rt, pc)
    if found is None:
        return f"by {at.symbol or hex(pc)}"
    if is_call(found):
        return _code(run, value, "return PC")
    source = " ".join(found.source.split())
    if source.upper().startswith(("PUSHFQ", "PUSHFL")):
        return "saved RFLAGS"
    store, intel = _STORE.match(source), _INTEL.match(source)
    register = intel[1].upper() if intel is not None else store[1] if store is not None else ""
    function = at.symbol.partition("+")[0]
    if register in ("BP", "RBP"):
        return "saved BP"
    if register and not register.startswith("$") and function.endswith(".asyncPreempt"):
        return f"saved {_NAMES.get(register, register)}{_part(run, writer.step, address)}"
    return f"{_NAMES.get(register, register) or source}, by {at.symbol}"


def _part(run: RecordedRun, step: int, address: int) -> str:
    """Which eight bytes of a wide register."""
    stores = sorted(store.address for store in run.recording.stores(step))
    if len(stores) < 2 or address not in stores:
        return ""
    index = stores.index(address)
    return f", bits {64 * index + 63} to {64 * index}"


def _code(run: RecordedRun, value: int, what: str) -> str:
    symbol = place(run.rt, value).symbol
    return f"{what} {symbol}" if symbol else (what if what != "return PC" else "")
