"""`check --scan` at every boundary of every example, in each family of asyncPreempt."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest

from pushcall.api import program
from pushcall.scan_check import check

EXAMPLES: Final = Path(__file__).parents[2] / "examples"
NAMES: Final = sorted(path.name for path in EXAMPLES.glob("*.s"))
SHORTER: Final[dict[str, dict[str, Any]]] = {"golang_nuts.s": {"defines": {"LOOPS": 20}}}


@pytest.mark.parametrize("go", ["1.14", "1.17", "1.22", "1.25", "1.26", "1.27"])
@pytest.mark.parametrize("name", NAMES)
def test_a_pointer_in_any_register_is_found_at_every_boundary(name: str, go: str) -> None:
    result = check(program(EXAMPLES / name, EXAMPLES, go=go, **SHORTER.get(name, {})).config)
    assert result.verdict == "found", "\n".join(result.lines())
    assert result.points + sum(result.refusals.values()) == result.boundaries
