"""The command line: `pushcall run`, `check`, `trace`, `asm`.

Exit status: 0 all held, 1 something was found, 2 bad input or usage, 130 interrupted.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pushcall.binary_cli import audit, safepoints
from pushcall.shell_cli import completion, version

if TYPE_CHECKING:
    from collections.abc import Callable

FILE = click.argument("file", type=click.Path(path_type=Path))


def common(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that every command on a snippet takes."""
    for option in reversed(
        (
            click.option(
                "--go",
                metavar="VERSION",
                help="Go version to model, 1.13 to 1.27.",
                shell_complete=lambda _context, _parameter, begun: [
                    version
                    for minor in range(13, 28)
                    if (version := f"1.{minor}").startswith(begun)
                ],
            ),
            click.option("--entry", metavar="SYMBOL", help="Function that goroutines start in."),
            click.option(
                "-D", "defines", multiple=True, metavar="NAME=VALUE", help="Define a macro."
            ),
            click.option(
                "-I",
                "include_dirs",
                multiple=True,
                type=click.Path(path_type=Path),
                help="Directory for #include.",
            ),
            click.option(
                "--goos", default="linux", metavar="NAME", help="For #ifdef GOOS_NAME in FILE."
            ),
            click.option(
                "--syntax",
                type=click.Choice(("go", "intel", "att")),
                default="go",
                help="Of FILE: Go assembly (the default), Intel or AT&T.",
            ),
            click.option(
                "--as-assembly",
                is_flag=True,
                help="Apply Go's rule that assembly functions are never preempted.",
            ),
            click.option(
                "--trampoline",
                type=click.Path(path_type=Path),
                metavar="FILE",
                help="Assembly file with an asyncPreempt to use in place of Pushcall's.",
            ),
            click.option(
                "--trampoline-syntax",
                type=click.Choice(("go", "intel", "att")),
                default="go",
                help="Of the trampoline: Go assembly (the default), Intel or AT&T.",
            ),
            click.option(
                "--budget", type=click.IntRange(1), metavar="N", help="Stop after N instructions."
            ),
            click.option("--json", "as_json", is_flag=True, help="Print one JSON document."),
        )
    ):
        command = option(command)
    return command


