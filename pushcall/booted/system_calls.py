"""System calls of a booted executable as reports tell them: who makes one, and --strace's lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from emulator.events import SystemCall
    from emulator.registers import Registers
    from runtime_model.booted import Booted
    from runtime_model.func_info import Frame

# The last part of the import paths of packages that make system calls for others.
_WRAPPERS: Final = ("syscall", "unix")


def maker(booted: Booted, registers: Registers) -> Frame | None:
    """The innermost function that is no mere wrapper of the system call behind which RIP is."""
    pcs = (registers["RIP"], *booted.return_pcs(registers))
    frames = [frame for pc in pcs for frame in booted.frames(pc - 1)]
    own = (frame for frame in frames if _package(frame.function) not in _WRAPPERS)
    return next(own, frames[0] if frames else None)


def _package(function: str) -> str:
    return function.rpartition("/")[2].partition(".")[0]


def place(frame: Frame | None) -> str:
    """Function and source line."""
    if frame is None:
        return "no Go code"
    return f"{frame.function} ({frame.file.rpartition('/')[2]}:{frame.line})"


def strace_line(event: SystemCall) -> str:
    """A line of --strace."""
    args = ", ".join(f"{a:#x}" if a > 9999 else str(a) for a in event.args)
    result = "?" if event.result is None else str(event.result)
    return f"[{event.time:>12}] {event.tid} {event.name}({args}) = {result}"
