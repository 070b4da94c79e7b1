"""The viewer in a real terminal (tmux): driven by keys, its screens compared with golden ones.

The golden screens are read by people when they change: PUSHCALL_WRITE_GOLDEN=1 writes them anew.
Long numbers, which follow from where the runtime's structures lie, are not compared.
"""

from __future__ import annotations

import contextlib
import functools
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

from pushcall import api
from pushcall.snippet.injection import Injection
from pushcall.trace.recorded import record
from runtime_model.events import PushedCall
from runtime_model.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden"
TMUX = shutil.which("tmux")
ARGUMENTS = ("examples/golang_nuts.s", "--at", "25", "--goroutines", "2", "--procs", "1")
PATIENCE = 60  # seconds

pytestmark = pytest.mark.skipif(TMUX is None, reason="tmux is not installed")


@functools.cache
def pushed() -> tuple[int, PushedCall, int]:
    """The step at which pushCall has been, its event, and asyncPreempt's first step."""
    loaded = api.program(ROOT / ARGUMENTS[0], goroutines=2, procs=1, policy=Policy(None))
    run = record(loaded, Injection(at=(25,)))
    step, event = next((m.step, m.event) for m in run.events if isinstance(m.event, PushedCall))
    push = run.recording.find(run.rt.symbol("asyncPreempt"), step)
    assert push is not None
    return step, event, push


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
    masked = re.sub(r"\b(0x)?[0-9a-f]{7,16}\b", lambda found: "#" * len(found[0]), screen)
    text = "\n".join(line.rstrip() for line in masked.splitlines()).rstrip() + "\n"
    if os.environ.get("PUSHCALL_WRITE_GOLDEN"):
        path.write_text(text, "utf-8")
    assert text == path.read_text("utf-8")


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (160, 48)])
def test_the_first_preemption_is_stepped_through_in_a_terminal(columns: int, rows: int) -> None:
    size = f"{columns}x{rows}"
    step, event, push = pushed()
    with terminal(columns, rows) as shown:
        shown.wait(r"step 0 of \d+")
        shown.keys("p")
        compare(f"pushcall-{size}", shown.wait(f"step {step} of"))
        assert f"*{event.rsp_after:#x} {event.resume:016x} < SP pushed PC" in shown.screen()
        shown.keys("N")
        compare(f"before-{size}", shown.wait(f"step {step - 1} of"))
        shown.keys("n")
        shown.wait(f"step {step} of")
        shown.keys("/")
        shown.keys("-l", "asyncPreempt+0x5")
        shown.keys("Enter")
        shown.wait(f"step {push + 3} of")
        shown.keys("w")
        shown.keys("-l", f"{event.rsp_after:#x}")
        shown.keys("Enter")
        compare(f"who-wrote-{size}", shown.wait(f"written before step {step}: pushCall"))
        shown.keys("q")
        shown.wait("left with 0")


def test_it_follows_the_terminals_size() -> None:
    with terminal(160, 48) as shown:
        shown.wait(r"step 0 of \d+")
        shown.keys("p")
        assert "─ fields ─" in shown.wait(f"step {pushed()[0]} of")
        shown.tmux("resize-window", "-x", "80", "-y", "24")
        screen = shown.wait(r"(?s)^─ code ─+\n.*registers.*stack")
        assert "─ fields ─" not in screen
        assert "pushed PC" in screen


def test_no_color_is_heeded_and_signs_say_the_same() -> None:
    with terminal(80, 24, no_color=True) as shown:
        shown.wait(r"step 0 of \d+")
        shown.keys("p")
        step, event, _ = pushed()
        assert f"*{event.rsp_after:#x}" in shown.wait(f"step {step} of")
        colours = set(re.findall(r"\x1b\[[0-9;]*?38;2;(\d+);(\d+);(\d+)", shown.screen("-e")))
        assert all(red == green == blue for red, green, blue in colours)
        assert not re.search(r"\x1b\[(?:[0-9;]*;)?(?:3[1-6]|9[1-6])m", shown.screen("-e"))
