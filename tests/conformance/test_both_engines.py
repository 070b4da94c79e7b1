"""Every example on both engines: the same events and registers, in every family of runtimes.

10958's loop is as long as sysmon's patience: here sysmon is less patient.
"""

from __future__ import annotations

import pytest
from both_engines import EXAMPLES, documents
from native_host import native_objection

from emulator import extended
from pushcall.api import ProgramOptions, check
from pushcall.run import Injection

NAMES = sorted(str(path.relative_to(EXAMPLES)) for path in EXAMPLES.rglob("*.s"))
FAMILIES = ["1.14", "1.17", "1.22", "1.26", "1.27"]
LONG = "issues/10958_tight_loop.s"
QUANTUM = 20_000  # ns
CHECKED = [name for name in NAMES if name != LONG and "golang_nuts" not in name]


@pytest.fixture(autouse=True)
def _native() -> None:
    if why := native_objection(extended.FEATURES):
        pytest.skip(why)


@pytest.mark.parametrize("go", FAMILIES)
@pytest.mark.parametrize("name", NAMES)
def test_events_and_registers_are_the_same(name: str, go: str) -> None:
    given: ProgramOptions = {"go": go}
    if name == LONG:
        given["budget"] = 100_000
    for timer in (QUANTUM, Injection(every=7), Injection(random=5)):
        unicorn, native = documents(name, timer, given)
        assert native == unicorn


@pytest.mark.parametrize("name", CHECKED)
def test_checks_find_the_same(name: str) -> None:
    given: ProgramOptions = {} if "issues" in name else {"go": "1.22"}
    unicorn, native = (
        check(name, EXAMPLES, engine=engine, all_direct=True, **given).to_json()
        for engine in ("unicorn", "native")
    )
    assert native["engine"] != unicorn["engine"]
    assert native | {"engine": ""} == unicorn | {"engine": ""}
