"""The viewer on a trace of 1,000,000 steps: the command until its first screen, and one step.

The command runs in a pseudo-terminal and is left by its key; recording is part of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from pushcall import api
from pushcall.snippet.injection import Injection
from pushcall.trace.recorded import record
from pushcall.trace.viewer import Viewer
from runtime_model.policy import Policy
from tests.bench.measure import Contender, Group

if TYPE_CHECKING:
    from pushcall.trace.recorded import RecordedRun

NUTS = Path(__file__).parents[2] / "examples" / "golang_nuts.s"
SIZE = (160, 48)
MILLION = 1_000_000


def _loops(steps: int) -> int:
    return steps // 30 // 10 + 10


def _open(steps: int) -> None:
    """The command itself, until its status line is there."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", SIZE[1], SIZE[0], 0, 0))
    command = [
        sys.executable, "-m", "pushcall", "trace", str(NUTS), "--every", "10000", "--go", "1.22",
        "-D", f"LOOPS={_loops(steps)}", "--procs", "2", "--steps", str(steps),
    ]  # fmt: skip
    environment = os.environ | {"TERM": "xterm-256color"}
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
    )
    os.close(theirs)
    shown = b""
    while f"of {steps}".encode() not in shown:
        shown += os.read(ours, 1 << 16)
    os.write(ours, b"q")
    with contextlib.suppress(OSError):  # the terminal ends with the command
        while os.read(ours, 1 << 16):
            pass
    assert process.wait() == 0
    os.close(ours)


def _recorded(steps: int) -> RecordedRun:
    """30 goroutines on two Ps, preempted every 10,000 instructions, cut at so many steps."""
    program = api.program(
        NUTS,
        go="1.22",
        goroutines=30,
        procs=2,
        defines={"LOOPS": _loops(steps)},
        policy=Policy(None),
    )
    run = record(program, Injection(every=10_000), limit=steps)
    assert len(run) == steps
    return run


async def _press(run: RecordedRun, count: int) -> None:
    viewer = Viewer(run)
    async with viewer.run_test(size=SIZE) as pilot:
        viewer._go(len(run) // 2)
        for number in range(count):
            await pilot.press("right" if number % 3 else "left")
        await pilot.pause()


def groups(scale: float) -> list[Group]:
    """Two groups: their units have nothing in common."""
    steps = int(MILLION * scale)

    @cache
    def kept() -> RecordedRun:
        return _recorded(steps)

    def open_() -> float:
        _open(steps)
        return 1

    def step(count: int = 100) -> float:
        asyncio.run(_press(kept(), count))
        return count

    return [
        Group("view: open", "openings", [Contender(f"open {steps} steps", open_, 2.0)]),
        Group("view: step", "steps", [Contender(f"a key's step among {steps}", step, 0.05)]),
    ]
