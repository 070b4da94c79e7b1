"""Stops a machine between two instructions: after so many of them, or after a Ctrl-C.

A KeyboardInterrupt would come in the middle of a run, whose count is then lost: nothing could go on
from there. So Ctrl-C only leaves word here, and a second one ends the command as always.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from emulator.linux.threads import Thread
    from emulator.machine import Machine

POLL: Final = 5_000_000  # instructions between two looks


class InstructionStop:
    """An `emulator.observer.InstructionTimer`; `at` counts those of all threads since boot.

    `progress` hears now and then how many were executed.
    """

    def __init__(
        self, machine: Machine, at: int | None, progress: Callable[[int], None] = lambda _: None
    ) -> None:
        self.at = at
        self.reached = False  # the machine stands where it was to be stopped
        self.interrupted = False
        self._machine = machine
        self._progress = progress
        self._look = 0

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """While the machine runs."""
        self._machine.timer = self
        main = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGINT, self._interrupt) if main else None
        try:
            yield
        finally:
            self._machine.timer = None
            if main:
                signal.signal(signal.SIGINT, before)

    def due(self, thread: Thread) -> int:
        """Instructions of any thread until it is time to stop, or to look for a Ctrl-C."""
        del thread
        stop = self._look if self.at is None else min(self.at, self._look)
        return max(stop - self._machine.instructions, 0)

    def fire(self, thread: Thread) -> None:
        """It is time."""
        del thread
        done = self._machine.instructions
        self._look = done + POLL
        self._progress(done)
        if self.interrupted or (self.at is not None and done >= self.at):
            self.reached = True
            self._machine.stop()

    def _interrupt(self, _number: int, _frame: Any) -> None:
        self.interrupted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
