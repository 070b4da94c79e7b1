"""Where output goes: what the shell gives a command for standard output, and what it makes of it.

Statuses and errors are those of pipe(7), null(4) and full(4); colours follow no-color.org.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from emulator.registers import Registers
from pushcall import show
from pushcall.snippet.run import Outcome
from pushcall.snippet.text import final_registers

EXAMPLES = Path(__file__).parents[2] / "examples"
LOST = EXAMPLES / "lost" / "red_zone.s"


def in_shell(command: str, **environment: str) -> tuple[int, str, str]:
    """(status, standard output, standard error) of a command line for bash."""
    done = subprocess.run(
        ["bash", "-c", command.replace("pushcall", f"{sys.executable} -m pushcall")],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_a_reader_that_has_gone_leaves_the_exit_status_alone() -> None:
    status, _, err = in_shell(f"set -o pipefail; pushcall check {LOST} | true")
    assert (status, err) == (1, "")


def test_a_full_disk_is_one_message() -> None:
    status, _, err = in_shell(f"pushcall asm {LOST} > /dev/full")
    assert (status, err) == (2, "pushcall: standard output: No space left on device\n")


def test_closed_streams_are_no_error() -> None:
    status, _, err = in_shell(f"pushcall check {LOST} >&- <&-")
    assert (status, err) == (1, "")


def test_an_encoding_without_a_character_shows_a_question_mark() -> None:
    command = f"pushcall run {EXAMPLES / 'add.s'} --every 9"
    status, out, err = in_shell(command, PYTHONIOENCODING="ascii")
    assert (status, err) == (0, "")
    assert "before                                   after" in out
    assert "? SP" in out  # the arrow


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("name", "value", "coloured"),
    [("NO_COLOR", "1", False), ("NO_COLOR", "", True), ("TERM", "dumb", False)],
)
def test_colour_is_for_terminals_that_want_it(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, coloured: bool
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv(name, value)
    terminal = Terminal()
    show.show(["! lost"], terminal)
    assert ("\x1b[" in terminal.getvalue()) == coloured
    assert "lost" in terminal.getvalue()


def test_json_has_escapes_where_the_output_has_no_such_character(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", narrow)
    assert show.json_text("main·main") == '"main\\u00b7main"'


def test_many_ends_of_goroutines_are_counted() -> None:
    ended = {}
    for goid in range(1, 15):
        ended[goid] = Registers()
        ended[goid]["RAX"] = goid
    lines = final_registers(Outcome(0, None, False, 0, 0, 0, goroutines=dict(ended)))
    assert lines[9:] == ["G10 ended with RAX = 0xa (10)", "and 4 other ends"]
