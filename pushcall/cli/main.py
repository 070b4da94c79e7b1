"""The command line: `pushcall run`, `check`, `trace`, `asm` and the others.

Exit status: 0 all held, 1 something was found, 2 bad input or usage, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from pathlib import Path
from typing import Any

import click

from emulator.engines import NATIVE
from pushcall.cli.binary import audit, safepoints
from pushcall.cli.booted import (
    check_elf,
    guest,
    refuse_guest_options,
    run_elf,
    run_only,
)
from pushcall.cli.compare import compare
from pushcall.cli.mutants import mutants
from pushcall.cli.scenarios import scenarios
from pushcall.cli.shell import completion, version
from pushcall.cli.signals import REAL, run_signals, signals
from pushcall.cli.snippet import FILE, JOBS, common, engine, options, scene, text, timer, timers
from pushcall.cli.trace import trace
from pushcall.content import is_elf, is_saved
from pushcall.show import bar, finish, progress, report, show, show_json
from pushcall.usage import UsageError, refusals


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=version,
    help="Show the versions of Pushcall and of its engines.",
)
def cli() -> None:
    """Interrupt x86-64 code between any two instructions exactly as Go's runtime does."""


cli.add_command(safepoints)
cli.add_command(audit)
cli.add_command(trace)
cli.add_command(mutants)
cli.add_command(compare)
cli.add_command(scenarios)
cli.add_command(completion)


@cli.command()
@FILE
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@timers
@guest
@run_only
@common
@engine
@signals
@click.option(
    "--events",
    is_flag=True,
    help="Put every event into the JSON document; without --json, print an executable's.",
)
@click.option(
    "--expect",
    multiple=True,
    metavar="REG:VALUE",
    help="Fail unless each goroutine ends with this value; or a count, as preemptions:>3.",
)
def run(file: Path, arguments: tuple[str, ...], as_json: bool, events: bool, **given: Any) -> int:
    """Run FILE under preemption and print what happened.

    FILE is a snippet, or a static Go executable, which gets the ARGUMENTS.

    \b
    pushcall run examples/golang_nuts.s --goroutines 30 --procs 2
    pushcall run examples/carry_chain.s --every 1 --go 1.26
    pushcall run examples/golang_nuts.s -D LOOPS=100000000 --engine native --signals real
    pushcall run ./server --ncpu 2 --seed 7 -- -listen none
    """  # noqa: D301  # \b is click's
    if is_elf(file) or is_saved(file):
        return run_elf(file, arguments, as_json=as_json, events=events, given=given)
    refuse_guest_options(arguments, given)
    if events and not as_json:
        raise UsageError("--events goes with --json; without it, it is for executables")
    if given["signals"] == REAL:
        return run_signals(file, given, as_json=as_json, events=events)
    from pushcall.snippet import run as running
    from pushcall.snippet.program import load
    from pushcall.snippet.text import run_report

    policy, injection = timer(given)
    chosen = options(
        given,
        expect=given["expect"],
        policy=policy,
        **scene(given),
    )
    rt, out = running.run(load(file, chosen), injection, keep_events=events and as_json)
    if as_json:
        show_json(running.to_json(rt, out))
    else:
        show(run_report(rt, out))
    return out.status


