"""Which thread runs, and for how long: one rule, in virtual time.

Not the kernel's own scheduler (kernel/sched), which no program may rely on. The ready thread
that is furthest behind runs until it is a slice ahead of another one or a sleeper's time comes;
of two with the same time, the one with the smaller tid.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Final

from emulator.fault import Deadlock

if TYPE_CHECKING:
    from emulator.linux.process import Process
    from emulator.linux.threads import Thread

FOREVER: Final = 1 << 62


class Scheduler:
    """Picks threads of a process. `current` is the one whose time slice it is.

    With a seed other than 0 the slices are from half to one and a half times as long, at random.
    """

    def __init__(self, process: Process, slice_ns: int, seed: int = 0) -> None:
        if slice_ns < 1:
            raise ValueError("a time slice has at least 1 ns")
        self.process = process
        self.slice_ns = self._average = slice_ns
        self.random = random.Random(seed) if seed else None  # noqa: S311  # reproducible
        self.current: Thread | None = None

    def save(self) -> tuple[int, object]:
        """What later slices depend on."""
        return self.slice_ns, None if self.random is None else self.random.getstate()

    def restore(self, state: tuple[int, Any]) -> None:
        """Back to a saved state."""
        self.slice_ns, generator = state
        if self.random is not None and generator is not None:
            self.random.setstate(generator)

    def pick(self) -> tuple[Thread, int]:
        """The thread to run, and the time at which another one's turn may come.

        Sleepers whose time has come are woken. Raises Deadlock where no thread will ever run.
        """
        current, process = self.current, self.process
        if current is not None and current.ready and not process.need_resched:
            limit = self.limit(current)
            if current.time < limit:
                return current, limit
        process.need_resched = False
        best, best_time = None, FOREVER
        for thread in process.threads.values():  # by tid, so the first of equals runs
            time = thread.time if thread.ready else thread.wake_at
            if time is not None and time < best_time:
                best, best_time = thread, time
        if best is None:
            raise self._deadlock()
        for thread in process.threads.values():
            if thread.wake_at is not None and not thread.ready and thread.wake_at <= best_time:
                self._time_out(thread, thread.wake_at)
        if self.random is not None and best is not current:
            average = self._average
            self.slice_ns = max(1, self.random.randrange(average // 2, average * 3 // 2 + 1))
        self.current = best
        return best, self.limit(best)

    def limit(self, thread: Thread) -> int:
        """How far a thread may run: a slice ahead of others that are ready, and to each alarm."""
        limit = FOREVER
        for other in self.process.threads.values():
            if other is thread:
                continue
            if other.ready:
                limit = min(limit, other.time + self.slice_ns)
            elif other.wake_at is not None:
                limit = min(limit, other.wake_at)
        return limit

    def _time_out(self, thread: Thread, time: int) -> None:
        """Ends a wait whose time has come."""
        assert thread.wait is not None
        if thread.tid in self.process.futex_queue:
            self.process.futex_queue.remove(thread.tid)
        thread.wake(time, thread.wait.timeout_result)

    def _deadlock(self) -> Deadlock:
        waits = [
            f"thread {t.tid} in {t.wait.name}" + (f" on {t.wait.uaddr:#x}" if t.wait.uaddr else "")
            for t in self.process.alive()
            if t.wait is not None
        ]
        detail = "; ".join(waits) if waits else "there is no thread"
        return Deadlock(f"every thread waits and nothing can wake one: {detail}")
