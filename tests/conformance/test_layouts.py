"""The layout tables against toolchains: DWARF of a program that each builds, and its -asmhdr.

Every struct, field and constant of runtime_model/layouts is compared. PUSHCALL_GOROOTS, with `:`
between them, names further toolchains: of 1.13 to 1.18 and 1.20 there are no packages, their tables
were made with toolchains built from the releases' sources.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from toolchains import goroot, versions

from runtime_model.mklayouts import check

FURTHER = [Path(root) for root in os.environ.get("PUSHCALL_GOROOTS", "").split(":") if root]


@pytest.mark.parametrize("version", versions())
def test_the_layout_is_the_toolchains(version: str) -> None:
    assert check([goroot(version)]) == []


@pytest.mark.parametrize("root", FURTHER, ids=str)
def test_the_layout_is_a_further_toolchains(root: Path) -> None:
    assert check([root]) == []
