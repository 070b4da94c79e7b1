"""Who asks for preemptions, and when: sysmon on its clock, or an exact instruction timer.

sysmon's way is Go's own (proc_sysmon.py). An exact timer acts as a sysmon that wakes at a chosen
boundary: its M runs preemptone there, so the rest of the path is the same.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from runtime_model.proc_sysmon import preemptone

if TYPE_CHECKING:
    from emulator.linux.threads import Thread
    from runtime_model.runtime import Runtime

forcePreemptNS: Final = 10_000_000


@dataclass(frozen=True)
class Policy:
    """What of the runtime's own machinery is on."""

    force_preempt_ns: int | None = forcePreemptNS  # None: sysmon never preempts
    asyncpreemptoff: bool = False  # GODEBUG=asyncpreemptoff=1


def request_preemption(rt: Runtime, thread: Thread, why: str) -> bool:
    """Preemptone of the P that the thread runs, in the name of sysmon's thread."""
    mp = rt.m(rt.g(rt.getg_of(thread)).m)
    if mp.p == 0:
        return False
    sysmon = rt.machine.threads[rt.m(rt.sysmon_m).procid]
    # Its clock comes along; when it would have woken by itself stays as it is.
    sysmon.time = max(sysmon.time, rt.machine.now)
    with rt.acting(sysmon):
        return preemptone(rt, rt.p(mp.p), why)


@dataclass
class Every:
    """Fires each time that the program has executed `n` more instructions of its own."""

    rt: Runtime
    n: int
    fired_at: int = 0

    def due(self, thread: Thread) -> int | None:  # noqa: ARG002  # all threads share one count
        """Instructions until it fires."""
        return max(0, self.fired_at + self.n - self.rt.machine.user_instructions)

    def fire(self, thread: Thread) -> None:
        """Asks for a preemption of whatever the thread runs."""
        self.fired_at = self.rt.machine.user_instructions
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
    _last: dict[int, int] = field(default_factory=dict)  # g -> count at its last request

    def reached(self, thread: Thread) -> None:
        """Called before the instruction; the same arrival, after the preemption, does not count."""
        g = self.rt.getg_of(thread)
        count = self.rt.machine.user_instructions
        if self._last.get(g) != count:
            self._last[g] = count
            request_preemption(self.rt, thread, f"at {self.address:#x}")
