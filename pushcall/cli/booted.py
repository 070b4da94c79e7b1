"""`pushcall run` on a Go executable: its options, and what they mean to the booted program."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from emulator.engines import UNICORN
from pushcall.booted.executable import opened, refusals
from pushcall.show import Below, bar, progress, report, show, show_json

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pushcall.check.verdict import CheckResult
    from pushcall.trace.recorded import RecordedRun

_LARGEST_FILE: Final = 1 << 30  # bytes that are handed to the guest

_GUEST: Final = (
    click.option(
        "--stdin", "stdin", metavar="FILE", help="Standard input of an executable; - for ours."
    ),
    click.option(
        "--env", multiple=True, metavar="NAME=VALUE", help="Environment of an executable."
    ),
    click.option(
        "--file",
        "files",
        multiple=True,
        metavar="GUEST=HOST",
        help="A file that an executable may read, and the one here that it is.",
    ),
    click.option(
        "--ncpu",
        type=click.IntRange(1, 1024),
        metavar="N",
        help="Processors that an executable sees (4).",
    ),
    click.option(
        "--seed",
        type=int,
        metavar="N",
        help="Of an executable's random bytes and schedule (0); with --quick, of the arguments.",
    ),
    click.option(
        "--enosys", is_flag=True, help="Fail system calls that are missing, instead of stopping."
    ),
)  # fmt: skip
_RUN: Final = (
    click.option(
        "--strace", is_flag=True, help="Print an executable's system calls on standard error."
    ),
    click.option(
        "--gdb",
        type=click.IntRange(0, 65535),
        metavar="PORT",
        help="Let gdb control an executable, on this port of this host; 0 for any.",
    ),
    click.option(
        "--save",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="Of an executable: stop after --at N instructions, before --preemption K, or where "
        "Ctrl-C or --budget stop it, and write FILE, which `pushcall run FILE` goes on from.",
    ),
    click.option(
        "--preemption",
        type=click.IntRange(1),
        metavar="K",
        help="With --save: stop before the signal of the K-th preemption is sent.",
    ),
)
_SNIPPETS_OWN: Final = (
    "entry", "defines", "include_dirs", "as_assembly", "trampoline", "every", "at_pc",
    "random_seed", "never", "schedule", "goroutines", "procs", "stack", "max_stack", "expect",
    "engine", "cpu", "goos", "package", "goroot", "syntax", "trampoline_syntax", "variant",
    "godebug", "kernel_bug",
)  # fmt: skip
_CALLS_TOO: Final = ("engine", "cpu")  # of a snippet, and with --quick of a call
_SPELLED: Final = {
    "defines": "-D", "include_dirs": "-I", "random_seed": "--random", "files": "--file",
    "args": "--arg", "as_json": "--json",
}  # fmt: skip
_GUESTS_OWN: Final = (
    "stdin", "env", "files", "ncpu", "seed", "strace", "enosys", "gdb", "save", "function",
    "preemption", "quick", "args", "calls",
)  # fmt: skip


def guest(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that an executable's run takes."""
    for option in reversed(_GUEST):
        command = option(command)
    return command


