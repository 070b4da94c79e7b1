"""Puts lines on standard output: coloured on a terminal, plain elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import TextIO

_PAUSE: Final = 0.2  # seconds between two looks of a counter
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
