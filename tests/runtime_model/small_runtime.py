"""A runtime that is stopped between two instructions of its first goroutine."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from pushcall.api import program
from runtime_model.boot import boot
from runtime_model.policy import Policy

if TYPE_CHECKING:
    from emulator.events import Event
    from emulator.linux.threads import Thread
    from runtime_model.runtime import Runtime
    from runtime_model.runtime2 import G, M, P

E = TypeVar("E")

LOOP = """
#include "textflag.h"

TEXT main·loop(SB), NOSPLIT|NOFRAME, $0-0
	MOVQ	$1000000, CX
loop:
	DECQ	CX
	JNE	loop
	RET
"""


@dataclass
class Stopped:
    """The machine's timer: stops after `count` instructions of the program."""

    rt: Runtime
    count: int
    events: list[Event] = field(default_factory=list)
    _thread: Thread | None = None
    _armed: bool = True

    def due(self, thread: Thread) -> int | None:  # noqa: ARG002  # all threads share one count
        return self.count - self.rt.machine.user_instructions if self._armed else None

    def fire(self, thread: Thread) -> None:
        self._thread = thread
        self._armed = False
        self.rt.machine.stop()

    def go_on(self, instructions: int = 0) -> None:
        """To the boundary so many instructions on: 0 delivers what is pending at this one."""
        self.count += instructions
        self._armed = True
        assert self.rt.machine.run() is None

    @property
    def thread(self) -> Thread:
        assert self._thread is not None
        return self._thread

    @property
    def sysmon(self) -> Thread:
        rt = self.rt
        return rt.machine.threads[rt.m(rt.sysmon_m).procid]

    @property
    def gp(self) -> G:
        return self.rt.g(self.rt.getg_of(self.thread))

    @property
    def mp(self) -> M:
        return self.rt.m(self.gp.m)

    @property
    def pp(self) -> P:
        return self.rt.p(self.mp.p)

    def of(self, kind: type[E]) -> list[E]:
        """The events of one kind, in order."""
        return [event for event in self.events if isinstance(event, kind)]


def stopped(text: str = LOOP, at: int = 3, *, gc: bool = False, **options: Any) -> Stopped:
    """A snippet's runtime at a boundary; sysmon asks for nothing by itself. gc: a mark worker."""
    options.setdefault("policy", Policy(None))
    rt = boot(replace(program(text, **options).config, gc=gc))
    timer = Stopped(rt, at)
    rt.machine.timer = timer
    rt.machine.events.subscribe(timer.events.append)
    timer.go_on()
    return timer
