"""The public Python API: `check` and `run` a file or a text, `function_check` a Go executable.

    from pushcall.api import check
    result = check("loop.s", trampoline="my_asyncPreempt.s", go="1.22")
    assert result.verdict == "preserved", result.losses

Sources are paths, or assembly texts: a string with a line break in it is a text. Bad input raises
asm.source.AsmError (with positions), pushcall.usage.UsageError or
runtime_model.boot.BadProgramError.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

from asm.source import Source
from emulator.engines import UNICORN
from pushcall.check import exhaustive
from pushcall.check.explain import attach
from pushcall.snippet import run as running
from pushcall.snippet.injection import Injection
from pushcall.snippet.program import Options, Program, from_source, read_source
from pushcall.usage import UsageError
from runtime_model.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pushcall.booted.check import FunctionCheck
    from pushcall.check.verdict import CheckResult
    from pushcall.snippet.run import Outcome
    from runtime_model.runtime import Runtime


def _source(source: str | Path, directory: Path) -> Source:
    if isinstance(source, str) and "\n" in source:
        return Source("<text>", source)
    return read_source(directory / source)


class ProgramOptions(TypedDict, total=False):
    """Keyword arguments that every function here takes."""

    go: str  # version, as "1.22"
    entry: str  # function that goroutines start in
    trampoline: str | Path  # path or text with an asyncPreempt of one's own
    trampoline_syntax: str  # "go", "intel", "att"
    cpu: str  # asyncPreempt of GOEXPERIMENT=simd on "sse", "avx", "avx2" or "avx512"
    defines: Mapping[str, str | int]  # macros
    syntax: str  # of the source: "go", "intel", "att"
    as_assembly: bool  # Go's rule: assembly functions are never preempted
    budget: int  # instructions
    goroutines: int
    procs: int
    stack: int  # bytes that a goroutine starts with
    max_stack: int  # and that none may exceed
    expect: Sequence[str]  # as "AX:42"
    engine: str  # "unicorn" or "native"
    variant: str  # of the settings in the source's header
    godebug: Sequence[str]  # as "asyncpreemptoff=1"
    kernel_bug: Sequence[str]  # emulator.linux.kernel_bugs.KernelBug's values


def _refuse_unknown(given: Mapping[str, object], known: frozenset[str]) -> None:
    """A misspelt option must not be none: TypeError, as of any Python function."""
    unknown = given.keys() - known
    if unknown:
        raise TypeError(f"no option {', '.join(sorted(unknown))}; {', '.join(sorted(known))} are")


def program(
    source: str | Path,
    directory: str | Path = "",
    *,
    policy: Policy | None = None,
    **given: Unpack[ProgramOptions],
) -> Program:
    """The program in a file or text. Relative paths start at `directory`."""
    _refuse_unknown(given, ProgramOptions.__optional_keys__)
    folder = Path(directory)
    trampoline = given.get("trampoline")
    options = Options(
        go=given.get("go"),
        entry=given.get("entry"),
        defines=tuple(f"{name}={value}" for name, value in given.get("defines", {}).items()),
        include_dirs=(folder,),
        as_assembly=given.get("as_assembly", False),
        syntax=given.get("syntax"),
        budget=given.get("budget"),
        goroutines=given.get("goroutines"),
        procs=given.get("procs"),
        stack=given.get("stack"),
        max_stack=given.get("max_stack"),
        expect=tuple(given.get("expect", ())),
        policy=policy,
        variant=given.get("variant"),
        godebug=tuple(given.get("godebug", ())),
        kernel_bug=tuple(given.get("kernel_bug", ())),
        trampoline=_source(trampoline, folder) if trampoline is not None else None,
        trampoline_syntax=given.get("trampoline_syntax"),
        cpu=given.get("cpu"),
        engine=given.get("engine", UNICORN),
    )
    return from_source(_source(source, folder), options)


def check(
    source: str | Path,
    directory: str | Path = "",
    *,
    all_direct: bool = False,
    explain: bool = False,
    points: int | None = None,
    jobs: int = 1,
    **given: Unpack[ProgramOptions],
) -> CheckResult:
    """Preempts a snippet at every boundary that it executes; says what was lost where.

    all_direct: each preemption goes through the whole runtime, none through a batch (slow).
    explain: replay the first boundary of each loss and say why, in `loss.explanation`.
    points: how many boundaries to try, evenly spread. jobs: processes to share the work.
    """
    loaded = program(source, directory, **given)
    with contextlib.ExitStack() as stack:
        pool = None
        if jobs > 1:
            from pushcall.check.pool import processes

            pool = stack.enter_context(processes(jobs, loaded.config))
        result = exhaustive.check(
            loaded.config,
            all_direct=all_direct,
            budget=loaded.budget,
            points=points,
            pool=pool,
        )
    if explain:
        attach(loaded.config, result)
    return result


def run(
    source: str | Path,
    directory: str | Path = "",
    *,
    quantum: int | None = None,
    every: int | None = None,
    at: Sequence[int] = (),
    at_pc: str | None = None,
    random: int | None = None,
    never: bool = False,
    **given: Unpack[ProgramOptions],
) -> tuple[Runtime, Outcome]:
    """Runs a snippet under preemption. quantum is in ns.

    Without any timer, that of the source's header, or sysmon's 10 ms.
    """
    timers = {
        "quantum": quantum, "every": every, "at": at or None, "at_pc": at_pc, "random": random,
        "never": never or None,
    }  # fmt: skip
    chosen = [name for name, value in timers.items() if value is not None]
    if not chosen:
        return running.run(program(source, directory, **given))
    if len(chosen) > 1:
        raise UsageError(f"{' and '.join(chosen)} cannot be used together")
    policy = Policy(quantum)
    loaded = program(source, directory, policy=policy, **given)
    return running.run(loaded, Injection(every, tuple(at), at_pc, random))


class GuestOptions(TypedDict, total=False):
    """What a booted executable is given."""

    go: str  # its version, where it does not tell
    arguments: Sequence[str]
    environment: Mapping[str, str]
    cpus: int  # that it sees
    seed: int  # of its random bytes and schedule


@contextlib.contextmanager
def function_check(
    binary: str | Path, function: str, directory: str | Path = "", **given: Unpack[GuestOptions]
) -> Iterator[FunctionCheck]:
    """A check of the first call of an executable's function; its method `run` does it.

    Raises UsageError for what is no Go executable, and for a function that it has not.
    """
    from pushcall.booted.check import FunctionCheck
    from pushcall.booted.executable import opened
    from runtime_model.booted import Settings

    _refuse_unknown(given, GuestOptions.__optional_keys__)
    path = Path(directory) / binary
    environment = given.get("environment", {})
    settings = Settings(
        argv=tuple(os.fsencode(text) for text in (path.name, *given.get("arguments", ()))),
        envp=tuple(os.fsencode(f"{name}={value}") for name, value in environment.items()),
        cpus=given.get("cpus", 4),
        seed=given.get("seed", 0),
    )
    with opened(path, given.get("go")) as executable:
        yield FunctionCheck(executable, settings, function)


__all__ = ["GuestOptions", "ProgramOptions", "check", "function_check", "program", "run"]
