"""The verdict of every PC of a function, as ranges (the static part of isAsyncSafePoint).

The verdict changes only where one of the tables that it asks for begins a new run, so it is
asked for once a run, by preempt.static_verdict.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from asm.image import PCDATA_UnsafePoint
from runtime_model.preempt import Reason, Verdict, static_verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runtime_model.pclntab import GoFunc
    from runtime_model.symtab import Func, SnippetFunc
    from runtime_model.version import GoVersion


@dataclass(frozen=True, slots=True)
class VerdictRange:
    """PCs `[start, end)` with one verdict; `verdict.resume` is that of the first PC."""

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
    return verdict_ranges(function.settled(), function.breaks(), end, version)


def verdict_ranges(
    function: Func, breaks: Sequence[int], end: int, version: GoVersion
) -> list[VerdictRange]:
    """The ranges of `[breaks[0], end)` in rising order; the verdict may change at each break.

    BadRestartPCError where a restart sequence is longer than the runtime allows: it throws there.
    """
    table = _Only(function)
    found: list[VerdictRange] = []
    first = breaks[0]
    before: Verdict | None = None
    for start, stop in zip(breaks, (*breaks[1:], end), strict=True):
        verdict = static_verdict(table, start, version)
        if verdict.reason is Reason.RESTART:
            static_verdict(table, stop - 1, version)
        if before is not None and not _same(before, verdict):
            found.append(VerdictRange(first, start, before))
            first, before = start, verdict
        elif before is None:
            before = verdict
    if before is not None:
        found.append(VerdictRange(first, end, before))
    return found


def _same(a: Verdict, b: Verdict) -> bool:
    if a.reason is not b.reason:
        return False
    return a.reason is not Reason.RESTART or a.resume == b.resume


def snippet_breaks(function: SnippetFunc) -> list[int]:
    """Where the verdict of a snippet's function can change."""
    table = function.function.pcdata.get(PCDATA_UnsafePoint)
    offsets = {function.entry}
    for run in table.ranges if table is not None else ():
        offsets |= {run.start, run.end}
    return sorted(each for each in offsets if each < function.function.end)
