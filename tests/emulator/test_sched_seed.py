"""Time slices by seed: the same seed gives the same ones, another seed others, 0 equal ones."""

from __future__ import annotations

import pytest
from small_computer import CODE, OTHER, computer, start

from emulator.fault import BudgetExhausted

SLICE = 1000


def slices(seed: int) -> list[int]:
    """How far each of two endless loops got ahead of the other, each time that they changed."""
    machine = computer(
        {CODE: "a: jmp a", OTHER: "b: jmp b"}, slice_ns=SLICE, seed=seed, budget=60_000
    )
    threads = [start(machine), start(machine, OTHER)]
    scheduler, ahead = machine.scheduler, []
    pick = scheduler.pick

    def picked() -> tuple[object, int]:
        before = scheduler.current
        found = pick()
        if before is not None and before is not found[0]:
            ahead.append(abs(threads[0].time - threads[1].time))
        return found

    scheduler.pick = picked  # type: ignore[method-assign,assignment]
    with pytest.raises(BudgetExhausted):
        machine.run()
    return ahead


def test_a_seed_gives_its_own_slices() -> None:
    assert set(slices(0)) == {SLICE}
    one, again, other = slices(1), slices(1), slices(2)
    assert one == again
    assert one != other
    for found in (one, other):
        assert len(set(found)) > 10
        assert SLICE // 2 <= min(found) <= max(found) <= SLICE * 3 // 2
