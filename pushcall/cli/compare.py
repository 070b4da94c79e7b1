"""The command `pushcall compare`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pushcall.cli.snippet import FILE, common, options, scene, timer, timers
from pushcall.show import progress, show, show_json

if TYPE_CHECKING:
    from pathlib import Path


@click.command(short_help="Run on the emulator and on this processor, step by step.")
@FILE
@timers
@common
@click.option(
    "--steps", type=click.IntRange(1), metavar="N", help="Compare up to N instructions (200000)."
)
def compare(file: Path, as_json: bool, steps: int | None, **given: Any) -> int:
    """Run FILE on the emulator and on this host's own processor, and show where they part.

    The runs go step by step through the runtime, too. Exit status 0 if they are the same, 1 if not.

    \b
    pushcall compare examples/carry_chain.s --every 3
    pushcall compare examples/issues/81209_ymm_without_avx2.s --json
    """  # noqa: D301  # \b is click's
    from pushcall.snippet.program import load
    from pushcall.trace.compare import LIMIT, lines, to_json
    from pushcall.trace.compare import compare as compared

    policy, injection = timer(given)
    chosen = options(given, policy=policy, **scene(given))
    with progress("steps recorded") as report:
        result = compared(load(file, chosen), injection, steps or LIMIT, report)
    if as_json:
        show_json(to_json(result))
    else:
        show(lines(result))
    return result.status
