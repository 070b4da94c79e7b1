"""The terminal sessions of README.md and docs/*.md: run as printed, and compared.

A fenced block's first line says what it is:

    ```console            a session: lines behind `$ ` are commands, the others what they print
    ```console long       the same, for `make conformance`: it needs a toolchain, or minutes
    ```asm loop.s         a file of that name, which the sessions below it find

`…` alone on a line stands for any lines, within a line for any text. A command with nothing below
it must succeed, and may print anything. Standard error is shown as a terminal shows it: in place.
Sessions of a document share a directory, with `examples` in it; the terminal has 80 columns.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pushcall.cli import main as cli

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
COLUMNS = "80"
SHELLS_OWN = frozenset("|&;<>$`*?")  # of a command that only a shell understands


@dataclass
class Command:
    """A command line and the lines that are printed below it."""

    line: int
    text: str
    printed: list[str] = field(default_factory=list)


@dataclass
class Block:
    """A fenced block: the words behind the fence, its text, and the number of its first line."""

    words: list[str]
    line: int
    lines: list[str] = field(default_factory=list)

    @property
    def session(self) -> bool:
        return self.words[:1] == ["console"]

    @property
    def long(self) -> bool:
        return self.words[1:] == ["long"]

    @property
    def file(self) -> str | None:
        return self.words[1] if len(self.words) > 1 and not self.session else None

    def commands(self) -> Iterator[Command]:
        command: Command | None = None
        for number, line in enumerate(self.lines, self.line):
            if line.startswith("$ "):
                if command is not None:
                    yield command
                command = Command(number, line[2:])
            elif command is None:
                raise AssertionError(f"line {number}: printed by no command: {line}")
            else:
                command.printed.append(line.rstrip())
        if command is not None:
            yield command


def blocks(path: Path) -> list[Block]:
    """A document's fenced blocks."""
    found: list[Block] = []
    inside = False
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if line.startswith("```"):
            inside = not inside
            if inside:
                found.append(Block(line[3:].split(), number + 1))
        elif inside:
            found[-1].lines.append(line)
    assert not inside, f"{path}: a block without an end"
    return found


def loose_commands(path: Path) -> list[str]:
    """Commands of ours that stand in code, but in no session: nobody runs them."""
    found = [
        f"{path.name}:{block.line + index}: {line}"
        for block in blocks(path)
        if not block.session
        for index, line in enumerate(block.lines)
        if re.match(r"(\$ )?pushcall ", line)
    ]
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if re.match(r" {4,}(\$ )?pushcall ", line):
            found.append(f"{path.name}:{number}: {line}")
    return found


def mentioned(path: Path) -> list[str]:
    """What stands between backquotes within the text and begins as a command of ours does."""
    text = re.sub(r"^```.*?^```", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [" ".join(each.split()) for each in re.findall(r"`(pushcall [^`]+)`", text)]


class Session:
    """Runs the commands of one document, in a directory of their own."""

    def __init__(self, directory: Path, path: str = "") -> None:
        self.directory = directory
        bin_ = Path(sys.executable).parent
        self.environment = os.environ | {
            "COLUMNS": COLUMNS,
            "PATH": f"{path}{bin_}:{os.environ['PATH']}",
        }
        (directory / "examples").symlink_to(ROOT / "examples")

    def play(self, document: Path, *, long: bool) -> Iterator[str]:
        """What a document prints otherwise than it says: one text each."""
        for block in blocks(document):
            if block.file is not None:
                path = self.directory / block.file
                path.parent.mkdir(exist_ok=True)
                path.write_text("\n".join(block.lines) + "\n", "utf-8")
            if block.session and (long or not block.long):
                for command in block.commands():
                    status, printed = self.run(command.text)
                    fault = differs(command, status, printed)
                    if fault:
                        yield f"{document.name}:{command.line}: $ {command.text}\n{fault}"

    def run(self, command: str) -> tuple[int, str]:
        """Exit status, and what a terminal would show."""
        if command.startswith("make "):
            command = recipe(command.split()[1])
        if command.startswith("pushcall ") and not SHELLS_OWN & set(command):
            return self._here(shlex.split(command, comments=True)[1:])
        ended = subprocess.run(
            ["bash", "-c", command],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return ended.returncode, ended.stdout

    def _here(self, arguments: list[str]) -> tuple[int, str]:
        """A command of ours, in this process: the imports are made once."""
        shown = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)
        argv, columns = sys.argv, os.environ.get("COLUMNS")
        sys.argv = ["pushcall", *arguments]
        os.environ["COLUMNS"] = COLUMNS
        status: object = 0
        try:
            with (
                contextlib.chdir(self.directory),
                contextlib.redirect_stdout(shown),
                contextlib.redirect_stderr(shown),
            ):
                cli.main()
        except SystemExit as ended:
            status = ended.code
        finally:
            sys.argv = argv
            os.environ.pop("COLUMNS")
            if columns is not None:
                os.environ["COLUMNS"] = columns
        shown.seek(0)
        return int(str(status or 0)), shown.read()


def recipe(target: str) -> str:
    """The command of ours that a target of the Makefile runs."""
    text = (ROOT / "Makefile").read_text("utf-8")
    found = re.search(rf"^{target}:.*\n\t\$\(BIN\)/(pushcall .*)$", text, re.MULTILINE)
    assert found is not None, f"make {target} runs no command of ours"
    return found[1]


def differs(command: Command, status: int, printed: str) -> str:
    """How a command's end and output are not as the document has them; empty if they are."""
    if not command.printed:
        return "" if status == 0 else f"status {status}:\n{printed}"
    wanted = "\n".join(command.printed).rstrip().splitlines()
    lines = [line.rstrip() for line in printed.rstrip().splitlines()]
    ends = {0}  # how many lines what has been looked at so far may stand for
    for line in wanted:
        if line.strip() == "…":
            ends = set(range(min(ends), len(lines) + 1))
            continue
        pattern = ".*?".join(map(re.escape, line.split("…")))
        ends = {n + 1 for n in ends if n < len(lines) and re.fullmatch(pattern, lines[n])}
        if not ends:
            return "\n".join(["not printed, or not there:", line, "printed:", *lines])
    return "" if len(lines) in ends else "\n".join(["more is printed:", *lines[max(ends) :]])
