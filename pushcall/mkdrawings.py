"""Draws the pictures of docs/: `python -m pushcall.mkdrawings` (`make docs`).

The viewer as it looks in a terminal, commands as a terminal shows them, and the drawing of
`trace --svg`. Each is made by what it shows; tests compare the words in them.
"""

from __future__ import annotations

import asyncio
import io
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pushcall import api
from pushcall.snippet.injection import Injection
from pushcall.trace.drawing import svg
from pushcall.trace.recorded import record
from runtime_model.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pushcall.trace.recorded import RecordedRun

ROOT: Final = Path(__file__).parents[1]
DOCS: Final = ROOT / "docs"
EXAMPLE: Final = "examples/golang_nuts.s"


def recorded() -> RecordedRun:
    """What `pushcall trace examples/golang_nuts.s --at 25 --goroutines 2 --procs 1` records."""
    program = api.program(EXAMPLE, ROOT, goroutines=2, procs=1, policy=Policy(None))
    return record(program, Injection(at=(25,)))


def viewer(size: tuple[int, int], keys: Sequence[str]) -> str:
    """The viewer in a terminal of so many columns and rows, behind some keys."""
    from pushcall.trace.viewer import Viewer

    async def draw() -> str:
        app = Viewer(recorded())
        async with app.run_test(size=size) as pilot:
            await pilot.press(*keys)
            await pilot.pause()
            return app.export_screenshot(title=f"pushcall trace {EXAMPLE}")

    return asyncio.run(draw())


def session(columns: int, *commands: str) -> str:
    """Commands of ours and what they print to a terminal."""
    from rich.console import Console
    from rich.text import Text

    console = Console(record=True, width=columns, file=io.StringIO(), force_terminal=True)
    for command in commands:
        console.print(Text.assemble(("$ ", "bold"), command))
        console.print(Text.from_ansi(_in_terminal(columns, command.split()[1:])))
    return console.export_svg(title="pushcall")


def _in_terminal(columns: int, arguments: Sequence[str]) -> str:
    ours, theirs = pty.openpty()
    environment = os.environ | {"COLUMNS": str(columns), "TERM": "xterm-256color"}
    environment.pop("NO_COLOR", None)
    with subprocess.Popen(  # noqa: S603  # a command of ours
        [sys.executable, "-m", "pushcall", *arguments],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.DEVNULL,
    ):
        os.close(theirs)
        printed = b""
        try:
            while part := os.read(ours, 1 << 16):
                printed += part
        except OSError:  # the command has ended, and with it the terminal
            pass
        os.close(ours)
    return printed.decode("utf-8").replace("\r\n", "\n").rstrip()


DRAWINGS: Final[dict[str, Callable[[], str]]] = {
    "pushcall.svg": lambda: svg(recorded()),
    "viewer.svg": lambda: viewer((120, 36), ["p"]),
    "viewer-small.svg": lambda: viewer((80, 24), ["p", "right", "right", "right"]),
    "check.svg": lambda: session(
        100,
        "pushcall check examples/register_loop.s",
        "pushcall check examples/lost/red_zone.s",
    ),
}


def main() -> None:
    """Writes all of them."""
    for name, draw in DRAWINGS.items():
        (DOCS / name).write_text(draw(), "utf-8")


if __name__ == "__main__":
    main()