@cli.command(short_help="Preempt at every boundary and report every loss.")
@FILE
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@common
@engine
@guest
@click.option("--function", metavar="NAME", help="Of an executable: preempt inside this function.")
@click.option(
    "--quick",
    is_flag=True,
    help="Of an executable: call the function by itself, without running the program.",
)
@click.option(
    "--arg",
    "args",
    multiple=True,
    metavar="VALUE",
    help="With --quick, of the call: 5, 0x10, 1.5, 1.5f, or mem:N, a pointer to N zero bytes.",
)
@click.option(
    "--calls",
    type=click.IntRange(1),
    metavar="N",
    help="With --quick: so many calls with random arguments (4).",
)
@click.option(
    "--points", type=click.IntRange(1), metavar="N", help="Try only N boundaries, evenly spread."
)
@JOBS
@click.option(
    "--dask", metavar="ADDRESS", help="Scheduler of a Dask cluster to do the work (pushcall[dask])."
)
@click.option(
    "--scan", is_flag=True, help="Check that the GC's stack scan finds pointers in registers."
)
def check(
    file: Path,
    arguments: tuple[str, ...],
    as_json: bool,
    points: int | None,
    jobs: int,
    dask: str | None,
    scan: bool,
    **given: Any,
) -> int:
    """Preempt FILE at every boundary that it executes and report every loss.

    FILE is a snippet, or a static Go executable, which gets the ARGUMENTS: then the first call of
    --function is checked, by the executable's own runtime. --quick calls it by itself instead.

    \b
    pushcall check examples/register_loop.s
    pushcall check examples/float_loop.s --trampoline my_asyncPreempt.s --go 1.22
    pushcall check examples/golang_nuts.s -D LOOPS=100000 --jobs 2
    pushcall check ./server --function main.hotLoop --points 20 -- 100
    pushcall check ./server --function main.hotLoop --quick --arg 100
    pushcall check examples/add.s --scan
    """  # noqa: D301
    native = given["engine"] == NATIVE
    if native and dask is not None:
        raise UsageError("--engine native cannot be used together with --dask")
    if scan and (is_elf(file) or dask or jobs > 1 or points or given["function"] or arguments):
        raise UsageError("--scan takes a snippet, and none of the other options of a check")
    if dask is not None and (jobs > 1 or is_elf(file)):
        other = "--jobs" if jobs > 1 else "an executable"
        raise UsageError(f"--dask cannot be used together with {other}")
    if is_elf(file):
        return check_elf(file, arguments, points, jobs, as_json=as_json, given=given)
    refuse_guest_options(arguments, given)
    if scan:
        return _check_scan(file, as_json, given)
    from pushcall.check import exhaustive, explain
    from pushcall.snippet.program import load

    program = load(file, options(given))
    config = program.config
    with contextlib.ExitStack() as stack:
        pool = None
        if dask is not None or jobs > 1:
            from pushcall.check import pool as pools

            shared = (
                pools.cluster(dask, config) if dask is not None else pools.processes(jobs, config)
            )
            pool = stack.enter_context(shared)
        tried = stack.enter_context(bar("boundaries"))
        result = exhaustive.check(config, tried, budget=program.budget, points=points, pool=pool)
    explain.attach(config, result)
    return report(result, as_json=as_json)


def _check_scan(file: Path, as_json: bool, given: dict[str, Any]) -> int:
    from pushcall.check import scan
    from pushcall.snippet.program import load

    program = load(file, options(given))
    with progress("boundaries") as tried:
        result = scan.check(program.config, tried, budget=program.budget)
    return report(result, as_json=as_json)


@cli.command()
@FILE
@text
@click.option(
    "-o",
    "output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Also write ELF with symbols and a line table: an object if FILE ends in .o, else an "
    "executable.",
)
def asm(file: Path, as_json: bool, output: Path | None, **given: Any) -> int:
    """Assemble FILE and list it: address, bytes, source.

    \b
    pushcall asm examples/add.s
    pushcall asm examples/add.s -o add.elf && objdump -dl add.elf
    pushcall asm $(go env GOROOT)/src/runtime/asm_amd64.s -o asm.o && objdump -dr asm.o
    """  # noqa: D301
    from pushcall.snippet import listing
    from pushcall.snippet.program import load

    config = load(file, options(given)).config
    result = listing.assemble(config, output)
    if as_json:
        show_json(listing.to_json(result))
    else:
        show(listing.lines(result))
    return 0


def _again(lost: sys.UnraisableHookArgs) -> None:
    """A KeyboardInterrupt that came where nothing is raised, in a callback, comes again."""
    if issubclass(lost.exc_type, KeyboardInterrupt):
        signal.setitimer(signal.ITIMER_REAL, 0.01)
    else:
        sys.__unraisablehook__(lost)


def main() -> None:
    """Runs the command line; every expected failure is one message on standard error."""
    sys.unraisablehook = _again
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    _open_streams()
    try:
        status = cli.main(prog_name="pushcall", standalone_mode=False)
        finish()
    except (click.exceptions.Abort, KeyboardInterrupt):
        status = 130
    except click.ClickException as error:
        error.show()
        status = 2
    except BrokenPipeError:  # whoever read what a booted program writes has gone
        status = 0
    except Exception as error:  # noqa: BLE001  # _tell raises again what nobody expected
        _tell(error)
        status = 2
    signal.setitimer(signal.ITIMER_REAL, 0)
    sys.exit(status or 0)


def _open_streams() -> None:
    """What was closed by who started us is no file; what has no name for a character shows `?`."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115  # to the end
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _tell(error: Exception) -> None:
    """Prints what a bad input was refused with; raises again what nobody expected."""
    from asm.source import AsmError

    if isinstance(error, AsmError):
        for diagnostic in error.diagnostics:
            click.echo(str(diagnostic), err=True)
    elif isinstance(error, refusals()):
        click.echo(f"pushcall: {error}", err=True)
    else:
        raise error
