"""The options of `pushcall run` that save a run, and those that a saved run takes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import click

from pushcall.cli.booted import option_name
from pushcall.content import is_saved

if TYPE_CHECKING:
    from pathlib import Path

    from pushcall.booted.run import Pause
    from pushcall.booted.saved import SavedRun

_OF_SAVED: Final = frozenset(
    {"file", "as_json", "events", "strace", "budget", "gdb", "save", "at", "preemption"}
)  # fmt: skip


def saved(file: Path) -> SavedRun | None:
    """The saved run that a file is, ready to go on; UsageError for options that it has already."""
    if not is_saved(file):
        return None
    from pushcall.booted.saved import SavedRun
    from pushcall.usage import UsageError

    context = click.get_current_context()
    for parameter in context.command.params:
        name = parameter.name or ""
        by_user = context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        if by_user and name not in _OF_SAVED and context.params[name] != ():
            what = "arguments" if name == "arguments" else option_name(name)
            raise UsageError(f"{file}: a saved run has its own {what}")
    begun = SavedRun(file)
    begun.check_binary()
    return begun


def pause(given: dict[str, Any]) -> Pause | None:
    """Where --save and --at or --preemption say that the run is to be saved."""
    from pushcall.booted.run import Pause
    from pushcall.usage import UsageError

    save, at, preemption = given["save"], given["at"], given["preemption"]
    if save is None:
        for name in ("at", "preemption"):
            if given[name] is not None:
                raise UsageError(f"--{name} of an executable says where to --save it")
        return None
    if at is not None and preemption is not None:
        raise UsageError("--at and --preemption cannot be used together")
    if given["gdb"] is not None:
        raise UsageError("--gdb and --save cannot be used together")
    if at is not None and not (at.isascii() and at.isdigit()):
        raise UsageError(f"--at {at}: of an executable, one number of instructions")
    if not os.access(save.parent, os.W_OK):
        raise UsageError(f"--save {save}: no directory that can be written to")
    return Pause(save, None if at is None else int(at), preemption)
