"""One preemption of a booted executable, recorded: what `pushcall trace` shows of it.

The program runs twice, which is the same run. The first time, at full speed, the preemption that is
wanted is looked for: which SIGURG led to it? The second time it runs at full speed up to a few
instructions before that signal is sent, and is recorded from there on:

- the thread that sends it, until the signal has arrived;
- the thread that it is for, until that has chosen another goroutine;
- the thread that takes the goroutine up again, until it has executed some instructions of its own.

What other threads do meanwhile goes at full speed and is no part of the recording; who runs what is
(emulator.run_log, Booted.follow_scheduler). At a chosen PC the preemption is asked for when a
goroutine comes there, and nobody has to be looked for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from emulator.events import Event, FrameBuilt, SignalReturned
from emulator.fault import BudgetExhausted, GuestStopped
from emulator.run_log import RunLog
from pushcall.booted.check import find
from pushcall.snippet.crash import describe, place
from pushcall.snippet.run import Collector, resolve
from pushcall.trace.recorded import LIMIT, RecordedRun
from pushcall.usage import UsageError
from runtime_model.booted import SIGURG, Booted, Settings
from runtime_model.events import (
    Descheduled,
    Executing,
    PreemptRequested,
    PushedCall,
    Resumed,
)
from runtime_model.preempt import static_verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from emulator.linux.threads import Thread
    from runtime_model.moduledata import GoBinary

BEFORE: Final = 32  # instructions of the sender, before its SYSCALL
AFTER: Final = 64  # instructions of the goroutine, behind the preemption


@dataclass(frozen=True)
class Wanted:
    """The preemption to record: the number-th, of those that hit a function or at a PC."""

    number: int = 1
    function: str | None = None
    at_pc: str | None = None

    def __str__(self) -> str:
        place_ = f" in {self.function}" if self.function else ""
        place_ += f" at {self.at_pc}" if self.at_pc else ""
        return f"its preemption {self.number}{place_}"


def record(
    binary: GoBinary,
    settings: Settings,
    wanted: Wanted,
    *,
    limit: int = LIMIT,
    progress: Callable[[int], None] = lambda _: None,
) -> RecordedRun:
    """Records a preemption, up to `limit` instructions of it. NotReachedError if there is none."""
    if limit < 1:
        raise UsageError("a trace has at least one step")
    if wanted.at_pc is not None:
        if wanted.function is not None:
            raise UsageError("--function and --at-pc cannot be used together")
        booted = Booted(binary, settings)
        arrival = _Arrival(booted, resolve(booted, wanted.at_pc), wanted)
        return _Window(booted, limit, arrival.thread, None, progress).run(arrival)
    name = None if wanted.function is None else find(binary, wanted.function).name
    wanted = replace(wanted, function=name)
    found = Search(Booted(binary, settings), wanted)
    booted = Booted(binary, settings)
    run_to(booted, found.asked - BEFORE)
    threads = booted.machine.threads
    return _Window(booted, limit, threads[found.target], threads[found.sender], progress).run()


def run_to(booted: Booted, instructions: int) -> None:
    """Runs the program up to that many instructions of all threads, which it has."""
    machine = booted.machine
    budget, machine.budget = machine.budget, instructions
    try:
        machine.run()
    except BudgetExhausted:
        machine.budget = budget
        return
    raise RuntimeError("the program ended where it went on before")


class NotReachedError(Exception):
    """The program ended, or died, before the preemption that was to be recorded."""


class Search:
    """The first run, up to where the wanted preemption has come to pushCall.

    `asked`: how many instructions were executed when `sender` sent its signal to `target`, its
    SYSCALL included. `passed`: preemptions that `booted` has had already. NotReachedError if
    there is none.
    """

    def __init__(self, booted: Booted, wanted: Wanted, passed: int = 0) -> None:
        self.booted = booted
        self.wanted = wanted
        self.asked, self.sender, self.target = 0, -1, -1
        self._left = wanted.number - passed
        self._requests: dict[int, tuple[int, int]] = {}  # by target M: asked, sender
        machine = booted.machine
        machine.events.subscribe(self._listen)
        try:
            ended = machine.run()
        except GuestStopped as stopped:
            raise NotReachedError(f"{wanted} was never reached: {stopped}") from None
        if ended is not None:
            raise NotReachedError(f"the program ended with status {ended} before {wanted}")
        if self.target < 0:
            raise NotReachedError(f"the signal of {wanted} has been sent already")

    def _listen(self, event: Event) -> None:
        if isinstance(event, PreemptRequested):
            self._requests[event.target_m] = (self.booted.machine.instructions, event.tid)
        elif isinstance(event, PushedCall):
            function = self.booted.findfunc(event.resume)
            name = "" if function is None else function.name
            self._left -= self.wanted.function in (None, name)
            if not self._left:
                if event.m in self._requests:
                    self.asked, self.sender = self._requests[event.m]
                    self.target = event.tid
                self.booted.machine.stop()


class _Arrival:
    """A goroutine at the PC, for the number-th time; `thread` executes it."""

    def __init__(self, booted: Booted, pc: int, wanted: Wanted) -> None:
        self.booted = booted
        self.pc = pc
        self._left = wanted.number
        self._thread: Thread | None = None
        machine = booted.machine
        before = machine.breakpoints.get(pc)
        if before is not None:
            raise UsageError(f"--at-pc {wanted.at_pc}: the runtime is watched there")
        machine.add_breakpoint(pc, self._reached)
        try:
            ended = machine.run()
        except GuestStopped as stopped:
            raise NotReachedError(f"no goroutine came to {wanted.at_pc}: {stopped}") from None
        if ended is not None:
            raise NotReachedError(f"no goroutine came to {wanted.at_pc} {wanted.number} times")
        machine.remove_breakpoint(pc)

    @property
    def thread(self) -> Thread:
        """Who is there."""
        assert self._thread is not None
        return self._thread

    def _reached(self, thread: Thread) -> None:
        if self.booted.identity(thread.tid)[1] > 0:
            self._left -= 1
            if not self._left:
                self._thread = thread
                self.booted.machine.stop()


class _Window:
    """The recorded run, from where the program stands now to the end of the preemption."""

    def __init__(
        self,
        booted: Booted,
        limit: int,
        target: Thread,
        sender: Thread | None,
        progress: Callable[[int], None],
    ) -> None:
        self.booted = booted
        self.limit = limit
        self.target = target
        self._goid = 0  # of who is preempted
        self._followed = {target.tid} | ({sender.tid} if sender is not None else set())
        self._ends: int | None = None  # position at which the recording is long enough
        self._pushed = self._refused = False
        self._collector = Collector(keep_events=False)
        self.log = RunLog(
            booted.machine, progress, elsewhere=lambda e: isinstance(e, Executing | Descheduled)
        )

    def run(self, arrival: _Arrival | None = None) -> RecordedRun:
        """Records. With an arrival the preemption is asked for here."""
        booted, machine, log = self.booted, self.booted.machine, self.log
        log.start()
        log.follow(self._followed)
        machine.events.subscribe(self._collector.listen)
        machine.events.subscribe(self._listen)
        booted.follow_scheduler()
        if arrival is not None:
            booted.request_preemption(self.target, "--at-pc")
        first, budget = machine.instructions, machine.budget
        out = self._collector.outcome
        try:
            while not self._refused and log.position < self._until():
                left = machine.instructions + self._until() - log.position
                machine.budget = left if budget is None else min(left, budget)
                try:
                    out.exit = machine.run()
                except BudgetExhausted:
                    if machine.budget == budget:
                        raise
                if out.exit is not None:
                    break
            out.starved = self._ends is None and log.position >= self.limit
        except GuestStopped as stopped:
            out.crash = describe(booted, stopped)
        except KeyboardInterrupt:
            out.interrupted = True
        machine.budget = budget
        out.instructions, out.time = machine.instructions - first, machine.now
        for piece in out.slices:
            piece.end = machine.now if piece.end < 0 else piece.end
        log.stop()
        run = RecordedRun(booted, out, log, self.limit)
        run.refused = self._why_not() if self._refused else ""
        return run

    def _until(self) -> int:
        return self.limit if self._ends is None else min(self._ends, self.limit)

    def _listen(self, event: Event) -> None:
        if isinstance(event, PreemptRequested) and not self._goid:
            self._goid = event.target_g
        elif isinstance(event, FrameBuilt) and not self._pushed:
            if event.tid == self.target.tid and event.signal == SIGURG:
                self._follow(self.target.tid)  # the sender's part is over
        elif isinstance(event, PushedCall):
            if event.tid == self.target.tid and not self._pushed:
                self._pushed, self._goid = True, event.g
        elif isinstance(event, SignalReturned):
            # Where the thread goes on at asyncPreempt, PushedCall comes next.
            called = event.pc == self.booted.address("runtime.asyncPreempt")
            if event.tid == self.target.tid and not self._pushed and not called:
                self._refused = True
                self.booted.machine.stop()
        elif isinstance(event, Executing) and self._pushed and self._ends is None:
            if event.goid == self._goid:
                self._follow(event.tid)
            elif event.tid in self._followed:
                self._follow()
        elif isinstance(event, Resumed) and self._pushed and event.goid == self._goid:
            self._ends = self.log.position + AFTER
            self.booted.machine.stop()

    def _follow(self, *tids: int) -> None:
        self._followed = set(tids)
        self.log.follow(self._followed)

    def _why_not(self) -> str:
        booted = self.booted
        pc = self.target.registers["RIP"]
        verdict = static_verdict(booted.functions, pc, booted.version)
        return f"refused at {place(booted, pc)}: {verdict.reason.value}"
