"""What of the runtime's own machinery is on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

forcePreemptNS: Final = 10_000_000


@dataclass(frozen=True)
class Policy:
    """GODEBUG, and sysmon's patience."""

    force_preempt_ns: int | None = forcePreemptNS  # None: sysmon never preempts
    asyncpreemptoff: bool = False  # GODEBUG=asyncpreemptoff=1
    gcshrinkstackoff: bool = False  # GODEBUG=gcshrinkstackoff=1
