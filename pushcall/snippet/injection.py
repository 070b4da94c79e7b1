"""When preemptions are asked for: sysmon's time slice, or an exact timer.

The same words mean the same on the command line (`--every 50`) and in a snippet's header.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pushcall.usage import UsageError, parse_duration
from runtime_model.policy import Policy
from runtime_model.schedule import Action

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Injection:
    """Which exact timer asks for preemptions; all empty: none, sysmon's policy alone counts.

    Under a schedule there is a mark worker, and the runtime's invariants are checked.
    """

    every: int | None = None
    at: tuple[int, ...] = ()
    at_pc: str | None = None
    random: int | None = None
    schedule: tuple[Action, ...] = ()


def parse(given: Mapping[str, str]) -> tuple[Policy, Injection]:
    """The timer among quantum, every, at, at-pc, random, schedule and never; UsageError for two."""
    if len(given) > 1:
        names = " and ".join(f"--{name}" for name in given)
        raise UsageError(f"{names} cannot be used together")
    if not given:
        return Policy(), Injection()
    ((name, value),) = given.items()
    exact = Policy(force_preempt_ns=None)
    match name:
        case "quantum":
            return Policy(parse_duration(value)), Injection()
        case "every":
            every = int(value, 0)
            if every < 1:
                raise UsageError(f"--every {value}: not a number of instructions")
            return exact, Injection(every=every)
        case "at":
            return exact, Injection(at=_counts(value))
        case "at-pc":
            return exact, Injection(at_pc=value)
        case "random":
            return exact, Injection(random=int(value, 0))
        case "schedule":
            return exact, Injection(schedule=_actions(value))
        case _:
            return exact, Injection()


def _counts(text: str) -> tuple[int, ...]:
    try:
        at = tuple(int(n) for n in text.split(","))
    except ValueError:
        raise UsageError(f"--at {text}: not numbers with commas between") from None
    if any(n < 0 for n in at):
        raise UsageError(f"--at {text}: instructions are counted from 0")
    return at


def _actions(text: str) -> tuple[Action, ...]:
    try:
        return tuple(Action.parse(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"--schedule {error}") from None
