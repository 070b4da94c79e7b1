"""200,000 inputs to the assembler: an image or errors, never a crash, a hang, or another exception.

    pytest -s tests/conformance/test_asm_fuzz_full.py

prints how many there were, how many were accepted and the slowest. What is accepted has been
read back by Capstone as what was asked: an encoder's slip would be an error that says so.
"""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.asm import test_asm_fuzz as fuzz

if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT = 20  # seconds of processor time for one input: far beyond what any takes
VERSIONS = st.sampled_from([(1, minor) for minor in range(13, 28)])


def go_lines(case: tuple[list[str], tuple[int, int]]) -> str:
    lines, go = case
    return fuzz.outcome(fuzz.FRAME.format("\n".join(lines)), go)


def go_noise(case: tuple[str, tuple[int, int]]) -> str:
    text, go = case
    fuzz.outcome(text, go)
    return fuzz.outcome(fuzz.FRAME.format(text), go)


def byte_noise(data: bytes) -> str:
    text = data.decode("utf-8", "surrogateescape").encode("utf-8", "replace").decode("utf-8")
    return fuzz.outcome(text, (1, 22))


CASES: dict[str, tuple[int, Any, Callable[[Any], str]]] = {
    "statements of Go assembly": (
        60_000,
        st.tuples(st.lists(fuzz.statements, min_size=1, max_size=3), VERSIONS),
        go_lines,
    ),
    "statements with operands that go together": (
        30_000,
        st.tuples(st.lists(fuzz.shaped(), min_size=1, max_size=1), VERSIONS),
        go_lines,
    ),
    "characters": (40_000, st.tuples(fuzz.noise, VERSIONS), go_noise),
    "bytes": (20_000, st.binary(max_size=200), byte_noise),
    "Intel statements": (
        20_000,
        fuzz.intel_statements,
        lambda text: fuzz.outcome(fuzz.X86.format(text), (1, 22), "intel"),
    ),
    "AT&T statements": (
        20_000,
        fuzz.att_statements,
        lambda text: fuzz.outcome(fuzz.X86.format(text), (1, 22), "att"),
    ),
    "damaged listings": (10_000, fuzz.damaged_listings(), fuzz.listing_outcome),
}


@pytest.mark.parametrize("name", CASES)
def test_every_input_ends_in_an_image_or_an_error(name: str) -> None:
    count, strategy, run = CASES[name]
    done = accepted = 0
    slowest = 0.0

    @settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def each(case: Any) -> None:
        nonlocal done, accepted, slowest
        start = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, LIMIT)
        try:
            errors = run(case)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        assert "not encoded right" not in errors
        done += 1
        accepted += not errors
        slowest = max(slowest, time.process_time() - start)

    before = signal.signal(signal.SIGPROF, _too_long)
    try:
        each()
    finally:
        signal.signal(signal.SIGPROF, before)
    print(f"\n{name}: {done:,} inputs, {accepted:,} accepted, the slowest {slowest:.2f} s")
    assert done >= count


def _too_long(*_: object) -> None:
    raise AssertionError(f"an input takes more than {LIMIT} seconds")
