"""Every mutant of both families' trampolines: killed by check, or proven equivalent; never both.

Each version has its own struct layouts, and with them its own trampoline. One of each family is
checked on the real processor, too.
"""

from __future__ import annotations

import pytest
from native_host import native_objection

from emulator.engines import NATIVE, UNICORN
from pushcall.check.mutants import EQUIVALENT, KILLED, SURVIVED, Workshop, score
from runtime_model.trampoline import Trampoline
from runtime_model.version import GoVersion

CONFIRMED = [(1, 22), (1, 27)]


CASES = [(minor, UNICORN) for minor in range(14, 28)] + [(minor, NATIVE) for _, minor in CONFIRMED]


@pytest.mark.parametrize(("minor", "engine"), CASES)
def test_every_mutant_is_killed_or_proven(minor: int, engine: str) -> None:
    if engine == NATIVE and (objection := native_objection()):
        pytest.skip(objection)
    version = GoVersion(1, minor)
    workshop = Workshop(Trampoline(), version, engine)
    # What is proven is checked too, for one version of each family; the proof knows no engine.
    result = score(workshop, confirm=engine != NATIVE and (1, minor) in CONFIRMED)
    counts = {verdict: len(result.of(verdict)) for verdict in (KILLED, EQUIVALENT, SURVIVED)}
    print(f"Go {version}: {result.total} mutants of {result.instructions} instructions: {counts}")
    assert [f"{mutant}: {mutant.why}" for mutant in result.of(SURVIVED)] == []
    assert counts[KILLED] + counts[EQUIVALENT] == result.total
    assert counts[KILLED] > 800
