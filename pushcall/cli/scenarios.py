"""The command `pushcall scenarios`."""

from __future__ import annotations

import click

from emulator.engines import ENGINES, UNICORN
from pushcall.show import show, show_json


@click.command(short_help="Reproduce preemption bugs that programs have met.")
@click.argument("number", type=int, required=False)
@click.option(
    "--engine",
    type=click.Choice(ENGINES),
    default=UNICORN,
    show_default=True,
    help="What executes them: native is this host's own processor.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def scenarios(number: int | None, engine: str, as_json: bool) -> int:
    """Reproduce preemption bugs that Go programs have met, each broken and mended.

    With the NUMBER of an issue, that one is explained. The exit status is 0 if all came out as
    their files (examples/issues) say.

    \b
    pushcall scenarios
    pushcall scenarios 46272
    pushcall scenarios 81209 --engine native
    pushcall run examples/issues/10958_tight_loop.s --variant broken
    """  # noqa: D301  # \b is click's
    from pushcall.scenarios import catalogue as known

    verdicts = []
    for scenario in known.scenarios(number, engine=engine):
        verdict = known.judge(scenario, explained=number is not None and not as_json)
        verdicts.append(verdict)
        if not as_json:
            show(known.lines(verdict) if number is None else known.explained(verdict))
    if as_json:
        show_json(known.to_json(verdicts))
    return int(not all(verdict.held for verdict in verdicts))
