"""The fields of g, m, p and gobuf that preemption reads and writes, at a step of a recorded run.

Offsets are those of the Go version's layout; what a version does not have is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pushcall.snippet.crash import place
from runtime_model.runtime2 import G, M, _Pidle, _Prunning, _Psyscall, status_name
from runtime_model.stack import stackPreempt

if TYPE_CHECKING:
    from emulator.memory import Memory
    from pushcall.snippet.crash import Running
    from pushcall.trace.recorded import RecordedRun

SHOWN: Final[dict[str, tuple[str, ...]]] = {
    "g": (
        "atomicstatus", "preempt", "preemptStop", "asyncSafePoint", "stackguard0", "stack.lo",
        "stack.hi", "m", "sched.sp", "sched.pc", "sched.bp", "sched.ctxt", "xRegs.state",
    ),
    "m": (
        "curg", "p", "nextp", "locks", "mallocing", "signalPending", "preemptGen", "spinning",
        "g0", "gsignal",
    ),
    "p": (
        "status", "m", "preempt", "schedtick", "runqhead", "runqtail", "runnext", "xRegs.cache",
    ),
}  # fmt: skip
_P_STATUS: Final = {_Pidle: "_Pidle", _Prunning: "_Prunning", _Psyscall: "_Psyscall"}


@dataclass(frozen=True, slots=True)
class Field:
    """One field: its struct's name in words, its path, the value, and the value in words."""

    owner: str
    path: str
    value: int
    text: str


def fields(run: RecordedRun, step: int, goid: int | None = None) -> list[Field]:
    """The fields of the goroutine that a thread has at a step, or of another; its M; that M's P."""
    rt, memory = run.rt, run.memory(step)
    who = run.who(step)
    goid = who.g if goid is None else goid
    g = run.goroutines.get(goid, 0)
    m = G(memory, rt.layout, g).m if g else _m(rt, who.m)
    found = _of(rt, memory, "g", f"G{goid}", g) if g else []
    if m:
        view = M(memory, rt.layout, m)
        found += _of(rt, memory, "m", f"M{view.id}", m)
        if not g and view.curg:
            curg = view.curg
            found = _of(rt, memory, "g", f"G{rt.g(curg).goid}", curg) + found
        if view.p:
            found += _of(rt, memory, "p", f"P{rt.p(view.p).id}", view.p)
    return found


def _m(rt: Running, number: int) -> int:
    """The address of the M of that number, 0 for none."""
    return next((mp.address for mp in rt.ms() if mp.id == number), 0)


def _of(rt: Running, memory: Memory, struct: str, owner: str, address: int) -> list[Field]:
    found = []
    for path in SHOWN[struct]:
        if not rt.layout.has(struct, path):
            continue
        place_ = rt.layout.field(struct, path)
        size = min(place_.size, 8)
        value = int.from_bytes(memory.read(address + place_.offset, size), "little")
        found.append(Field(owner, path, value, _words(rt, struct, path, value)))
    return found


def _words(rt: Running, struct: str, path: str, value: int) -> str:
    if path == "atomicstatus":
        return status_name(value)
    if (struct, path) == ("p", "status"):
        return _P_STATUS.get(value, str(value))
    if path == "stackguard0" and value == stackPreempt:
        return "stackPreempt"
    if path == "sched.pc":
        return place(rt, value).symbol or f"{value:#x}"
    if value and path in ("m", "p", "nextp", "curg", "g0", "gsignal", "runnext"):
        return _whose(rt, path, value) or f"{value:#x}"
    return str(value) if value < 10_000 else f"{value:#x}"


def _whose(rt: Running, path: str, address: int) -> str:
    if path == "m":
        return f"M{rt.m(address).id}"
    if path in ("p", "nextp"):
        return f"P{rt.p(address).id}"
    if path in ("curg", "runnext"):
        return f"G{rt.g(address).goid}"
    return ""
