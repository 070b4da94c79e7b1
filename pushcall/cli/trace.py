"""The command `pushcall trace`: a recorded run in the viewer, as text, as JSON, in files."""

from __future__ import annotations

import gc
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pushcall.cli.booted import guest, record_elf, refuse_guest_options
from pushcall.cli.snippet import FILE, common, engine, options, scene, timer, timers
from pushcall.content import is_elf
from pushcall.show import progress, show, show_json
from pushcall.usage import UsageError

if TYPE_CHECKING:
    from pushcall.trace.recorded import RecordedRun


OUT = click.Path(path_type=Path)


@dataclass(frozen=True)
class Files:
    """Where to write a recorded run to, in which formats."""

    html: Path | None
    svg: Path | None
    perfetto: Path | None

    def write(self, run: RecordedRun, first: int | None, last: int | None) -> None:
        """Writes what was asked for."""
        if self.html is not None:
            from pushcall.trace.page import page

            with progress("steps") as report:
                _write(self.html, page(run, first, last, report))
        if self.svg is not None:
            from pushcall.trace.drawing import svg

            _write(self.svg, svg(run))
        if self.perfetto is not None:
            from pushcall.trace.perfetto import document

            _write(self.perfetto, json.dumps(document(run)))


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None


@click.command()
@FILE
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@timers
@guest
@common
@engine
@click.option(
    "--preemption", type=click.IntRange(1), metavar="K", help="Of an executable: the K-th one (1)."
)
@click.option("--function", metavar="NAME", help="Of an executable: one that hits this function.")
@click.option(
    "--steps", type=click.IntRange(1), metavar="N", help="Record up to N instructions (1000000)."
)
@click.option("--plain", is_flag=True, help="Print text instead of opening the viewer.")
@click.option(
    "--from",
    "first",
    type=click.IntRange(0),
    metavar="N",
    help="First step of --plain, --json or --html.",
)
@click.option("--to", "last", type=click.IntRange(0), metavar="N", help="Last step of them.")
@click.option("--only", type=click.Choice(("events",)), help="With --plain: no instructions.")
@click.option("--html", type=OUT, metavar="OUT", help="Write a page with a slider (10,000 steps).")
@click.option("--svg", type=OUT, metavar="OUT", help="Write a drawing: timeline and pushCall.")
@click.option("--perfetto", type=OUT, metavar="OUT", help="Write a file for ui.perfetto.dev.")
@click.option(
    "--registers", is_flag=True, help="With --plain: all registers before each instruction."
)
def trace(
    file: Path,
    arguments: tuple[str, ...],
    as_json: bool,
    steps: int | None,
    plain: bool,
    first: int | None,
    last: int | None,
    only: str | None,
    registers: bool,
    html: Path | None,
    svg: Path | None,
    perfetto: Path | None,
    **given: Any,
) -> int:
    """Step through FILE, forwards and backwards.

    The whole run is recorded first, of a static Go executable one preemption: the K-th that its
    sysmon asks for, or one asked for at a PC. --plain is for pipes and files; it shows the first
    preemption unless --from or --to ask for something else.

    \b
    pushcall trace examples/golang_nuts.s --at 25
    pushcall trace examples/golang_nuts.s --at 25 --plain
    pushcall trace examples/golang_nuts.s --every 50 --plain --only events --to 2000
    pushcall trace ./server --preemption 3 --plain
    pushcall trace ./server --at-pc main.hotLoop+0x1c
    pushcall trace examples/golang_nuts.s --at 25 --html trace.html --perfetto trace.json
    """  # noqa: D301  # \b is click's
    files = Files(html, svg, perfetto)
    executable = is_elf(file)
    if not executable:
        refuse_guest_options(arguments, given)
    from pushcall.snippet.program import load
    from pushcall.trace.plain import Shown, lines, to_json
    from pushcall.trace.recorded import LIMIT, record

    viewer = not (plain or as_json or any(vars(files).values()))
    if plain and as_json:
        raise UsageError("--plain and --json cannot be used together")
    if (only or registers) and not plain:
        raise UsageError(f"{'--only' if only else '--registers'} goes with --plain")
    if not (first is last is None or plain or as_json or html):
        raise UsageError("--from and --to go with --plain, --json or --html")
    if first is not None and last is not None and last < first:
        raise UsageError(f"--from {first} --to {last}: the end lies before the start")
    if viewer and not all(s.isatty() for s in (sys.stdin, sys.stdout, sys.stderr)):
        raise UsageError("trace: the viewer needs a terminal; --plain prints text")
    # What is recorded stays to the end: the collector would look through it for nothing.
    gc.disable()
    try:
        with progress("steps recorded") as report:
            if executable:
                recorded = record_elf(file, arguments, steps or LIMIT, given, report)
                if recorded is None:
                    return 1
                run = recorded
            else:
                policy, injection = timer(given)
                chosen = options(given, policy=policy, **scene(given))
                run = record(load(file, chosen), injection, limit=steps or LIMIT, progress=report)
    finally:
        gc.enable()
    shown = Shown(first, last, only == "events", registers)
    files.write(run, first, last)
    if as_json:
        show_json(to_json(run, shown))
    elif plain:
        show(lines(run, shown))
    elif viewer:
        from pushcall.trace.viewer import view

        gc.freeze()
        view(run)
        return 130 if run.outcome.interrupted else 0
    tell(run)
    return status(run)


def tell(run: RecordedRun) -> None:
    """Says on standard error how the run ended, where that is not as it should."""
    crash = run.outcome.crash
    if run.refused:
        click.echo(run.refused, err=True)
    elif run.outcome.interrupted:
        click.echo(f"interrupted: {len(run)} steps were recorded", err=True)
    elif run.cut:
        click.echo(f"only the first {len(run)} steps were recorded (--steps)", err=True)
    elif crash is not None:
        for line in crash.lines():
            click.echo(line, err=True)
    if not run.preemptions and not run.refused:
        click.echo("no preemption was recorded; --at and --every ask for some", err=True)


def status(run: RecordedRun) -> int:
    """0 whole or cut where asked, 1 the program died, 130 interrupted."""
    if run.outcome.interrupted:
        return 130
    return int(bool(run.refused) or (run.outcome.crash is not None and not run.cut))
