from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from native_host import native_objection
from small_cpu import counted_cpu, small_cpu

from emulator import extended
from emulator.native import cpu as native_cpu

if TYPE_CHECKING:
    from collections.abc import Callable

    from emulator.unicorn_cpu import UnicornCpu


COUNTINGS = ("machine-code", "python", "block")


def eager(*arguments: Any, **options: Any) -> UnicornCpu:
    """small_cpu that runs blocks as soon as it can, and single instructions one by one."""
    cpu = small_cpu(*arguments, counting="block", **options)
    cpu._blocks_from, cpu._chunks = 1, (1, 1)
    return cpu


@pytest.fixture(params=COUNTINGS)
def unicorn(request: pytest.FixtureRequest) -> Callable[..., UnicornCpu]:
    """small_cpu with hooks of each kind: the results must be the same."""
    return _maker(request.param)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Where stops are tested the real processor runs at full speed, too."""
    if "machine" in metafunc.fixturenames:
        counts = ["counted"] if metafunc.module.__name__ == "test_cpu_stops" else []
        metafunc.parametrize("machine", [*COUNTINGS, "native", *counts], indirect=True)


@pytest.fixture
def machine(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., UnicornCpu]:
    """The same, and the real processor: the results must still be the same."""
    if request.param in ("native", "counted"):
        needs = extended.FEATURES if "avx" in request.module.__name__ else 0
        if why := native_objection(needs):
            pytest.skip(why)
    if request.param == "counted":
        monkeypatch.setattr(native_cpu, "WORTH", 1)
        return counted_cpu
    return _maker(request.param)


def _maker(kind: str) -> Callable[..., UnicornCpu]:
    if kind == "block":
        return eager
    if kind == "native":
        return partial(small_cpu, engine="native")
    return partial(small_cpu, counting=kind)
