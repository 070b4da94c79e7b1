"""Follows the first preemption that succeeds, from whoever asked to the resumed instruction.

Other threads go on meanwhile; of their events only those on the goroutine's way are kept:

    SEARCH   nobody has asked yet, or the request was refused
    ASKED    the requester sends the signal; the target's thread is interrupted
    LEAVING  pushCall, or newstack, has decided: the goroutine leaves its M
    AWAY     it is queued; the M that will execute it is not known yet
    BACK     that M brings it back to its own code
    DONE
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from emulator.events import Event, SystemCall
from runtime_model.events import (
    Entered,
    Executing,
    PreemptRequested,
    PushedCall,
    Resumed,
    SafePointVerdict,
    StackChecked,
)

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_RECENT: Final = 64

# What a thread enters when it begins to do something new: its earlier events are of no interest,
# but retake's preemptone belongs to it.
_BEGINNINGS: Final = frozenset({"sysmon", "preemptone", "schedule", "morestack_noctxt"})


class State(Enum):
    """How far the preemption has come."""

    SEARCH = auto()
    ASKED = auto()
    LEAVING = auto()
    AWAY = auto()
    BACK = auto()
    DONE = auto()


class FirstPreemption:
    """Listener that collects `events`; `is_user_code` tells the program's PCs."""

    def __init__(self, is_user_code: Callable[[int], bool]) -> None:
        self.events: list[Event] = []
        self.state = State.SEARCH
        self._is_user_code = is_user_code
        self._recent: dict[int, list[Event]] = {}  # by tid: since its latest beginning
        self._request: PreemptRequested | None = None
        self._tid = -1  # the thread that the goroutine is on

    def listen(self, event: Event) -> None:
        """Takes one event."""
        if self.state is not State.DONE:
            self._remember(event)
            getattr(self, f"_{self.state.name.lower()}")(event)

    def _remember(self, event: Event) -> None:
        recent = self._recent.setdefault(event.tid, [])
        if isinstance(event, Entered) and event.function in _BEGINNINGS:
            last = recent[-1] if recent else None
            if not (isinstance(last, Entered) and last.function == "retake"):
                recent.clear()
        recent.append(event)
        del recent[:-MAX_RECENT]

    def _search(self, event: Event) -> None:
        if isinstance(event, PreemptRequested):
            self._request = event
            self.events = list(self._recent[event.tid])
            self.state = State.ASKED

    def _asked(self, event: Event) -> None:
        request = self._request
        assert request is not None
        if event.tid == request.tid:
            sent = any(isinstance(e, SystemCall) and e.name == "tgkill" for e in self.events)
            if request.asynchronous and not sent:
                self.events.append(event)
            return
        if isinstance(event, StackChecked):
            if event.preempt and event.goid == request.target_g:
                self.events += self._recent[event.tid]
                self._leave(event)
        elif event.m == request.target_m and (self._tid == event.tid or not _is_noise(event)):
            self._tid = event.tid
            self.events.append(event)
            if isinstance(event, PushedCall):
                self._leave(event)
            elif isinstance(event, SafePointVerdict) and not event.safe:
                self.state, self._tid = State.SEARCH, -1

    def _leave(self, event: Event) -> None:
        self.state = State.LEAVING
        self._tid = event.tid

    def _leaving(self, event: Event) -> None:
        assert self._request is not None
        if event.tid != self._tid:
            return
        self.events.append(event)
        if isinstance(event, Executing):
            ours = event.goid == self._request.target_g
            self.state = State.BACK if ours else State.AWAY

    def _away(self, event: Event) -> None:
        assert self._request is not None
        if isinstance(event, Executing) and event.goid == self._request.target_g:
            self.events += self._recent[event.tid]
            self._tid = event.tid
            self.state = State.BACK

    def _back(self, event: Event) -> None:
        if event.tid != self._tid:
            return
        self.events.append(event)
        cooperative = not any(isinstance(e, PushedCall) for e in self.events)
        if isinstance(event, Resumed) or (
            cooperative and isinstance(event, Entered) and self._is_user_code(event.pc)
        ):
            self.state = State.DONE

    @property
    def complete(self) -> bool:
        """Whether a preemption was seen to its end, or at least to the goroutine's leaving."""
        return self.state in (State.LEAVING, State.AWAY, State.BACK, State.DONE)


def _is_noise(event: Event) -> bool:
    """What a target's thread does between a request and its signal."""
    return isinstance(event, Entered)
