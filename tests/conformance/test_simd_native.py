"""asyncPreempt as GOEXPERIMENT=simd compiles it, out of executables, on the real processor.

The functions are Go's compiler's, and at their first instruction every vector and mask register
holds something: golang/go issues 81209 (YMM registers where there is AVX and no AVX2), 49233 (mask
registers) and 37174 (VZEROUPPER in asyncPreempt).
"""

from __future__ import annotations

import dataclasses
import sys
from functools import cache
from pathlib import Path

import pytest
from native_host import native_objection
from toolchains import CACHE, build

sys.path.insert(0, str(Path(__file__).parents[1] / "pushcall"))

from test_avx_trampolines import SNIPPET

from asm.mkpreempt import stack_text
from emulator import extended
from pushcall import api
from pushcall.booted.check import find
from pushcall.check import quick_check
from pushcall.check.exhaustive import check
from pushcall.usage import UsageError
from runtime_model.boot import Config
from runtime_model.moduledata import GoBinary

PROGRAM = Path(__file__).parent / "programs" / "wide"
VERSIONS = ("1.26.6", "1.27.3")
YMM = {f"YMM{n}" for n in range(16)}
ZMM = {f"ZMM{n}" for n in range(32)}
MASKS = {f"K{n}" for n in range(8)}


@pytest.fixture(autouse=True)
def _native() -> None:
    if why := native_objection(extended.FEATURES):
        pytest.skip(why)


@cache
def program(version: str, experiment: str = "simd") -> Path:
    output = CACHE / "simd" / f"wide-{version}{experiment and '-' + experiment}"
    return build(version, PROGRAM, output, experiment=experiment)


def checked(version: str, function: str, cpu: str, holding: str) -> tuple[set[str], int]:
    """What is lost on such a processor, where registers hold what another one has, and points."""
    path = program(version)
    with GoBinary(path) as binary:
        chosen = find(binary, function)
        given = quick_check.random_call(path, binary.version, chosen, 0, 0)
        call = dataclasses.replace(quick_check._on(given, holding), cpu=cpu)
        short = tuple(("RCX", 6) if name == "RCX" else (name, v) for name, v in call.registers)
        call = dataclasses.replace(call, registers=short)
        config = Config(sources=(), version=binary.version, call=call, engine="native")
    result = check(config, budget=10_000, whole=False)
    assert result.crash is None
    assert result.engine.startswith("native")
    assert result.points == result.boundaries > 20
    return {loss.register for loss in result.losses}, result.points


@pytest.mark.parametrize("function", ["main.wide", "main.narrow"])
@pytest.mark.parametrize("version", VERSIONS)
def test_every_vector_and_mask_register_is_preserved(version: str, function: str) -> None:
    lost, points = checked(version, function, "avx512", "avx512")
    assert lost == set()
    print(f"Go {version} {function}: {points} boundaries")


@pytest.mark.parametrize("version", VERSIONS)
def test_on_avx2_the_upper_halves_are_preserved(version: str) -> None:
    assert checked(version, "main.narrow", "avx2", "avx2")[0] == set()


@pytest.mark.parametrize("version", VERSIONS)
def test_81209_on_avx_without_avx2_the_upper_halves_are_lost(version: str) -> None:
    assert checked(version, "main.narrow", "avx", "avx")[0] == YMM


@pytest.mark.parametrize("version", VERSIONS)
def test_49233_what_saves_no_masks_loses_them(version: str) -> None:
    lost, _ = checked(version, "main.wide", "avx2", "avx512")
    assert lost == ZMM | MASKS


def test_without_the_experiment_there_is_nothing_to_choose() -> None:
    path = CACHE / "booted" / "checked-1.27.3"
    build("1.27.3", PROGRAM.parent / "checked", path)
    with GoBinary(path) as binary:
        function = find(binary, "main.integers")
        with pytest.raises(UsageError, match="GOEXPERIMENT=simd"):
            quick_check.quick_check(path, binary.version, function, cpu="avx2", engine="native")


# mkpreempt.go up to Go 1.23, for darwin: Go's own code has nothing in the upper halves.
@pytest.mark.parametrize("lives", [True, False])
def test_37174_vzeroupper_clears_what_lives_in_upper_halves(lives: bool) -> None:
    first = "\tMOVUPS X0, 112(SP)\n"
    trampoline = stack_text().replace(first, f"\tVZEROUPPER\n{first}")
    load = "VMOVDQU main·data(SB), Y3" if lives else "MOVOU main·data(SB), X3"
    result = api.check(SNIPPET % load, trampoline=trampoline, go="1.22", engine="native")
    assert {loss.register for loss in result.losses} == (YMM if lives else set())
