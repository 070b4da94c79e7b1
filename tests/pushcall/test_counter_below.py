"""The counter below a program's output leaves on the terminal what the program alone would.

What the terminal shows follows from ECMA-48: CR, LF, CUU, EL.
"""

from __future__ import annotations

import io
import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pushcall import show

if TYPE_CHECKING:
    import pytest

PIECES = (b"one\n", b"begun", b" and ended\n", b"two\nthree\n", b"no end")


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


def screen(text: str) -> list[str]:
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\n]|[^\x1b\r\n]+", text):
        if part == "\r":
            column = 0
        elif part == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif part.endswith("A") and part[0] == "\x1b":
            row -= int(part[2:-1] or 1)
        elif part == "\x1b[2K":
            lines[row] = ""
        elif part[0] != "\x1b":
            lines[row] = lines[row][:column].ljust(column) + part + lines[row][column + len(part) :]
            column += len(part)
    assert not any(lines[row + 1 :])
    return lines[: row + 1]  # down to the cursor


def standard_error(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    made = Terminal(io.BytesIO(), encoding="utf-8", write_through=True)
    monkeypatch.setattr(sys, "stderr", made)
    monkeypatch.setenv("TERM", "xterm")
    for name in ("NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(show, "_PATIENCE", 0.0)
    monkeypatch.setattr(show, "_PAUSE", 0.001)
    return made


def written(terminal: Terminal) -> str:
    buffer = terminal.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode()


def wait_for(text: str, terminal: Terminal) -> None:
    """In the last line; a thread of its own draws it."""
    end = time.monotonic() + 30
    while text not in screen(written(terminal))[-1]:
        assert time.monotonic() < end
        time.sleep(0.001)


def test_it_leaves_what_the_program_wrote(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = standard_error(monkeypatch)
    counter = show.Below("instructions")
    plain, begun = b"", []
    for number, piece in enumerate(PIECES):
        counter.write(terminal, piece)
        plain += piece
        assert screen(written(terminal)) == plain.decode().split("\n")
        counter._next = 0.0
        counter.report(number)
        if plain.endswith(b"\n"):
            wait_for(f"{number} instructions", terminal)
        else:
            begun.append(number)
            assert screen(written(terminal)) == plain.decode().split("\n")
    assert begun == [1, 4]
    counter.clear()
    assert screen(written(terminal)) == plain.decode().split("\n")


def test_output_behind_a_pipe_counts_and_into_a_file_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = standard_error(monkeypatch)
    counter = show.Below("instructions")
    ends = os.pipe()
    with (
        os.fdopen(ends[0], "rb") as reader,
        os.fdopen(ends[1], "w") as pipe,
        Path(os.devnull).open("w", encoding="utf-8") as elsewhere,
    ):
        for stream, there in ((pipe, False), (elsewhere, True)):
            counter._next = 0.0
            counter.report(7)
            wait_for("7 instructions", terminal)
            counter.write(stream, b"x\n")
            assert ("7 instructions" in screen(written(terminal))[-1]) is there
        counter.clear()
        pipe.close()
        assert reader.read() == b"x\n"


def test_it_is_for_terminals_and_for_what_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = standard_error(monkeypatch)
    monkeypatch.setattr(show, "_PATIENCE", 60.0)
    show.Below("instructions").report(1)
    monkeypatch.setattr(show, "_PATIENCE", 0.0)
    monkeypatch.setattr(terminal, "isatty", lambda: False)
    show.Below("instructions").report(1)
    assert not written(terminal)
