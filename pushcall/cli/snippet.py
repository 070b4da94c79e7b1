"""The options of commands on a snippet, and what they mean."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from emulator.engines import ENGINES, UNICORN

if TYPE_CHECKING:
    from collections.abc import Callable

# emulator.linux.kernel_bugs.KernelBug, without its imports
KERNEL_BUGS = (
    "sigreturn-drops-vectors",
    "sigreturn-drops-xmm8-15",
    "sigreturn-drops-masks",
    "sigreturn-ignores-rip",
)
FILE = click.argument("file", type=click.Path(path_type=Path))
DEFINES = click.option("-D", "defines", multiple=True, metavar="NAME=VALUE", help="Define a macro.")
INCLUDES = click.option(
    "-I",
    "include_dirs",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Directory for #include.",
)
JOBS = click.option(
    "--jobs",
    type=click.IntRange(1),
    default=1,
    metavar="N",
    help="Processes to share the work (1).",
)
SYNTAXES = click.Choice(("go", "intel", "att"))


def text(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say how a text is to be read."""
    for option in reversed(
        (
            click.option(
                "--go",
                metavar="VERSION",
                help="Go version to model, 1.13 to 1.27 (1.22).",
                shell_complete=lambda _context, _parameter, begun: [
                    version
                    for minor in range(13, 28)
                    if (version := f"1.{minor}").startswith(begun)
                ],
            ),
            click.option("--entry", metavar="SYMBOL", help="Function that goroutines start in."),
            DEFINES,
            INCLUDES,
            click.option("--goos", metavar="NAME", help="For #ifdef GOOS_NAME in FILE (linux)."),
            click.option(
                "--package",
                metavar="PATH",
                help="Import path of FILE's package; else that of its place in a GOROOT, or main.",
            ),
            click.option(
                "--goroot",
                type=click.Path(path_type=Path),
                metavar="DIR",
                help="Toolchain whose compiler makes go_asm.h for FILE.",
            ),
            click.option(
                "--syntax",
                type=SYNTAXES,
                help="Of FILE: Go assembly (the default), Intel or AT&T.",
            ),
            click.option(
                "--variant",
                metavar="NAME",
                help="Variant of FILE that its header names (docs/scenarios.md).",
            ),
            click.option("--json", "as_json", is_flag=True, help="Print one JSON document."),
        )
    ):
        command = option(command)
    return command


def common(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that every command that runs a snippet takes."""
    command = text(command)
    for option in reversed(
        (
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
                type=SYNTAXES,
                help="Of the trampoline: Go assembly (the default), Intel or AT&T.",
            ),
            click.option(
                "--cpu",
                type=click.Choice(("sse", "avx", "avx2", "avx512")),
                help="Pushcall's asyncPreempt as GOEXPERIMENT=simd makes it, on such a processor "
                "(Go 1.26 on).",
            ),
            click.option(
                "--godebug",
                multiple=True,
                metavar="NAME=1",
                help="GODEBUG: asyncpreemptoff or gcshrinkstackoff.",
            ),
            click.option(
                "--kernel-bug",
                multiple=True,
                type=click.Choice(KERNEL_BUGS),
                help="Run on a kernel that loses part of a signal's context.",
            ),
            click.option(
                "--budget", type=click.IntRange(1), metavar="N", help="Stop after N instructions."
            ),
        )
    ):
        command = option(command)
    return command


def engine(command: Callable[..., Any]) -> Callable[..., Any]:
    """Which processor executes it."""
    return click.option(
        "--engine",
        type=click.Choice(ENGINES),
        help="What executes a snippet: unicorn (an emulator, the default) or native, this host's "
        "own processor.",
    )(command)


def timers(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say when preemptions are asked for."""
    for option in reversed(
        (
            click.option(
                "--quantum",
                metavar="TIME",
                help="sysmon's way, the default: preempt whoever has run for TIME (10ms).",
            ),
            click.option(
                "--every",
                type=click.IntRange(1),
                metavar="N",
                help="Preempt after every N instructions of the program.",
            ),
            click.option(
                "--at",
                metavar="N,N,…",
                help="Preempt at these instruction numbers of the program, from 0.",
            ),
            click.option(
                "--at-pc", metavar="SYM+OFF", help="Preempt each time that PC is reached."
            ),
            click.option(
                "--random", "random_seed", type=int, metavar="SEED", help="Preempt at random."
            ),
            click.option("--never", is_flag=True, help="Do not preempt."),
            click.option(
                "--schedule",
                metavar="AFTER:WHAT,…",
                help="Who asks for what, when; checks the runtime's invariants (docs/schedule.md).",
            ),
            click.option("--goroutines", type=int, metavar="N", help="Goroutines to start (1)."),
            click.option("--procs", type=int, metavar="N", help="GOMAXPROCS (1)."),
            click.option(
                "--stack", metavar="SIZE", help="Stack of a new goroutine; 2KiB as in Go."
            ),
            click.option(
                "--max-stack", metavar="SIZE", help="What no stack may exceed; 1GB as in Go."
            ),
        )
    ):
        command = option(command)
    return command


def options(given: dict[str, Any], **more: Any) -> Any:
    """The `pushcall.snippet.program.Options` that the command line gave."""
    from pushcall.snippet.program import Options, read_source  # imports the engines

    names = (
        "go", "entry", "defines", "include_dirs", "as_assembly", "budget", "goos", "syntax",
        "trampoline_syntax", "cpu", "package", "goroot", "variant", "godebug", "kernel_bug",
    )  # fmt: skip
    trampoline = given.get("trampoline")
    return Options(
        **{name: given[name] for name in names if name in given},
        engine=given.get("engine") or UNICORN,
        trampoline=read_source(trampoline) if trampoline is not None else None,
        **more,
    )


def scene(given: dict[str, Any]) -> dict[str, int | None]:
    """How many goroutines run on how many Ps, and their stacks."""
    from pushcall.usage import parse_size

    sizes = {n: parse_size(given[n]) for n in ("stack", "max_stack") if given[n] is not None}
    return {"goroutines": given["goroutines"], "procs": given["procs"], **sizes}


def timer(given: dict[str, Any]) -> tuple[Any, Any]:
    """(Policy, Injection) of the timer options; both None where the file's header decides.

    More than one is a usage error.
    """
    from pushcall.snippet.header import TIMERS
    from pushcall.snippet.injection import parse

    chosen = {name: given[name.replace("-", "_")] for name in TIMERS if name != "random"}
    chosen |= {"random": given["random_seed"], "never": given["never"] or None}
    chosen = {name: str(value) for name, value in chosen.items() if value is not None}
    return parse(chosen) if chosen else (None, None)
