"""What instructions cost that Unicorn does not execute exactly by itself (emulator.fence)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.bench.measure import Contender, Group
from tests.bench.programs import FENCED, FENCED_ROUND, processor

if TYPE_CHECKING:
    from collections.abc import Callable

FREE = ("LOCK XADD", "LOCK CMPXCHG")  # run in blocks


def loop(name: str, rounds: int) -> Callable[[], float]:
    """Runs so many rounds of a loop with one such instruction in it."""
    cpu = processor(name)

    def run() -> float:
        cpu.run(rounds * FENCED_ROUND)
        return rounds

    return run


def groups(scale: float) -> list[Group]:
    """One group: rounds of each loop a second."""
    fast, slow = int(200_000 * scale) + 1, int(4_000 * scale) + 1
    contenders = [Contender(name, loop(name, fast if name in FREE else slow)) for name in FENCED]
    wanted = [("LOCK CMPXCHG", "LOCK XADD", 0.3)]
    return [Group("instructions behind the fence", "rounds", contenders, wanted)]
