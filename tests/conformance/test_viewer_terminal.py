"""The viewer in a real terminal (tmux): driven by keys, its screens compared with golden ones.

The golden screens are read by people when they change: PUSHCALL_WRITE_GOLDEN=1 writes them anew.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden"
TMUX = shutil.which("tmux")
ARGUMENTS = ("examples/golang_nuts.s", "--at", "25", "--goroutines", "2", "--procs", "1")
PATIENCE = 60  # seconds

pytestmark = pytest.mark.skipif(TMUX is None, reason="tmux is not installed")


class Terminal:
    """A terminal of tmux's with the viewer in it."""

    def __init__(self, socket: str) -> None:
        self.socket = socket

    def tmux(self, *arguments: str) -> str:
        assert TMUX is not None
        done = subprocess.run(
            [TMUX, "-L", self.socket, *arguments], capture_output=True, text=True, check=True
        )
        return done.stdout

    def screen(self, *options: str) -> str:
        return self.tmux("capture-pane", "-p", *options)

    def keys(self, *keys: str) -> None:
        self.tmux("send-keys", *keys)

    def wait(self, pattern: str) -> str:
        """The screen, once it says so."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            screen = self.screen()
            if re.search(pattern, screen):
                time.sleep(0.3)
                return self.screen()
            time.sleep(0.1)
        raise AssertionError(f"{pattern!r} did not come up:\n{screen}")


@contextlib.contextmanager
def terminal(columns: int, rows: int, *, no_color: bool = False) -> Iterator[Terminal]:
    """The viewer of the golang-nuts example in a terminal of that size."""
    assert TMUX is not None
    socket = f"pushcall-{os.getpid()}-{columns}"
    server = subprocess.Popen([TMUX, "-L", socket, "-D"])
    made = Terminal(socket)
    try:
        environment = ["env", "-u", "NO_COLOR", *(["NO_COLOR=1"] if no_color else [])]
        viewer = shlex.join([*environment, sys.executable, "-m", "pushcall", "trace", *ARGUMENTS])
        command = ["sh", "-c", f"{viewer}; echo left with $?; sleep {PATIENCE}"]
        for _ in range(50):
            with contextlib.suppress(subprocess.CalledProcessError):
                made.tmux("new-session", "-d", "-x", str(columns), "-y", str(rows),
                          "-c", str(ROOT), "-e", "LANG=C.UTF-8", *command)  # fmt: skip
                break
            time.sleep(0.1)
        yield made
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            made.tmux("kill-server")
        server.terminate()
        server.wait()


def compare(name: str, screen: str) -> None:
    path = GOLDEN / f"viewer-{name}.txt"
    text = "\n".join(line.rstrip() for line in screen.splitlines()).rstrip() + "\n"
    if os.environ.get("PUSHCALL_WRITE_GOLDEN"):
        path.write_text(text, "utf-8")
    assert text == path.read_text("utf-8")


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (160, 48)])
def test_the_first_preemption_is_stepped_through_in_a_terminal(columns: int, rows: int) -> None:
    size = f"{columns}x{rows}"
    with terminal(columns, rows) as shown:
        shown.wait(r"step 0 of \d+")
        shown.keys("p")
        compare(f"pushcall-{size}", shown.wait("step 617 of"))
        shown.keys("N")
        compare(f"before-{size}", shown.wait("step 616 of"))
        shown.keys("n")
        shown.wait("step 617 of")
        shown.keys("/")
        shown.keys("-l", "asyncPreempt+0x5")
        shown.keys("Enter")
        shown.wait("step 630 of")
        shown.keys("w")
        shown.keys("-l", "0xc000412fb0")
        shown.keys("Enter")
        compare(f"who-wrote-{size}", shown.wait("written before step 617: pushCall"))
        shown.keys("q")
        shown.wait("left with 0")


def test_it_follows_the_terminals_size() -> None:
    with terminal(160, 48) as shown:
        shown.wait(r"step 0 of \d+")
        shown.keys("p")
        assert "─ fields ─" in shown.wait("step 617 of")
        shown.tmux("resize-window", "-x", "80", "-y", "24")
        screen = shown.wait(r"(?s)^─ code ─+\n.*registers.*stack")
        assert "─ fields ─" not in screen
        assert "pushed PC" in screen


def test_no_color_is_heeded_and_signs_say_the_same() -> None:
    with terminal(80, 24, no_color=True) as shown:
        shown.wait(r"step 0 of \d+")
        shown.keys("p")
        assert "*0xc000412fb0" in shown.wait("step 617 of")
        colours = set(re.findall(r"\x1b\[[0-9;]*?38;2;(\d+);(\d+);(\d+)", shown.screen("-e")))
        assert all(red == green == blue for red, green, blue in colours)
        assert not re.search(r"\x1b\[(?:[0-9;]*;)?(?:3[1-6]|9[1-6])m", shown.screen("-e"))
