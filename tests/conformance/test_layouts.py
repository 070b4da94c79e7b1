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


@pytest.mark.parametrize("toolchain", [*versions(), *FURTHER], ids=str)
def test_the_layout_is_the_toolchains(toolchain: str | Path) -> None:
    root = toolchain if isinstance(toolchain, Path) else goroot(toolchain)
    assert check([root]) == []
