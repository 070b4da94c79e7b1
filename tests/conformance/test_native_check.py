"""The check on the real processor finds what the one on Unicorn finds: examples, faults, AVX.

Every example; the trampolines that try to slip through a batch; every single save and restore of
the AVX2 and AVX-512 layouts, dropped or halved, which is lost under its own name; the example of
golang.org/issue/81209, preempted by real signals.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "pushcall"))

from native_host import native_objection
from test_avx_mutants import LOADS, VECTORS, judge_mutants, names
from test_avx_trampolines import SNIPPET, blamed
from test_batch import LOOP, MUTANTS

from asm.mkpreempt import avx2_layout, avx512_layout
from emulator.extended import AVX, FEATURES
from pushcall.api import check, program
from pushcall.check.survey import WORTH
from pushcall.signals.run import run
from runtime_model.trampoline import simd_source
from runtime_model.version import GoVersion

if TYPE_CHECKING:
    from asm.mkpreempt import Slot
    from pushcall.check.verdict import CheckResult

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = sorted(str(path.relative_to(EXAMPLES)) for path in EXAMPLES.rglob("*.s"))


@pytest.fixture(autouse=True)
def _host() -> None:
    if objection := native_objection():
        pytest.skip(objection)


def _document(native: CheckResult, other: CheckResult) -> dict[str, object]:
    """The native check's document, with the other's in place of what says who did what."""
    document = native.to_json()
    recorded = document.pop("recorded", {})
    assert sum(recorded.values()) in (0, native.boundaries)
    return document | {"engine": other.engine, "direct": other.direct}


@pytest.mark.parametrize("name", NAMES)
def test_every_example_is_judged_as_on_unicorn(name: str) -> None:
    budget = program(EXAMPLES / name).config.budget
    one = check(EXAMPLES / name, engine="native", budget=min(budget or 20_000, 20_000))
    other = check(EXAMPLES / name, budget=min(budget or 20_000, 20_000))
    assert _document(one, other) == other.to_json()


@pytest.mark.parametrize("name", MUTANTS)
def test_every_faulty_trampoline_is_judged_as_on_unicorn(name: str) -> None:
    one = check(LOOP, trampoline=MUTANTS[name], engine="native")
    other = check(LOOP, trampoline=MUTANTS[name])
    assert one.verdict == other.verdict
    if "third" in name:  # batches do not try boundaries in the same order
        assert [loss.register for loss in one.losses] == ["R9"]
        return
    assert _document(one, other) == other.to_json()


@pytest.mark.parametrize(
    "name", ["good", "flags are forgotten", "loses R9 where a word of the stack is even"]
)
def test_so_many_boundaries_that_the_real_processor_records_them(name: str) -> None:
    text = LOOP.replace("$12, 0(SP)", "$9000, 0(SP)")
    one = check(text, trampoline=MUTANTS[name], engine="native")
    other = check(text, trampoline=MUTANTS[name])
    assert one.boundaries > WORTH
    assert _document(one, other) == other.to_json()


@pytest.mark.parametrize(("family", "slot"), VECTORS)
def test_each_avx_mutant_is_blamed_on_its_register(family: str, slot: Slot) -> None:
    if objection := native_objection(FEATURES if family == "avx512" else AVX):
        pytest.skip(objection)
    judge_mutants(family, slot, "native")


@pytest.mark.parametrize(("family", "slot"), VECTORS)
def test_each_mutant_of_simd_is_blamed_on_its_register(family: str, slot: Slot) -> None:
    """The same for asyncPreempt as GOEXPERIMENT=simd makes it, with its vectors in p.xRegs."""
    if objection := native_objection(FEATURES if family == "avx512" else AVX):
        pytest.skip(objection)
    good = simd_source(GoVersion(1, 27), family).text
    layout = {"avx2": avx2_layout, "avx512": avx512_layout}[family]()
    there = next(each for each in layout.slots if each.register == slot.register)
    snippet = SNIPPET % f"{LOADS[slot.register[0]]} main·data(SB), {slot.register}"
    for line in (there.save_line(layout.base), there.restore_line(layout.base)):
        assert good.count(f"\t{line}\n") == 1
        bad = good.replace(f"\t{line}\n", "")
        result = check(snippet, trampoline=bad, go="1.27", engine="native")
        assert sorted(blamed(result)) == sorted(names(slot)[0])


def test_upper_halves_are_lost_to_real_signals_where_nobody_saves_them() -> None:
    if objection := native_objection(AVX):
        pytest.skip(objection)
    name = EXAMPLES / "issues" / "81209_ymm_without_avx2.s"
    lost = run(program(name), quantum=None, every=10)
    assert {loss.register for loss in lost.signals[0].losses} == {f"YMM{i}" for i in range(16)}
    assert run(program(name, cpu="avx2"), quantum=None, every=1).status == 0
