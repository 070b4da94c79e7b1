"""A schedule: who asks for what, at which instructions of the program.

A run under a schedule has a mark worker (mgc.py), so that every origin can ask: sysmon, a stop of
the world, forEachP, a stack scan, a SIGURG from outside. Ms take and give back what forbids a
preemption, as they do inside Go's runtime. What an M still holds when its goroutine ends or makes a
system call is given back then: no scheduler runs under a lock.

As text: `AFTER:WHAT` or `AFTER:WHAT=N`, with commas between. AFTER counts instructions of the
program, of all goroutines together, from what stands before.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final

from emulator.linux.signals import set_sigmask
from emulator.linux.threads import ThreadState
from runtime_model import mgc
from runtime_model.events import Entered, GoroutineExited
from runtime_model.proc_sysmon import preemptone
from runtime_model.proc_world import EACH_P, STOP
from runtime_model.signal_unix import SIGURG, signalM

if TYPE_CHECKING:
    from emulator.events import Event
    from emulator.linux.threads import Thread
    from runtime_model.runtime import Runtime
    from runtime_model.runtime2 import M

_SIGURG_BIT: Final = 1 << (SIGURG - 1)


class What(Enum):
    """What can be scheduled."""

    PREEMPT = "preempt"  # sysmon asks the P's goroutine to stop (preemptone)
    SIGNAL = "signal"  # the M gets a SIGURG that nobody in the runtime asked for
    STOP = "stop"  # the world is stopped, and started again
    EACH = "each"  # a function is run on every P (forEachP)
    SCAN = "scan"  # all stacks are scanned (suspendG; scang in 1.13)
    ENLIST = "enlist"  # the same, and the pacer wants a second mark worker (enlistWorker)
    LOCKS = "locks"  # the M that is running takes a lock of the runtime's (m.locks)
    MALLOCING = "mallocing"  # … allocates memory (m.mallocing)
    PREEMPTOFF = "preemptoff"  # … switches preemption off (m.preemptoff)
    BLOCK = "block"  # … blocks SIGURG
    FREE = "free"  # every M gives back all that it took
    SLICE = "slice"  # from here on a thread runs for so many ns before another one's turn


# What the number of an action is; the others have none.
NUMBERS: Final = {What.PREEMPT: "P", What.SIGNAL: "M", What.SLICE: "ns"}
HOLDS: Final = {
    What.LOCKS: "locks",
    What.MALLOCING: "mallocing",
    What.PREEMPTOFF: "preemptoff_len",
}
_ACTION: Final = re.compile(r"(\d+):([a-z]+)(?:=(\d+))?")


@dataclass(frozen=True)
class Action:
    """What is done `after` so many more instructions of the program."""

    after: int
    what: What
    number: int = 0

    def __str__(self) -> str:
        number = f"={self.number}" if self.what in NUMBERS else ""
        return f"{self.after}:{self.what.value}{number}"

    @classmethod
    def parse(cls, text: str) -> Action:
        """An action from its text; ValueError says what is wrong."""
        match = _ACTION.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"{text!r}: not AFTER:WHAT or AFTER:WHAT=N")
        known = [what.value for what in What]
        if match[2] not in known:
            raise ValueError(f"{text}: nothing is called {match[2]}; there are: {', '.join(known)}")
        what = What(match[2])
        if (what in NUMBERS) != (match[3] is not None):
            number = NUMBERS.get(what)
            raise ValueError(
                f"{text}: {what.value} has " + (f"a number, =<{number}>" if number else "no number")
            )
        if what is What.SLICE and not int(match[3]):
            raise ValueError(f"{text}: a time slice has at least 1 ns")
        return cls(int(match[1]), what, int(match[3] or 0))


@dataclass
class Scheduled:
    """The machine's timer that does what a schedule says."""

    rt: Runtime
    actions: list[Action]
    done: int = 0
    _since: int = 0  # instructions of the program at the last action
    _taken: dict[int, list[What]] = field(default_factory=dict)  # and not given back, by tid

    def __post_init__(self) -> None:
        self.rt.machine.events.subscribe(self._listen)

    def due(self, thread: Thread) -> int | None:  # noqa: ARG002  # all threads share one count
        """Instructions until the next action."""
        if self.done == len(self.actions):
            return None
        after = self.actions[self.done].after
        return max(0, self._since + after - self.rt.machine.user_instructions)

    def fire(self, thread: Thread) -> None:
        """Does it."""
        action = self.actions[self.done]
        self.done += 1
        self._since = self.rt.machine.user_instructions
        self._do(action, thread)

    def _do(self, action: Action, thread: Thread) -> None:
        rt, number = self.rt, action.number
        worker = mgc.worker(rt)
        match action.what:
            case What.PREEMPT if number < rt.gomaxprocs:
                with rt.acting(self._sysmon()):
                    preemptone(rt, rt.p(rt.allp[number]), "as scheduled")
            case What.SIGNAL if (mp := self._m(number)) is not None:
                with rt.acting(self._sysmon()):
                    signalM(rt, mp, SIGURG)
            case What.STOP if not worker.world:
                worker.world = STOP
                self._wake_worker()
            case What.EACH if not worker.world:
                worker.world = EACH_P
                self._wake_worker()
            case What.SCAN if not (worker.wanted or worker.scanning):
                mgc.gcStart(rt)
                self._wake_worker()
            case What.ENLIST if not (worker.wanted or worker.scanning):
                mgc.gcStart(rt, dedicated=2)
            case What.SLICE:
                rt.machine.scheduler.slice_ns = number
            case What.FREE:
                for tid in tuple(self._taken):
                    self._free(rt.machine.threads[tid])
            case What.BLOCK:
                self._taken.setdefault(thread.tid, []).append(action.what)
                set_sigmask(rt.machine.linux, thread, thread.sigmask | _SIGURG_BIT)
            case What.LOCKS | What.MALLOCING | What.PREEMPTOFF:
                self._taken.setdefault(thread.tid, []).append(action.what)
                self._add(thread, action.what, 1)

    def _sysmon(self) -> Thread:
        """Sysmon's thread, in whose name things are asked from outside, at the present time."""
        machine = self.rt.machine
        thread = machine.threads[self.rt.m(self.rt.sysmon_m).procid]
        thread.time = max(thread.time, machine.now)
        return thread

    def _wake_worker(self) -> None:
        """Ends the worker's nap between two looks at what is wanted: who asks acts at once."""
        thread = self.rt.machine.threads[self.rt.m(self.rt.gcworker_m).procid]
        if thread.state is ThreadState.SLEEPING and thread.wake_at is not None:
            thread.wake_at = min(thread.wake_at, self.rt.machine.now)

    def _m(self, number: int) -> M | None:
        """The M of that number, if it has been started."""
        address = self.rt.memory.u64(self.rt.allm)
        while address:
            mp = self.rt.m(address)
            if mp.id == number and mp.procid:
                return mp
            address = mp.alllink
        return None

    def _add(self, thread: Thread, what: What, change: int) -> None:
        mp = self.rt.m(self.rt.g(self.rt.getg_of(thread)).m)
        setattr(mp, HOLDS[what], getattr(mp, HOLDS[what]) + change)

    def _free(self, thread: Thread) -> None:
        kept: list[What] = []
        for what in self._taken.pop(thread.tid):
            if what is not What.BLOCK:
                self._add(thread, what, -1)
            elif thread.sigmask & ~_SIGURG_BIT:
                kept.append(what)  # a handler's mask, which sigreturn replaces by the thread's own
            else:
                set_sigmask(self.rt.machine.linux, thread, 0)
        if kept:
            self._taken[thread.tid] = kept

    def _listen(self, event: Event) -> None:
        if event.tid not in self._taken:
            return
        syscall = isinstance(event, Entered) and event.function == "entersyscall"
        if syscall or isinstance(event, GoroutineExited):
            self._free(self.rt.machine.threads[event.tid])
