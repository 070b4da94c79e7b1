"""The option `--signals` of `run`, and what it means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from emulator.engines import NATIVE
from pushcall.show import report

if TYPE_CHECKING:
    from pathlib import Path

REAL: Final = "real"
_OTHERS: Final = {
    "at_pc": "--at-pc",
    "random_seed": "--random",
    "goroutines": "--goroutines",
    "procs": "--procs",
    "stack": "--stack",
    "max_stack": "--max-stack",
    "budget": "--budget",
    "gdb": "--gdb",
    "schedule": "--schedule",
}

signals = click.option(
    "--signals",
    type=click.Choice(("model", REAL)),
    default="model",
    help="Who sends SIGURG: the model of sysmon (the default), or, with --engine native, this "
    "host's kernel, to one goroutine without a scheduler.",
)


def run_signals(file: Path, given: dict[str, Any], *, as_json: bool, events: bool) -> int:
    """`run --signals real`. Raises UsageError."""
    from pushcall.cli.snippet import options, timer
    from pushcall.signals.run import SHORTEST, run
    from pushcall.snippet.program import load
    from pushcall.usage import UsageError

    if given["engine"] != NATIVE:
        raise UsageError("--signals real needs --engine native")
    others = [text for name, text in _OTHERS.items() if given.get(name) is not None]
    others += ["--events"] if events else []
    if others:
        raise UsageError(f"--signals real cannot be used together with {others[0]}")
    policy, injection = timer(given)
    loaded = load(file, options(given, expect=given["expect"], policy=policy))
    injection = injection or loaded.injection
    quantum = loaded.config.policy.force_preempt_ns
    if injection.at_pc or injection.random is not None or injection.schedule:
        raise UsageError(f"{file}: its header has a timer that --signals real has not")
    if quantum is not None and quantum < SHORTEST:
        raise UsageError(f"--signals real needs --quantum {SHORTEST // 1_000_000}ms or more")
    result = run(loaded, quantum=quantum, every=injection.every, at=injection.at)
    return report(result, as_json=as_json)
