from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from small_cpu import small_cpu

if TYPE_CHECKING:
    from collections.abc import Callable

    from emulator.unicorn_cpu import UnicornCpu


def eager(*arguments: Any, **options: Any) -> UnicornCpu:
    """small_cpu that runs blocks as soon as it can, and single instructions one by one."""
    cpu = small_cpu(*arguments, counting="block", **options)
    cpu._blocks_from, cpu._chunks = 1, (1, 1)
    return cpu


@pytest.fixture(params=["machine-code", "python", "block"])
def machine(request: pytest.FixtureRequest) -> Callable[..., UnicornCpu]:
    """small_cpu with hooks of each kind: the results must be the same."""
    if request.param == "block":
        return eager
    return partial(small_cpu, counting=request.param)
