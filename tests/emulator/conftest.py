from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
from small_cpu import small_cpu

if TYPE_CHECKING:
    from collections.abc import Callable

    from emulator.unicorn_cpu import UnicornCpu


@pytest.fixture(params=["machine-code", "python"])
def machine(request: pytest.FixtureRequest) -> Callable[..., UnicornCpu]:
    """small_cpu with hooks of each kind: the results must be the same."""
    return partial(small_cpu, counting=request.param)
