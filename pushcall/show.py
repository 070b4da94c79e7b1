"""Puts lines on standard output: coloured on a terminal, plain elsewhere."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import TextIO

    from rich.status import Status

_PAUSE: Final = 0.2  # seconds between two looks of a counter
_PATIENCE: Final = 1.0  # seconds until a counter below other output appears
_STYLES: Final = {"# ": "bold", "+ ": "green", "! ": "bold red"}


def show(lines: Iterable[str], stream: TextIO | None = None) -> None:
    """Prints lines, to standard output unless another stream is given.

    A leading `# `, `+ ` or `! ` is a style on a terminal and always dropped.
    """
    stream = stream or sys.stdout
    if stream.isatty() and "NO_COLOR" not in os.environ:
        from rich.console import Console  # slow, and only terminals need it
        from rich.text import Text

        console = Console(file=stream, highlight=False, soft_wrap=True)
        for line in lines:
            style = _STYLES.get(line[:2], "")
            console.print(Text(line[2:] if style else line, style=style))
    else:
        for line in lines:
            text = line[2:] if line[:2] in _STYLES else line
            print(text, file=stream)  # the output


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
        stream.buffer.write(data)
        stream.flush()

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
