"""Who asks for preemptions, and when: sysmon on its clock, or an exact instruction timer.

sysmon's way is Go's own (proc_sysmon.py). An exact timer acts as a sysmon that wakes at a chosen
boundary: its M runs preemptone there, so the rest of the path is the same. Where the goroutine gave
way at a stack check, it repeats that check without being asked again: else it would never pass.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from runtime_model.events import Resumed, StackChecked
from runtime_model.proc_sysmon import preemptone

if TYPE_CHECKING:
    from asm.image import Function
    from emulator.events import Event
    from emulator.linux.threads import Thread
    from runtime_model.runtime import Runtime


def request_preemption(rt: Runtime, thread: Thread, why: str) -> bool:
    """Preemptone of the P that the thread runs, in the name of sysmon's thread."""
    p = p_of(rt, thread)
    if p == 0:
        return False
    sysmon = rt.machine.threads[rt.m(rt.sysmon_m).procid]
    # Its clock comes along; when it would have woken by itself stays as it is.
    sysmon.time = max(sysmon.time, rt.machine.now)
    with rt.acting(sysmon):
        return preemptone(rt, rt.p(p), why)


def p_of(rt: Runtime, thread: Thread) -> int:
    """The address of the P that the thread has; 0 for none, as in a system call."""
    return rt.m(rt.g(rt.getg_of(thread)).m).p


class GaveWay:
    """The goroutines that gave way at a stack check and are about to repeat it."""

    def __init__(self, rt: Runtime) -> None:
        self.rt = rt
        self._functions: dict[int, Function] = {}  # by goid: whose check
        rt.machine.events.subscribe(self._listen)

    def _listen(self, event: Event) -> None:
        if isinstance(event, StackChecked) and event.preempt:
            gp = next(g for g in map(self.rt.g, self.rt.goroutines) if g.goid == event.goid)
            function = self.rt.user.findfunc(gp.sched_pc)  # behind its CALL of morestack
            if function is not None:
                self._functions[event.goid] = function

    def repeats(self, thread: Thread) -> bool:
        """Whether the thread's goroutine is in such a check; what it has passed is forgotten."""
        goid = self.rt.g(self.rt.getg_of(thread)).goid
        function = self._functions.get(goid)
        if function is not None and _in_stack_check(function, thread.registers["RIP"]):
            return True
        self._functions.pop(goid, None)
        return False

    def passed_once(self, thread: Thread) -> bool:
        """As repeats, for who asks at one PC only: the next time is another pass."""
        repeats = self.repeats(thread)
        self._functions.pop(self.rt.g(self.rt.getg_of(thread)).goid, None)
        return repeats


def _in_stack_check(function: Function, pc: int) -> bool:
    """From the entry to the last jump of the prologue, or in the part behind the body."""
    own = [i for i in function.instructions if not i.inserted]
    body, behind = (own[0].address, own[-1].end) if own else (function.end, function.end)
    jumps = (i.end for i in function.instructions if i.end <= body and i.source.startswith("J"))
    check = max(jumps, default=function.address)
    return function.address <= pc < check or behind <= pc < function.end


@dataclass
class Every:
    """Fires each time that the program has executed `n` more instructions of its own."""

    rt: Runtime
    n: int
    fired_at: int = 0
    _gave_way: GaveWay = field(init=False)

    def __post_init__(self) -> None:
        self._gave_way = GaveWay(self.rt)

    def due(self, thread: Thread) -> int | None:  # noqa: ARG002  # all threads share one count
        """Instructions until it fires."""
        return max(0, self.fired_at + self.n - self.rt.machine.user_instructions)

    def fire(self, thread: Thread) -> None:
        """Asks for a preemption of whatever the thread runs."""
        self.fired_at = self.rt.machine.user_instructions
        if not self._gave_way.repeats(thread):
            request_preemption(self.rt, thread, f"every {self.n} instructions")


@dataclass
class At:
    """Fires when the program has executed each of the given numbers of instructions."""

    rt: Runtime
    counts: list[int]  # rising
    done: int = 0

    def due(self, thread: Thread) -> int | None:  # noqa: ARG002
        """Instructions until it fires."""
        if self.done == len(self.counts):
            return None
        return max(0, self.counts[self.done] - self.rt.machine.user_instructions)

    def fire(self, thread: Thread) -> None:
        """Asks for a preemption; the next number is the next one that lies ahead."""
        count = self.counts[self.done]
        self.done += 1
        request_preemption(self.rt, thread, f"at instruction {count}")


@dataclass
class Random:
    """Fires after random numbers of instructions, 1 to 2 * mean, from a seed."""

    rt: Runtime
    seed: int
    mean: int = 1000
    _next: int = -1
    _random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)  # noqa: S311  # replayable, not secret
        self._next = self._draw()

    def _draw(self) -> int:
        return self.rt.machine.user_instructions + self._random.randint(1, 2 * self.mean)

    def due(self, thread: Thread) -> int | None:  # noqa: ARG002
        """Instructions until it fires."""
        return max(0, self._next - self.rt.machine.user_instructions)

    def fire(self, thread: Thread) -> None:
        """Asks for a preemption and draws the next interval."""
        self._next = self._draw()
        request_preemption(self.rt, thread, f"random, seed {self.seed}")


@dataclass
class AtPC:
    """A breakpoint: asks for a preemption each time that user code comes to an address."""

    rt: Runtime
    address: int
    _last: dict[int, int] = field(default_factory=dict)  # tid -> its count at its last request
    _resumed: set[int] = field(default_factory=set)  # goids that have come back to the address
    _gave_way: GaveWay = field(init=False)

    def __post_init__(self) -> None:
        self._gave_way = GaveWay(self.rt)
        self.rt.machine.events.subscribe(self._listen)

    def _listen(self, event: Event) -> None:
        if isinstance(event, Resumed) and event.interrupted == self.address:
            self._resumed.add(event.goid)

    def reached(self, thread: Thread) -> None:
        """Called before the instruction; the same arrival, after the preemption, does not count."""
        goid = self.rt.g(self.rt.getg_of(thread)).goid
        count = thread.user_instructions
        if goid in self._resumed:
            self._resumed.remove(goid)
        elif self._last.get(thread.tid) != count and not self._gave_way.passed_once(thread):
            request_preemption(self.rt, thread, f"at {self.address:#x}")
        self._last[thread.tid] = count
