"""Every example on both engines: the same steps, events and registers, in every family of runtimes.

What may differ has a name (emulator.agreement.Known) and is printed. 10958's loop is as long as
sysmon's patience: here sysmon is less patient, and the program is given up.
"""

from __future__ import annotations

import pytest
from both_engines import EXAMPLES, documents
from native_host import native_objection

from emulator import extended
from pushcall.api import ProgramOptions, check, program
from pushcall.snippet.injection import Injection
from pushcall.trace.compare import compare, lines
from runtime_model.policy import Policy

NAMES = sorted(str(path.relative_to(EXAMPLES)) for path in EXAMPLES.rglob("*.s"))
FAMILIES = ["1.14", "1.17", "1.22", "1.26", "1.27"]
LONG = "issues/10958_tight_loop.s"
QUANTUM = 20_000  # ns
STEPS = 6000  # of golang_nuts and 10958; all others are shorter
TIMERS = {"quantum": None, "every": Injection(every=7), "random": Injection(random=5)}
# Those whose header says what they need keep their version.
OWN = ("issues/", "origins/")
CASES = [
    (name, timer, go)
    for name in NAMES
    for timer in TIMERS
    for go in (FAMILIES if timer == "every" else ["1.27"])
    if not name.startswith(OWN) or go == "1.27"
]
CHECKED = [name for name in NAMES if name != LONG and "golang_nuts" not in name]


@pytest.fixture(autouse=True)
def _native() -> None:
    if why := native_objection(extended.FEATURES):
        pytest.skip(why)


@pytest.mark.parametrize(("name", "timer", "go"), CASES)
def test_every_step_is_the_same(name: str, timer: str, go: str) -> None:
    injection = TIMERS[timer]
    policy = Policy(QUANTUM if injection is None else None)
    given: ProgramOptions = {} if name.startswith(OWN) else {"go": go}
    result = compare(program(name, EXAMPLES, policy=policy, **given), injection, STEPS)
    assert result.difference is None, "\n".join(lines(result))
    assert result.steps > 500
    print(*result.known, sep="\n")


@pytest.mark.parametrize("name", [name for name in NAMES if "float" not in name])
def test_the_documents_of_a_run_are_the_same(name: str) -> None:
    given: ProgramOptions = {"budget": 20_000} if name.startswith(OWN) else {"go": "1.26"}
    unicorn, native = documents(name, QUANTUM, given)
    assert native == unicorn


@pytest.mark.parametrize("name", CHECKED)
def test_checks_find_the_same(name: str) -> None:
    given: ProgramOptions = {} if name.startswith(OWN) else {"go": "1.22"}
    unicorn, native = (
        check(
            name, EXAMPLES, engine=engine, all_direct=True, points=100, budget=20_000, **given
        ).to_json()
        for engine in ("unicorn", "native")
    )
    assert native["engine"] != unicorn["engine"]
    assert native | {"engine": ""} == unicorn | {"engine": ""}
