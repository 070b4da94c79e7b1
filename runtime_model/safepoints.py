"""The verdict of every PC of a function, as ranges (the static part of isAsyncSafePoint).

The verdict changes only where one of the tables that it asks for begins a new run, so it is
asked for there, of preempt.static_verdict.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from asm.image import PCDATA_UnsafePoint
from runtime_model.preempt import Reason, Verdict, static_verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runtime_model.func_info import GoFunc
    from runtime_model.symtab import Func, SnippetFunc
    from runtime_model.version import GoVersion


@dataclass(frozen=True, slots=True)
class VerdictRange:
    """PCs `[start, end)` with one verdict. Where they resume is `resume`, not `verdict.resume`."""

    start: int
    end: int
    verdict: Verdict

    @property
    def resume(self) -> str | None:
        """Where a preempted goroutine goes on: "same" PC, "entry", an address; None: nowhere."""
        if not self.verdict.safe:
            return None
        if self.verdict.reason is Reason.RESTART_AT_ENTRY:
            return "entry"
        return f"{self.verdict.resume:#x}" if self.verdict.reason is Reason.RESTART else "same"


class _Only:
    """A FuncTable of the one function at hand."""

    __slots__ = ("_function",)

    def __init__(self, function: Func) -> None:
        self._function = function

    def findfunc(self, pc: int) -> Func:  # noqa: ARG002  # every PC asked for lies in it
        """The function."""
        return self._function


def function_ranges(function: GoFunc, end: int, version: GoVersion) -> list[VerdictRange]:
    """The ranges of a binary's function, which ends at `end`."""
    settled = function.settled()
    return verdict_ranges(settled, settled.runs(end), end, version)


def verdict_ranges(
    function: Func, runs: Sequence[tuple[int, tuple[int, int]]], end: int, version: GoVersion
) -> list[VerdictRange]:
    """The ranges up to `end` in rising order.

    `runs` are the PCs at which an answer of the tables changes, each with the answers:
    (UnsafePoint value, index of the inlined call). Of equal answers only the first is asked for,
    except of restarts, whose verdict depends on the PC.
    BadRestartPCError where a restart sequence is longer than the runtime allows: it throws there.
    """
    table = _Only(function)
    found: list[VerdictRange] = []
    known: dict[tuple[int, int], Verdict] = {}
    first, before = runs[0][0], None
    for number, (start, answers) in enumerate(runs):
        verdict = known.get(answers)
        if verdict is None:
            verdict = static_verdict(table, start, version)
            if verdict.reason is Reason.RESTART:
                stop = runs[number + 1][0] if number + 1 < len(runs) else end
                static_verdict(table, stop - 1, version)
            else:
                known[answers] = verdict
        if before is None:
            before = verdict
        elif verdict is not before and not _same(before, verdict):
            found.append(VerdictRange(first, start, before))
            first, before = start, verdict
    if before is not None:
        found.append(VerdictRange(first, end, before))
    return found


def _same(a: Verdict, b: Verdict) -> bool:
    if a.reason is not b.reason:
        return False
    return a.reason is not Reason.RESTART or a.resume == b.resume


def snippet_ranges(function: SnippetFunc, version: GoVersion) -> list[VerdictRange]:
    """The ranges of a snippet's function."""
    table = function.function.pcdata.get(PCDATA_UnsafePoint)
    edges = {function.entry}
    for run in table.ranges if table is not None else ():
        edges |= {run.start, run.end}
    end = function.function.end
    runs = [
        (pc, (function.pcdatavalue2(PCDATA_UnsafePoint, pc)[0], -1))
        for pc in sorted(edges)
        if pc < end
    ]
    return verdict_ranges(function, runs, end, version)
