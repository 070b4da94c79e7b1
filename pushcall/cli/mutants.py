"""The command `pushcall mutants`."""

from __future__ import annotations

from pathlib import Path

import click

from emulator.engines import UNICORN
from pushcall.cli.snippet import JOBS, SYNTAXES, engine
from pushcall.show import progress, report


@click.command(short_help="Make every single fault of a trampoline: is each found?")
@click.argument("trampoline", required=False, type=click.Path(path_type=Path))
@click.option("--go", metavar="VERSION", help="Go version to model, 1.14 to 1.27 (1.22).")
@click.option(
    "--syntax",
    type=SYNTAXES,
    help="Of TRAMPOLINE: Go assembly (the default), Intel or AT&T.",
)
@JOBS
@engine
@click.option("--confirm", is_flag=True, help="Check even the mutants that are proven equivalent.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def mutants(
    trampoline: Path | None,
    go: str | None,
    syntax: str | None,
    jobs: int,
    engine: str | None,
    confirm: bool,
    as_json: bool,
) -> int:
    """Make every single fault of TRAMPOLINE and see whether `check` finds it.

    Without TRAMPOLINE, Pushcall's own asyncPreempt for the version. A mutant that survives without
    a proof that it is equivalent makes exit status 1.

    \b
    pushcall mutants --go 1.22
    pushcall mutants my_asyncPreempt.s --go 1.27 --jobs 2
    pushcall mutants --go 1.27 --engine native
    """  # noqa: D301  # \b is click's
    from pushcall.check.mutants import Workshop, score
    from pushcall.snippet.program import read_source
    from pushcall.usage import UsageError, go_version
    from runtime_model.trampoline import Trampoline
    from runtime_model.version import DEFAULT, GoVersion

    if syntax is not None and trampoline is None:
        raise UsageError("--syntax is of a TRAMPOLINE, and there is none")
    source = read_source(trampoline) if trampoline is not None else None
    version = go_version(go) or GoVersion(*DEFAULT)
    workshop = Workshop(Trampoline(source, syntax or "go"), version, engine or UNICORN)
    with progress("mutants", len(workshop.mutations)) as made:
        result = score(workshop, jobs=jobs, confirm=confirm, progress=made)
    return report(result, as_json=as_json)
