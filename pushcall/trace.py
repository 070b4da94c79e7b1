"""`pushcall trace --plain`: one line an instruction, the events between, the stacks at pushCall.

Every instruction of the window is single-stepped; its line shows the registers that it changed.
The window is the first preemption by default: from the request to the resumed instruction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from emulator.events import Event, Executed
from pushcall.crash import place
from pushcall.text import actor, describe
from runtime_model.events import Entered, PreemptRequested, Resumed, StackChecked

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtime_model.runtime import Runtime

BEFORE: Final = 8  # instructions of the goroutine shown ahead of the interrupted one
AFTER: Final = 4  # and behind the resumed one

_HIDDEN: Final = ("RIP", "FS_BASE", "GS_BASE")


class PlainTrace:
    """Turns events into lines, each handed to `write`."""

    def __init__(self, rt: Runtime, write: Callable[[str], None]) -> None:
        self.rt = rt
        self.write = write

    def listen(self, event: Event) -> None:
        """Takes one event."""
        if isinstance(event, Executed):
            self.write(self._instruction(event))
        elif not isinstance(event, Entered):  # the instructions say where they are
            for line in describe(self.rt, event):
                self.write(f"{'':>9}│ {actor(event):<10} {line}")

    def _instruction(self, event: Executed) -> str:
        assert event.before is not None
        assert event.after is not None
        at = place(self.rt, event.pc)
        after = event.after
        changes = " ".join(
            f"{name}={after[name]:#x}" for name in event.before.diff(after) if name not in _HIDDEN
        )
        head = f"{event.index:>8} │ {actor(event):<10} {event.pc:#x} {at.symbol:<28}"
        return f"{head} {at.source:<32} {changes}".rstrip()


class Window:
    """Keeps the lines around the first preemption and ends the run behind it."""

    def __init__(self, rt: Runtime) -> None:
        self.rt = rt
        self.lines: list[str] = []
        self.done = False
        self._open = False
        self._left: int | None = None
        self._trace = PlainTrace(rt, self._write)
        rt.machine.step_all = True
        rt.machine.events.executed_wanted = True
        rt.machine.events.subscribe(self.listen)

    def listen(self, event: Event) -> None:
        """Takes one event."""
        if self.done:
            return
        if isinstance(event, PreemptRequested):
            self._open = True
        self._trace.listen(event)
        if isinstance(event, Resumed) or (
            isinstance(event, StackChecked) and event.preempt and self._left is None
        ):
            self._left = AFTER
        elif self._left is not None and isinstance(event, Executed):
            self._left -= 1
            if self._left == 0:
                self.done = True
                self.rt.machine.stop()

    def _write(self, line: str) -> None:
        self.lines.append(line)
        if not self._open:
            del self.lines[:-BEFORE]
