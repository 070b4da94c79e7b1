"""Stack walks at every boundary of every example, in every version (shadow_stack.py)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests" / "runtime_model"))

from test_traceback import EXAMPLES, walked  # noqa: E402  # behind the path

FILES = sorted(str(path.relative_to(EXAMPLES)) for path in EXAMPLES.rglob("*.s"))
SHORTER = {"golang_nuts.s": {"defines": {"LOOPS": 5}, "goroutines": 3}}


@pytest.mark.parametrize("go", [f"1.{minor}" for minor in range(13, 28)])
@pytest.mark.parametrize("file", FILES)
def test_walks_are_right_at_every_boundary_of_every_example(file: str, go: str) -> None:
    options = dict(SHORTER.get(file, {}), budget=20_000)
    shadow, _ = walked(EXAMPLES / file, go, 5, **options)
    assert shadow.wrong == [], "\n".join(shadow.wrong)
    assert sum(shadow.compared.values()) > 20