def run_only(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that an executable's run takes, and no other command on it."""
    for option in reversed(_RUN):
        command = option(command)
    return command


def option_name(name: str) -> str:
    """An option as users spell it."""
    return _SPELLED.get(name, f"--{name.replace('_', '-')}")


def _is_given(value: object) -> bool:
    """Whether an option has another value than click gives it; a number may be 0."""
    return value is not None and value is not False and value != ()


def refuse_guest_options(arguments: tuple[str, ...], given: dict[str, Any]) -> None:
    """What a snippet's run cannot have: UsageError."""
    from pushcall.usage import UsageError

    if arguments:
        raise UsageError(f"a snippet takes no arguments: {' '.join(arguments)}")
    for name in _GUESTS_OWN:
        if _is_given(given.get(name)):
            raise UsageError(f"{option_name(name)} is for executables, and this is a snippet")


def run_elf(
    file: Path, arguments: tuple[str, ...], *, as_json: bool, events: bool, given: dict[str, Any]
) -> int:
    """Boots the executable, or goes on with a saved run of one; the command's exit status."""
    from pushcall.booted import gdb_server
    from pushcall.booted.run import Told, run_binary
    from pushcall.cli import saved as saved_cli

    counter = Below("instructions")

    def sink(fd: int, data: bytes) -> None:
        counter.write(sys.stdout if fd == 1 else sys.stderr, data)

    def tell(line: str) -> None:
        counter.write(sys.stderr, f"{line}\n".encode(errors="replace"))

    begun = saved_cli.saved(file)
    if begun is None:
        settings = _settings(file, arguments, given)
    else:
        settings = dataclasses.replace(begun.settings, budget=given["budget"])
    pause = saved_cli.pause(given)
    with contextlib.ExitStack() as stack:
        stack.callback(counter.clear)
        gdb = None
        if given["gdb"] is not None:
            gdb = stack.enter_context(gdb_server.listen(given["gdb"]))
        if begun is None:
            binary = stack.enter_context(opened(file, given["go"]))
        else:
            binary = stack.enter_context(opened(begun.binary, begun.go))
        _, out = run_binary(
            binary,
            settings,
            ["pushcall", "run", *_repeat(file, arguments, given)],
            sink=None if as_json else sink,
            keep_events=events and as_json,
            told=Told(tell, events and not as_json, given["strace"]),
            gdb=gdb,
            pause=pause,
            begun=begun,
            progress=counter.report,
        )
    if as_json:
        show_json(out.to_json())
    else:
        show(out.lines(), sys.stderr)
    return out.status


def check_elf(
    file: Path,
    arguments: tuple[str, ...],
    points: int | None,
    jobs: int,
    *,
    as_json: bool,
    given: dict[str, Any],
) -> int:
    """Checks a function in the booted executable, or by itself; the command's exit status."""
    from pushcall.booted.check import check_function
    from pushcall.usage import UsageError

    if given["function"] is None:
        raise UsageError(f"{file} is an executable: name the function to check with --function")
    settings = _settings(file, arguments, given)
    if given["quick"]:
        result = _check_quickly(file, arguments, points, jobs, given)
    else:
        for name in ("args", "calls"):
            if given[name]:
                raise UsageError(f"{option_name(name)} goes with --quick, which calls the function")
        with opened(file, given["go"]) as binary, progress("boundaries") as tried:
            result = check_function(
                binary, settings, given["function"], points=points, jobs=jobs, progress=tried
            )
    more = ["--points", str(points)] if points is not None else []
    more += ["--jobs", str(jobs)] if jobs > 1 else []
    command = ["pushcall", "check", *_repeat(file, arguments, given, more)]
    result.repeat = shlex.join(command)
    return report(result, as_json=as_json)


def _check_quickly(
    file: Path, arguments: tuple[str, ...], points: int | None, jobs: int, given: dict[str, Any]
) -> CheckResult:
    from pushcall.booted.check import find
    from pushcall.check.quick_check import quick_check
    from pushcall.usage import UsageError

    if arguments:
        raise UsageError(f"--quick does not run the program: it takes no {' '.join(arguments)}")
    if given["args"] and given["seed"] is not None:
        raise UsageError("--seed is for random arguments, and --arg gives them")
    for name in ("stdin", "env", "files", "ncpu", "enosys"):
        if given[name] not in (None, False, ()):
            raise UsageError(
                f"{option_name(name)} is for the whole program, and --quick runs a part"
            )
    with opened(file, given["go"]) as binary, bar("boundaries") as tried:
        return quick_check(
            file,
            binary.version,
            find(binary, given["function"]),
            arguments=given["args"],
            calls=given["calls"],
            seed=given["seed"] or 0,
            budget=given["budget"],
            points=points,
            jobs=jobs,
            engine=given["engine"] or UNICORN,
            cpu=given["cpu"] or "",
            progress=tried,
        )


def record_elf(
    file: Path,
    arguments: tuple[str, ...],
    limit: int,
    given: dict[str, Any],
    progress: Callable[[int], None],
) -> RecordedRun | None:
    """Records one preemption of the executable; None, if the program does not get there."""
    from pushcall.booted.trace import NotReachedError, Wanted, record
    from pushcall.usage import UsageError, go_version
    from runtime_model.moduledata import GoBinary

    if given["at"] is not None:
        raise UsageError("--at is for snippets; of an executable --at-pc and --preemption choose")
    settings = _settings(file, arguments, given | {"at_pc": None})
    wanted = Wanted(given["preemption"] or 1, given["function"], given["at_pc"])
    try:
        with refusals():  # the views go on reading it
            binary = GoBinary(file, go_version(given["go"]))
            return record(binary, settings, wanted, limit=limit, progress=progress)
    except NotReachedError as error:
        click.echo(f"pushcall: {error}", err=True)
        return None


def _settings(file: Path, arguments: tuple[str, ...], given: dict[str, Any]) -> Any:
    from emulator.linux.execve import check_arguments
    from emulator.linux.tree import Tree
    from pushcall.usage import UsageError, parse_duration
    from runtime_model.booted import QUANTUM, Settings

    for name in _SNIPPETS_OWN:
        if _is_given(given.get(name)) and not (given.get("quick") and name in _CALLS_TOO):
            raise UsageError(f"{option_name(name)} is for snippets, and {file} is an executable")
    argv = tuple(text.encode("utf-8", "surrogateescape") for text in (file.name, *arguments))
    for text in given["env"]:
        if "=" not in text[1:]:
            raise UsageError(f"--env {text}: not NAME=VALUE")
    envp = tuple(text.encode("utf-8", "surrogateescape") for text in given["env"])
    too_long = check_arguments(argv, envp)
    if too_long is not None:
        raise UsageError(too_long)
    files = []
    for text in given["files"]:
        inside, equals, outside = text.partition("=")
        if not equals or not inside.startswith("/"):
            raise UsageError(f"--file {text}: not /GUEST/PATH=HOST_PATH")
        files.append((inside, _content(Path(outside), f"--file {text}")))
    try:
        Tree(dict(files))
    except ValueError as error:
        raise UsageError(f"--file: {error}") from None
    stdin = given["stdin"]
    if stdin is None:
        data = b""
    elif stdin == "-":
        data = sys.stdin.buffer.read()
    else:
        data = _content(Path(stdin), f"--stdin {stdin}")
    return Settings(
        argv=argv,
        envp=envp,
        stdin=data,
        files=tuple(files),
        cpus=given["ncpu"] or 4,
        quantum=parse_duration(given["quantum"]) if given.get("quantum") else QUANTUM,
        seed=given["seed"] or 0,
        budget=given["budget"],
        enosys=given["enosys"],
    )


def _content(path: Path, what: str) -> bytes:
    from pushcall.usage import UsageError

    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise UsageError(f"{what}: larger than {_LARGEST_FILE >> 30} GiB")
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{what}: {error.strerror}") from None


def _repeat(
    file: Path, arguments: tuple[str, ...], given: dict[str, Any], more: Sequence[str] = ()
) -> list[str]:
    """The arguments that repeat the run: all that it depends on is in them."""
    command = [str(file)]
    for name in (
        "function",
        "go",
        "ncpu",
        "seed",
        "quantum",
        "budget",
        "stdin",
        "calls",
        "engine",
        "cpu",
        "save",
        "at",
        "preemption",
    ):
        if given.get(name) is not None:
            command += [option_name(name), str(given[name])]
    for name in ("env", "files", "args"):
        for text in given.get(name, ()):
            command += [option_name(name), text]
    command += [option_name(name) for name in ("enosys", "quick") if given.get(name)]
    return [*command, *more, *(["--", *arguments] if arguments else [])]
