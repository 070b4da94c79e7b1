"""From start to output: `pushcall run` of a small example, and what Python and Unicorn take of it.

Wanted: 0.3 s. Python's bytecode caches are used, as by anybody who runs it twice.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.bench.measure import Command, Group

ROOT = Path(__file__).parents[2]


def python(*arguments: str) -> list[str]:
    """A command line of this Python, free to write and read its bytecode caches."""
    return ["env", "-u", "PYTHONDONTWRITEBYTECODE", sys.executable, *arguments]


def groups(scale: float) -> list[Group]:  # noqa: ARG001  # a start is a start
    """One group: processor time of whole commands."""
    example = os.path.relpath(ROOT / "examples" / "add.s")
    return [
        Group(
            "start-up",
            "commands",
            [
                Command("pushcall run examples/add.s", 0.3,
                        python("-m", "pushcall", "run", example)),
                Command("pushcall check examples/add.s", None,
                        python("-m", "pushcall", "check", example)),
                Command("python -c 'import unicorn'", None, python("-c", "import unicorn")),
                Command("python -c pass", None, python("-c", "pass")),
            ],
        )
    ]  # fmt: skip
