"""What differs between Go versions, each difference in one place.

Sources: the runtime and internal/abi of the versions; the struct layouts stand in layout.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

OLDEST: Final = (1, 13)
NEWEST: Final = (1, 27)
DEFAULT: Final = (1, 22)


@dataclass(frozen=True)
class GoVersion:
    """One minor version of Go, and the rules that hold in it."""

    major: int
    minor: int
    patch: int | None = field(default=None, compare=False)  # None: the last one

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"

    @property
    def number(self) -> tuple[int, int]:
        """(major, minor), for comparing."""
        return (self.major, self.minor)

    @cached_property
    def asynchronous(self) -> bool:
        """Whether signals preempt (preemptMSupported on linux/amd64): since 1.14."""
        return self.number >= (1, 14)

    @cached_property
    def register_abi(self) -> bool:
        """Whether ABIInternal passes arguments in registers, R14 is g and X15 zero: since 1.17."""
        return self.number >= (1, 17)

    @cached_property
    def extended_registers(self) -> bool:
        """Whether asyncPreempt saves vectors to p.xRegs instead of the stack: since 1.26."""
        return self.number >= (1, 26)

    @cached_property
    def scans_extended_registers(self) -> bool:
        """Whether scanstack scans g.xRegs (xRegScan): since 1.27."""
        return self.number >= (1, 27)

    @cached_property
    def clears_upper_halves_on_darwin(self) -> bool:
        """Whether asyncPreempt runs VZEROUPPER on darwin (issue 37174): from 1.14 to 1.23."""
        return (1, 14) <= self.number <= (1, 23)

    @cached_property
    def restarts(self) -> bool:
        """Whether isAsyncSafePoint accepts restart sequences: since 1.18.

        The compiler never emits them on amd64, in any version.
        """
        return self.number >= (1, 18)

    @cached_property
    def only_marked_safe(self) -> bool:
        """Whether all values of table 0 but -1 are unsafe: from 1.15 to 1.17.

        In 1.14 the table holds indices of register maps; of these -2 alone is unsafe.
        """
        return (1, 15) <= self.number <= (1, 17)

    @cached_property
    def asyncpreemptoff_in_handler(self) -> bool:
        """Whether sighandler looks at asyncpreemptoff, too (issue 38531): since 1.15."""
        return self.number >= (1, 15)

    @cached_property
    def gosched_wakes(self) -> bool:
        """Whether goschedImpl wakes another P for the goroutine that it queued: since 1.22."""
        return self.number >= (1, 22)

    @cached_property
    def needspinning(self) -> bool:
        """Whether a wakep that finds no idle P has the next M look for work: since 1.20."""
        return self.number >= (1, 20)

    @cached_property
    def keeps_stopped(self) -> bool:
        """Whether a P that stops with the world keeps the goroutine it preempted: since 1.26."""
        return self.number >= (1, 26)

    @cached_property
    def remembers_m(self) -> bool:
        """Whether a P goes to the M that it was on when the world starts (p.oldm): since 1.26."""
        return self.number >= (1, 26)

    @cached_property
    def deep_sleep_resets(self) -> bool:
        """Whether sysmon begins anew after any deep sleep, not only if woken: up to 1.15."""
        return self.number <= (1, 15)

    @cached_property
    def grows_to_fit(self) -> bool:
        """Whether newstack doubles until the function's frame fits: since 1.15."""
        return self.number >= (1, 15)

    @cached_property
    def fits_what_is_used(self) -> bool:
        """Whether that counts what is in use, not the old stack's size: since 1.17."""
        return self.number >= (1, 17)

    @cached_property
    def sync_safe_point(self) -> bool:
        """Whether newstack marks a goroutine that it preempts (g.syncSafePoint): since 1.25."""
        return self.number >= (1, 25)

    @cached_property
    def g0_stack(self) -> int:
        """Bytes of the g0 stack of a new M: 8 KiB up to 1.20, 16 KiB since."""
        return 16384 if self.number >= (1, 21) else 8192

    @cached_property
    def psyscall(self) -> bool:
        """Whether a P in a system call is _Psyscall, and wired to no M: up to 1.25."""
        return self.number <= (1, 25)

    @cached_property
    def enlists_idle(self) -> bool:
        """Whether enlistWorker wakes an idle P before it preempts one (Green Tea): since 1.26."""
        return self.number >= (1, 26)

    @cached_property
    def curg_checked(self) -> bool:
        """Whether canPreemptM refuses a goroutine in a system call: since 1.26."""
        return self.number >= (1, 26)

    @cached_property
    def never_preempted_packages(self) -> tuple[str, ...]:
        """Prefixes of function names that isAsyncSafePoint refuses."""
        if self.number >= (1, 25):
            return ("runtime.", "internal/runtime/", "reflect.")
        # internal/runtime came to the list with 1.23.8 and 1.24.2 (golang.org/issue/71591).
        first = {(1, 23): 8, (1, 24): 2}.get(self.number)
        if first is not None and (self.patch is None or self.patch >= first):
            return ("runtime.", "runtime/internal/", "internal/runtime/", "reflect.")
        return ("runtime.", "runtime/internal/", "reflect.")
