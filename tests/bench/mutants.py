"""How many mutants of a trampoline are judged a second: killed by check, or proven equivalent.

Wanted: a whole family in a minute.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pushcall.check.mutants import Workshop, score
from runtime_model.trampoline import Trampoline
from runtime_model.version import GoVersion
from tests.bench.measure import Contender, Group

if TYPE_CHECKING:
    from collections.abc import Callable


def _judge(workshop: Workshop, step: int) -> Callable[[], float]:
    numbers = range(0, len(workshop.mutations), step)

    def run() -> float:
        return len(score(workshop, numbers=numbers).mutants)

    return run


def groups(scale: float) -> list[Group]:
    """One group: both families."""
    contenders = []
    for minor in (22, 27):
        workshop = Workshop(Trampoline(), GoVersion(1, minor))
        total = len(workshop.mutations)
        name = f"asyncPreempt of Go 1.{minor}, {total} mutants"
        run = _judge(workshop, max(1, int(20 / scale)))
        contenders.append(Contender(name, run))
    return [Group("mutation score", "mutants", contenders)]
