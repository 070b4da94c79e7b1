"""`pushcall trace BINARY --plain`: a preemption of a booted executable, every instruction of it.

The run goes at full speed up to the SIGURG of the chosen preemption. From there on it is
single-stepped, until the goroutine has left its M; and again from the scheduler's execute to the
resumed instruction. What other goroutines do between is left out, and goes at full speed.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from emulator.events import Event, Executed, FrameBuilt, SignalReturned, SystemCall
from emulator.fault import GuestStopped
from emulator.registers import LAYOUT
from pushcall.binary_run import describe as describe_end
from pushcall.crash import place
from pushcall.text import actor, describe
from runtime_model.events import PreemptRequested, PushedCall, Resumed

if TYPE_CHECKING:
    from collections.abc import Callable

    from emulator.linux.threads import Thread
    from runtime_model.booted import Booted

AFTER: Final = 4  # instructions behind the resumed one
_SHOWN: Final = tuple(n for n in LAYOUT if n not in ("RIP", "FS_BASE", "GS_BASE"))
_TOLD: Final = (FrameBuilt, PushedCall, PreemptRequested, Resumed, SignalReturned, SystemCall)


class _State(Enum):
    SEARCH = auto()  # at full speed, to the chosen request
    ASKED = auto()  # single-stepped: signal, handler, pushCall, asyncPreempt, scheduler
    AWAY = auto()  # at full speed: other goroutines
    BACK = auto()  # single-stepped: execute, gogo, asyncPreempt's rest
    DONE = auto()


class BootedTrace:
    """Writes the lines of one preemption, the `number`-th from 1 on that comes to pushCall."""

    def __init__(
        self,
        booted: Booted,
        number: int,
        write: Callable[[str], None],
        function: str | None = None,
    ) -> None:
        self.booted = booted
        self.write = write
        self.function = function
        self._wanted = number
        self._state = _State.SEARCH
        self._lines: list[str] = []  # held back until pushCall says that it is one
        self.tid = -1  # the thread that the goroutine is on
        self._goid = 0
        self._left = -1
        booted.machine.events.subscribe(self._listen)

    def run(self) -> int:
        """Runs the program to the end of the preemption. 0 if it was there, else 1."""
        try:
            ended = self.booted.machine.run()
        except GuestStopped as stopped:
            self.write(describe_end(self.booted, stopped))
            return 1
        if self._state is not _State.DONE:
            inside = f" in {self.function}" if self.function else ""
            wanted = f"its preemption {self._wanted}{inside}"
            self.write(f"the program ended with status {ended} before {wanted} was over")
            return 1
        return 0

    def _step(self, on: bool) -> None:
        self.booted.machine.step_all = on
        self.booted.machine.events.executed_wanted = on

    def _listen(self, event: Event) -> None:
        if self._state is _State.SEARCH:
            if isinstance(event, PreemptRequested):
                self._begin(event)
        elif self._state is _State.ASKED:
            self._asked(event)
        elif self._state is _State.BACK:
            self._back(event)

    def _begin(self, event: PreemptRequested) -> None:
        target = [t for t in self.booted.machine.threads if self._m(t) == event.target_m]
        self.tid = target[0] if target else -1
        self._goid = event.target_g
        self._lines = []
        self._state = _State.ASKED
        self._step(on=True)
        self._show(event)

    def _m(self, tid: int) -> int:
        return self.booted.identity(tid)[0]

    def _asked(self, event: Event) -> None:
        if event.tid != self.tid:
            return
        if isinstance(event, PushedCall):
            self._goid = event.g
            inside = self.booted.findfunc(event.resume)
            named = self.function is None or (inside is not None and inside.name == self.function)
            self._wanted -= named
            if not named or self._wanted:
                self._state = _State.SEARCH
                self._step(on=False)
                return
            self._show(event)
            for line in self._lines:
                self.write(line)
            self._lines = []
            return
        self._show(event)
        if isinstance(event, SignalReturned) and not self._lines:
            return
        if isinstance(event, Executed):
            m, goid = self.booted.identity(event.tid)
            del m
            if self._lines and goid != self._goid and goid > 0:
                self._give_up()
            elif not self._lines and goid not in (self._goid, 0, -1):
                self._leave()

    def _give_up(self) -> None:
        """No pushCall came of it: the next request is looked for."""
        self._state = _State.SEARCH
        self._step(on=False)

    def _leave(self) -> None:
        self._state = _State.AWAY
        self._step(on=False)
        address = self.booted.address("runtime.execute")
        assert address is not None
        self.booted.machine.add_breakpoint(address, self._execute)

    def _execute(self, thread: Thread) -> None:
        if self.booted.argument_g(thread).goid == self._goid:
            self.write(f"{'':>9}│ …")
            self.tid = thread.tid
            self._state = _State.BACK
            self._step(on=True)

    def _back(self, event: Event) -> None:
        if event.tid != self.tid:
            return
        self._show(event)
        if isinstance(event, Resumed):
            self._left = AFTER + 1  # the RET itself
        elif self._left > 0 and isinstance(event, Executed):
            self._left -= 1
            if not self._left:
                self._state = _State.DONE
                self.booted.machine.stop()

    def _show(self, event: Event) -> None:
        if isinstance(event, Executed):
            lines = [self._instruction(event)]
        elif isinstance(event, _TOLD):
            lines = [f"{'':>9}│ {actor(event):<10} {text}" for text in describe(self.booted, event)]
        else:
            return
        held = self._state is _State.ASKED and (self._lines or isinstance(event, PreemptRequested))
        if held:
            self._lines += lines
        else:
            for line in lines:
                self.write(line)

    def _instruction(self, event: Executed) -> str:
        assert event.before is not None
        assert event.after is not None
        at = place(self.booted, event.pc)
        changes = " ".join(
            f"{name}={event.after[name]:#x}"
            for name in event.before.diff(event.after)
            if name in _SHOWN
        )
        head = f"{event.index:>8} │ {actor(event):<10} {event.pc:#x} {at.symbol:<30}"
        return f"{head} {at.position:<22} {at.source:<36} {changes}".rstrip()
