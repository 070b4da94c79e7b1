"""Where a run was preempted, and where not: the verdicts on its signals, by PC."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from pushcall.snippet.crash import place
from pushcall.snippet.text import where
from runtime_model.events import SafePointVerdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emulator.events import Event
    from runtime_model.runtime import Runtime

MOST: Final = 6  # places shown


class PreemptedPlaces:
    """A listener that counts verdicts."""

    def __init__(self) -> None:
        self.verdicts: Counter[tuple[int, bool, str, int]] = Counter()

    def listen(self, event: Event) -> None:
        """Takes one event."""
        if isinstance(event, SafePointVerdict):
            self.verdicts[event.pc, event.safe, event.reason, event.resume] += 1

    def lines(self, rt: Runtime) -> Iterator[str]:
        """The commonest places, a line each."""
        for (pc, safe, reason, resume), number in self.verdicts.most_common(MOST):
            times = "once" if number == 1 else f"{number} times"
            at = where(place(rt, pc))
            if not safe:
                yield f"refused {times} at {at}: {reason}"
            elif resume == pc:
                yield f"preempted {times} at {at}"
            else:
                yield f"preempted {times} at {at}, to go on at {where(place(rt, resume))}"
        if len(self.verdicts) > MOST:
            yield f"and at {len(self.verdicts) - MOST} other places"
