"""The variants of a snippet that its header names, each with what is expected of it.

A case is one of them, or the file as it stands. What it expects says which command it is for:
`preserved` and `lost` a check, `found` and `missed` a check of the stack scan, `stoppable` and
`unstoppable` an audit, anything else a run; a file that expects nothing is to be preserved.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from pushcall import failure
from pushcall.audit import snippet as audit_snippet
from pushcall.audit.binary import lines as audit_lines
from pushcall.check import exhaustive, explain, scan
from pushcall.scenarios import signal_return
from pushcall.snippet import header
from pushcall.snippet import run as running
from pushcall.snippet.expectation import ExpectedVerdict
from pushcall.snippet.places import PreemptedPlaces
from pushcall.snippet.program import Options, from_source
from pushcall.snippet.text import starvation, totals

if TYPE_CHECKING:
    from collections.abc import Iterable

    from asm.source import Source
    from pushcall.snippet.expectation import Expected
    from pushcall.snippet.program import Program
    from pushcall.snippet.run import Outcome
    from runtime_model.runtime import Runtime

MOST_EXPLAINED: Final = 2  # losses
_PRESERVED: Final = ExpectedVerdict(lost=False)


@dataclass(frozen=True)
class Case:
    """One way to try a file: `command` is what the command line calls it; `variant` may be none."""

    variant: str | None
    command: str
    program: Program


@dataclass
class Happened:
    """What a case came to: whether that is as expected, in a line, and in full."""

    held: bool
    summary: str
    lines: list[str] = field(default_factory=list)


def cases(source: Source, options: Options) -> list[Case]:
    """The variants of a file, or itself. Raises AsmError, UsageError and BadProgramError."""
    names: list[str | None] = [*header.read(source).variants] or [None]
    found = []
    for name in names:
        program = from_source(source, replace(options, variant=name))
        found += [Case(name, command, program) for command in _commands(program.expected)]
    return found


def _commands(expected: Expected) -> list[str]:
    named = {"check": expected.check, "check --scan": expected.scan, "audit": expected.audit}
    commands = [command for command, verdict in named.items() if verdict is not None]
    commands += ["run"] if expected.of_run else []
    return commands or ["check"]


def perform(case: Case, *, explained: bool = False) -> Happened:
    """Does it. Raises AsmError and BadProgramError.

    explained: replay the first boundary of each loss and say why.
    """
    match case.command:
        case "check":
            return _check(case.program, explained)
        case "check --scan":
            return _scan(case.program)
        case "audit":
            return _audit(case.program)
    return _run(case.program)


def _check(program: Program, explained: bool) -> Happened:
    expected = program.expected.check or _PRESERVED
    result = exhaustive.check(program.config, budget=program.budget)
    lost = [loss.register for loss in result.losses]
    # A broken kernel may never come to asyncPreempt: what is lost then is still what is asked for.
    held = (bool(program.config.bugs) or not result.findings) and not result.crash
    held = held and expected.holds(lost)
    if (explained or not held) and not program.config.bugs:
        first = replace(result, losses=result.losses[:MOST_EXPLAINED])
        explain.attach(program.config, first)
    summary = result.verdict
    if result.losses:
        summary = f"lost: {', '.join(lost)}; {result.losses[0]}"
    lines = list(result.lines())
    if program.config.bugs and result.losses:
        lines += signal_return.differences(program, result.losses[0].first.index)
    if not held:
        lines += failure.code_of_snippet(program.config, result)
    return Happened(held, summary, lines)


def _scan(program: Program) -> Happened:
    expected = program.expected.scan
    assert expected is not None
    result = scan.check(program.config, budget=program.budget)
    lines = list(result.lines())
    summary = lines[0].lstrip("!+ ")
    if result.crash is not None:  # the scan itself: nothing can be found any more
        held = expected.lost and expected.registers is None
        return Happened(held, f"missed: {result.crash.title}", lines)
    if result.missed:
        summary = f"missed: {', '.join(result.missed)}"
    return Happened(not result.unfinished and expected.holds(result.missed), summary, lines)


def _audit(program: Program) -> Happened:
    expected = program.expected.audit
    assert expected is not None
    result = audit_snippet.audit(program.config)
    lines = list(audit_lines(result))
    named = dict.fromkeys(finding.function for finding in result.findings)
    summary = f"unstoppable: {', '.join(named)}" if named else "stoppable"
    return Happened(expected.holds(named), summary, lines)


def _run(program: Program) -> Happened:
    places = PreemptedPlaces()
    rt, out = running.run(program, prepare=lambda rt: rt.machine.events.subscribe(places.listen))
    lines = [*places.lines(rt), *totals(rt, out)]
    return Happened(_ended(program.expected, out), _summary(rt, out), lines)


def _ended(expected: Expected, out: Outcome) -> bool:
    end, _, word = (expected.end or "ends").partition(":")
    if end == "fails":  # the program came to other registers, and nothing else is wrong
        return out.exit == 0 and bool(out.failed) and not out.losses
    if out.interrupted or out.failed:
        return False
    if end == "starves":
        return out.starved
    if end == "dies":
        return out.crash is not None and not out.starved and word in out.crash.title
    return out.status == 0


def _summary(rt: Runtime, out: Outcome) -> str:
    parts: list[str] = []
    if out.starved:
        parts += [line.removeprefix("! ") for line in starvation(rt, out)]
    elif out.crash is not None:
        at = f" at {out.crash.where.symbol}" if out.crash.where is not None else ""
        parts.append(f"dies: {out.crash.title}{at}")
    else:
        parts.append("ends")
    parts += out.failed
    parts += [f"{number} {name}" for name, number in out.counts.items() if number]
    return "; ".join(parts)


def expectation(case: Case) -> str:
    """What is expected, in the header's words."""
    return str(case.program.expected) or str(_PRESERVED)


def without_styles(lines: Iterable[str]) -> list[str]:
    """Lines of a report without the marks that become colours."""
    return [line[2:] if line[:2] in ("! ", "+ ", "# ") else line for line in lines]
