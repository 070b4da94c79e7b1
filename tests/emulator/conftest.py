from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from native_host import native_objection
from small_cpu import small_cpu

from emulator import extended

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


@pytest.fixture(params=[*COUNTINGS, "native"])
def machine(request: pytest.FixtureRequest) -> Callable[..., UnicornCpu]:
    """The same, and the real processor: the results must still be the same."""
    if request.param == "native":
        needs = extended.FEATURES if "avx" in request.module.__name__ else 0
        if why := native_objection(needs):
            pytest.skip(why)
    return _maker(request.param)


def _maker(kind: str) -> Callable[..., UnicornCpu]:
    if kind == "block":
        return eager
    if kind == "native":
        return partial(small_cpu, engine="native")
    return partial(small_cpu, counting=kind)
