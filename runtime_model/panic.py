"""runtime.throw (runtime/panic.go): the runtime found itself in a state that must not be."""

from __future__ import annotations

from emulator.fault import GuestStopped


class Throw(GuestStopped):
    """fatal error: `reason`, behind what the runtime prints before it, if it does."""

    def __init__(self, reason: str, tid: int, printed: str = "") -> None:
        super().__init__(f"runtime: {printed}; fatal error: {reason}" if printed else reason, tid)
        self.reason = reason
