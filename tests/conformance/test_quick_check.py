"""Functions of real executables, called by themselves and preempted by their own asyncPreempt.

    pytest -s tests/conformance/test_quick_check.py

The reference is the same function in the booted program (test_booted_check.py), whose call has as
many boundaries; copies without one restore, in which that register must be lost, by name, wherever
it lives; and Go's own compiler, which says how many instructions there are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from test_booted_check import FUNCTIONS, MISSING, PROGRAM, TESTED, check, program, without
from test_prebuilt import esbuild
from toolchains import CACHE, build

from pushcall.booted.check import find
from pushcall.check.quick_check import quick_check
from runtime_model.moduledata import GoBinary

if TYPE_CHECKING:
    from pathlib import Path

    from pushcall.check.verdict import CheckResult

# What main calls them with, as far as numbers go; a list of zeros, and slices of them.
ARGUMENTS = {
    "main.integers": ("0x0123456789abcdef", "0xfedcba9876543210", "0x5555aaaa5555aaaa"),
    "main.floats": ("1.5", "2.25", "3.125f"),
    "main.pointers": ("mem:16",),
    "main.slices": ("mem:48", "6", "6", "mem:32", "4", "4"),
}


def quick(path: Path, function: str, *arguments: str, **more: int) -> CheckResult:
    with GoBinary(path) as binary:
        chosen = find(binary, function)
        return quick_check(path, binary.version, chosen, arguments=arguments, **more)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("version", TESTED)
def test_a_call_is_preserved_at_every_boundary(version: str, function: str) -> None:
    result = quick(program(version), function, *ARGUMENTS[function])
    assert (result.verdict, result.findings) == ("preserved", [])
    assert result.points == result.boundaries > 8
    print(f"{version:8} {function:14} {result.points} preempted, {result.notes[-1]}")


@pytest.mark.parametrize("function", ["main.integers", "main.floats"])
@pytest.mark.parametrize("version", TESTED)
def test_it_has_the_boundaries_of_the_booted_call(version: str, function: str) -> None:
    path = program(version)
    assert quick(path, function, *ARGUMENTS[function]).boundaries == check(path, function, 1).of


@pytest.mark.parametrize(("text", "register", "function"), MISSING)
@pytest.mark.parametrize("version", TESTED)
def test_a_restore_that_is_missing_is_lost_by_name_at_every_boundary(
    version: str, text: str, register: str, function: str, tmp_path: Path
) -> None:
    broken = without(program(version), text, tmp_path / "broken")
    result = quick(broken, function, *ARGUMENTS[function])
    assert result.verdict == "lost"
    assert register in {loss.register for loss in result.losses}
    (lost,) = [loss for loss in result.losses if loss.register == register]
    assert lost.points == result.points == result.boundaries
    if register != "RIP":
        assert [loss.register for loss in result.losses] == [register]
        assert lost.explanation is not None
        assert f"restores {register}" in lost.explanation.text.replace("restored", "restores")


@pytest.mark.parametrize("version", TESTED)
@pytest.mark.parametrize("mode", ["exe", "pie"])
def test_stripped_executables_are_checked_with_random_arguments(version: str, mode: str) -> None:
    options = ("-trimpath", f"-buildmode={mode}", "-ldflags=-s -w -linkmode=internal")
    path = build(
        version, PROGRAM, CACHE / "booted" / f"checked-{version}-stripped-{mode}", *options
    )
    first = quick(path, "main.slices", seed=1)
    assert (first.verdict, first.findings) == ("preserved", [])
    assert first.points > 1000
    assert first.to_json() == quick(path, "main.slices", seed=1, jobs=2).to_json()


@pytest.mark.parametrize("version", ["0.5.0", "0.7.0", "0.12.15"])
def test_before_1_17_arguments_lie_on_the_stack(version: str) -> None:
    """Of esbuild as its makers built it: U+1F600 takes four bytes, and mod calls frexp."""
    result = quick(esbuild(version), "unicode/utf8.EncodeRune", "mem:16", "16", "16", "0x1F600")
    assert (result.verdict, result.findings, result.unsafe) == ("preserved", [], 0)
    assert result.points == result.boundaries >= 40
    result = quick(esbuild(version), "math.mod", "1e300", "2.5")
    assert (result.verdict, result.findings) == ("preserved", [])
    assert result.points > 1000