def timers(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say when preemptions are asked for."""
    for option in reversed(
        (
            click.option(
                "--quantum",
                metavar="TIME",
                help="sysmon's time slice, as 10ms (the default way).",
            ),
            click.option(
                "--every",
                type=click.IntRange(1),
                metavar="N",
                help="Preempt after every N instructions of the program.",
            ),
            click.option("--at", metavar="N,N,…", help="Preempt at these instruction numbers."),
            click.option(
                "--at-pc", metavar="SYM+OFF", help="Preempt each time that PC is reached."
            ),
            click.option(
                "--random", "random_seed", type=int, metavar="SEED", help="Preempt at random."
            ),
            click.option("--never", is_flag=True, help="Do not preempt."),
            click.option("--goroutines", type=int, metavar="N", help="Goroutines to start."),
            click.option("--procs", type=int, metavar="N", help="GOMAXPROCS."),
        )
    ):
        command = option(command)
    return command


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
cli.add_command(completion)


def _options(given: dict[str, Any], **more: Any) -> Any:
    from pushcall.program import Options, read_source  # imports the engines

    names = (
        "go", "entry", "defines", "include_dirs", "as_assembly", "budget", "goos", "syntax",
        "trampoline_syntax",
    )  # fmt: skip
    trampoline = read_source(given["trampoline"]) if given["trampoline"] else None
    return Options(**{name: given[name] for name in names}, trampoline=trampoline, **more)


def _timer(given: dict[str, Any]) -> tuple[Any, Any]:
    """(Policy, Injection) of the timer options; more than one is a usage error."""
    from pushcall.program import parse_duration
    from pushcall.run import Injection
    from pushcall.usage import UsageError
    from runtime_model.policy import Policy

    chosen = [n for n in ("quantum", "every", "at", "at_pc", "never") if given[n]]
    chosen += ["random"] if given["random_seed"] is not None else []
    if len(chosen) > 1:
        names = " and ".join(f"--{n.replace('_', '-')}" for n in chosen)
        raise UsageError(f"{names} cannot be used together")
    if not chosen:
        return Policy(), Injection()
    if given["quantum"]:
        return Policy(parse_duration(given["quantum"])), Injection()
    try:
        at = tuple(int(n) for n in given["at"].split(",")) if given["at"] else ()
    except ValueError:
        raise UsageError(f"--at {given['at']}: not numbers with commas between") from None
    if any(n < 0 for n in at):
        raise UsageError(f"--at {given['at']}: instructions are counted from 0")
    injection = Injection(given["every"], at, given["at_pc"], given["random_seed"])
    return Policy(force_preempt_ns=None), injection


@cli.command()
@FILE
@timers
@common
@click.option("--events", is_flag=True, help="Put every event into the JSON document.")
@click.option(
    "--expect",
    multiple=True,
    metavar="REG:VALUE",
    help="Fail unless each goroutine ends with this value.",
)
def run(file: Path, as_json: bool, events: bool, **given: Any) -> int:
    """Run FILE under preemption and print what happened.

    \b
    pushcall run examples/golang_nuts.s --goroutines 30 --procs 2
    pushcall run examples/carry_chain.s --every 1 --go 1.26
    """  # noqa: D301  # \b is click's
    from pushcall import run as running
    from pushcall.program import load
    from pushcall.show import show
    from pushcall.text import run_report

    policy, injection = _timer(given)
    options = _options(
        given,
        goroutines=given["goroutines"],
        procs=given["procs"],
        expect=given["expect"],
        policy=policy,
    )
    rt, out = running.run(load(file, options), injection, keep_events=events and as_json)
    if as_json:
        _print_json(running.to_json(rt, out))
    else:
        show(run_report(rt, out))
    return out.status


@cli.command()
@FILE
@common
def check(file: Path, as_json: bool, **given: Any) -> int:
    """Preempt FILE at every boundary that it executes and report every loss.

    \b
    pushcall check examples/register_loop.s
    pushcall check examples/float_loop.s --trampoline my_asyncPreempt.s --go 1.22
    """  # noqa: D301
    from pushcall import check as checking
    from pushcall.program import load
    from pushcall.show import progress, show

    program = load(file, _options(given))
    with progress("boundaries") as report:
        result = checking.check(program.config, report, budget=given["budget"])
    if as_json:
        _print_json(result.to_json())
    else:
        show(result.lines())
    return result.status


@cli.command()
@FILE
@timers
@common
@click.option("--plain", is_flag=True, help="Print text instead of opening a viewer.")
def trace(file: Path, plain: bool, as_json: bool, **given: Any) -> int:
    """Single-step FILE around its first preemption.

    \b
    pushcall trace examples/golang_nuts.s --at 25 --plain
    """  # noqa: D301
    from pushcall import run as running
    from pushcall.program import load
    from pushcall.trace import Window
    from pushcall.usage import UsageError

    if not plain:
        raise UsageError("trace: only --plain is there yet")
    if as_json:
        raise UsageError("trace: --json is there for run and check; use `run --json --events`")
    policy, injection = _timer(given)
    options = _options(given, goroutines=given["goroutines"], procs=given["procs"], policy=policy)
    windows: list[Window] = []
    _, out = running.run(
        load(file, options), injection, prepare=lambda rt: windows.append(Window(rt))
    )
    for line in windows[0].lines:
        click.echo(line)
    if out.crash is not None:
        for line in out.crash.lines():
            click.echo(line, err=True)
        return 1
    return 130 if out.interrupted else 0


@cli.command()
@FILE
@common
@click.option(
    "-o",
    "output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Also write an ELF executable with symbols and a line table.",
)
def asm(file: Path, as_json: bool, output: Path | None, **given: Any) -> int:
    """Assemble FILE and list it: address, bytes, source.

    \b
    pushcall asm examples/add.s
    pushcall asm examples/add.s -o add.elf && objdump -dl add.elf
    """  # noqa: D301
    from pushcall import listing
    from pushcall.program import load
    from runtime_model.boot import boot

    rt = boot(load(file, _options(given)).config)
    if output is not None:
        listing.write_elf(rt, output)
    if as_json:
        _print_json(listing.to_json(rt.user))
    else:
        for line in listing.lines(rt.user):
            click.echo(line)
    return 0


def _print_json(document: dict[str, Any]) -> None:
    click.echo(json.dumps(document, indent=1, ensure_ascii=False))


def main() -> None:
    """Runs the command line; every expected failure is one message on standard error."""
    try:
        status = cli.main(prog_name="pushcall", standalone_mode=False)
    except click.exceptions.Abort:
        status = 130
    except click.ClickException as error:
        error.show()
        status = 2
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:
        # The reader of our pipe has gone: nothing is left to say to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except Exception as error:  # noqa: BLE001  # _tell raises again what nobody expected
        _tell(error)
        status = 2
    sys.exit(status or 0)


def _tell(error: Exception) -> None:
    """Prints what a bad input was refused with; raises again what nobody expected."""
    from asm.source import AsmError  # engines: only where something went wrong
    from pushcall.usage import UsageError
    from runtime_model.boot import BadProgramError

    if isinstance(error, AsmError):
        for diagnostic in error.diagnostics:
            click.echo(str(diagnostic), err=True)
    elif isinstance(error, (UsageError, BadProgramError)):
        click.echo(f"pushcall: {error}", err=True)
    else:
        raise error
