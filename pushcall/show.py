"""Puts lines and documents on standard output: coloured on a terminal, plain elsewhere."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import sys
import time
from typing import TYPE_CHECKING, Any, Final, Protocol

import click

from pushcall.usage import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import TextIO

    from rich.status import Status

_PAUSE: Final = 0.2  # seconds between two looks of a counter
_PATIENCE: Final = 1.0  # seconds until a counter below other output appears
_STYLES: Final[dict[str, dict[str, Any]]] = {
    "# ": {"bold": True},
    "+ ": {"fg": "green"},
    "! ": {"bold": True, "fg": "red"},
}


def show(lines: Iterable[str], stream: TextIO | None = None) -> None:
    """Prints lines, to standard output unless another stream is given.

    A leading `# `, `+ ` or `! ` is a style on a terminal and always dropped. UsageError: it cannot
    be written. A reader that has gone is told nothing more; that leaves the exit status alone.
    """
    stream = stream or sys.stdout
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    coloured = stream.isatty() and not plain
    with contextlib.suppress(BrokenPipeError):
        for line in lines:
            _do(stream, print, _styled(line, coloured), file=stream)


def json_text(value: Any, indent: int | None = None) -> str:
    """A value as JSON, in characters that standard output has."""
    every_one = sys.stdout.encoding.lower().startswith("utf")
    return json.dumps(value, indent=indent, ensure_ascii=not every_one)


def show_json(document: dict[str, Any]) -> None:
    """Prints a JSON document."""
    show([json_text(document, 1)])


class Result(Protocol):
    """What a command came to."""

    @property
    def status(self) -> int:
        """The exit status."""

    def to_json(self) -> dict[str, Any]:
        """The document of the command."""

    def lines(self) -> Iterable[str]:
        """Its text; styles as in `show`."""


def report(result: Result, *, as_json: bool) -> int:
    """Prints a result as a document or as text; its exit status."""
    if as_json:
        show_json(result.to_json())
    else:
        show(result.lines())
    return result.status


def finish() -> None:
    """Writes what is still kept of standard output. UsageError: it cannot be written."""
    with contextlib.suppress(BrokenPipeError):
        _do(sys.stdout, sys.stdout.flush)


def _do(stream: TextIO, write: Callable[..., object], *what: object, **how: Any) -> None:
    """Writes. BrokenPipeError: the reader has gone; UsageError: it cannot be written."""
    try:
        write(*what, **how)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # for what is still kept
        if isinstance(error, BrokenPipeError):
            raise
        raise UsageError(f"standard output: {error.strerror}") from None


def _styled(line: str, coloured: bool) -> str:
    style = _STYLES.get(line[:2])
    if style is None:
        return line
    return click.style(line[2:], **style) if coloured else line[2:]


@contextlib.contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """A counter on standard error, if that is a terminal; called with the number done so far.

    With a total it is a bar.
    """
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console

    console = Console(stderr=True)
    if total is not None:
        from rich.progress import Progress

        with Progress(console=console, transient=True) as progress_bar:
            task = progress_bar.add_task(what, total=total)
            yield lambda done: progress_bar.update(task, completed=done)
        return
    with console.status(f"0 {what}", refresh_per_second=1 / _PAUSE) as status:
        shown = time.monotonic()

        def report(done: int) -> None:
            nonlocal shown
            now = time.monotonic()
            if now - shown >= _PAUSE:
                shown = now
                status.update(f"{done} {what}")

        yield report


class Below:
    """A counter below what a program prints, on standard error, if that is a terminal.

    It comes when the program takes more than a second, goes before each piece of output, and comes
    back where that ended with a line. Else what it is drawn over would be the program's.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._seen = sys.stderr.isatty()
        self._next = time.monotonic() + _PATIENCE
        self._in_line = False  # the cursor is behind something that the program printed
        self._status: Status | None = None
        self._shown = False

    def report(self, done: int) -> None:
        """So many are done."""
        if not self._seen or self._in_line:
            return
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _PAUSE
        if self._status is None:
            from rich.console import Console

            self._status = Console(stderr=True).status("", refresh_per_second=1 / _PAUSE)
        self._status.update(f"{done} {self._what}")
        if not self._shown:
            self._status.start()
            self._shown = True

    def write(self, stream: TextIO, data: bytes) -> None:
        """Output of the program's."""
        if self._seen and data and _may_be_seen(stream):
            self.clear()
            self._in_line = not data.endswith(b"\n")
        _do(stream, stream.buffer.write, data)
        _do(stream, stream.flush)

    def clear(self) -> None:
        """Takes it away."""
        if self._status is not None and self._shown:
            self._status.stop()
            self._shown = False


def _may_be_seen(stream: TextIO) -> bool:
    """Whether what goes there may come to the terminal: from behind a pipe, too."""
    return stream.isatty() or stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode)


@contextlib.contextmanager
def bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error, if that is a terminal; called with the number done, and of all."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(what, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)
