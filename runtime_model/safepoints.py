"""The verdict of every PC of a function, as ranges (the static part of isAsyncSafePoint).

The verdict changes only where one of the tables that it asks for begins a new run, so the rule,
preempt.static_reason, is asked once of each combination of answers.
"""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING, Final, NamedTuple

from asm.image import PCDATA_UnsafePoint, UnsafePointSafe
from runtime_model.pcvalue import PcValues
from runtime_model.preempt import (
    MAX_RESTART_DISTANCE,
    BadRestartPCError,
    Reason,
    Verdict,
    static_reason,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from runtime_model.func_info import GoFunc
    from runtime_model.pclntab import Pclntab
    from runtime_model.symtab import SnippetFunc
    from runtime_model.version import GoVersion

_BEHIND: Final = 1 << 62  # behind every function
_REMEMBERED: Final = 1 << 16  # tables
SAFE_REASONS: Final = (Reason.SAFE, Reason.RESTART, Reason.RESTART_AT_ENTRY)


class VerdictRange(NamedTuple):
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


class Run(NamedTuple):
    """PCs up to `end` for which the tables have the same answers. Offsets from the entry."""

    end: int
    value: int  # of PCDATA_UnsafePoint
    begin: int  # where the run of that value begins
    never: bool  # whether the function inlined innermost is of a package that is never preempted


class _Rules:
    """static_reason for one version, asked once of each combination of answers."""

    def __init__(self, version: GoVersion) -> None:
        self._version = version
        self._verdicts = {each: Verdict(each in SAFE_REASONS, each) for each in Reason}
        self._known: dict[tuple[int, bool, bool], Verdict] = {}

    def ranges(
        self, entry: int, end: int, runs: Iterable[tuple[int, int, int, bool]], has_maps: bool
    ) -> list[VerdictRange]:
        """The ranges of a function: neighbours with one verdict are one."""
        found: list[VerdictRange] = []
        first, start, size = entry, 0, end - entry
        before: Verdict | None = None
        for stop, value, begin, never in runs:
            verdict = self.verdict(value, has_maps, never)
            if verdict.reason is Reason.RESTART:
                verdict = _restart(entry, begin, min(stop, size))
                verdict = before if verdict == before else verdict
            if before is not None and verdict is not before:
                found.append(VerdictRange(first, entry + start, before))
                first = entry + start
            before = verdict
            start = stop
            if stop >= size:
                break
        if before is not None:
            found.append(VerdictRange(first, end, before))
        return found

    def verdict(self, value: int, has_maps: bool, never: bool) -> Verdict:
        """The verdict on such a run, but for where it resumes."""
        known = self._known.get((value, has_maps, never))
        if known is None:
            reason = static_reason(value, has_maps, lambda: never, self._version)
            known = self._verdicts[reason]
            self._known[value, has_maps, never] = known
        return known


def _restart(entry: int, begin: int, stop: int) -> Verdict:
    if stop - 1 - begin > MAX_RESTART_DISTANCE:
        raise BadRestartPCError(f"bad restart PC {entry + begin:#x} for {entry + stop - 1:#x}")
    return Verdict(True, Reason.RESTART, entry + begin)


class StaticVerdicts:
    """The verdicts of a version's runtime on the functions of a table."""

    def __init__(self, table: Pclntab, version: GoVersion) -> None:
        self._table = table
        self._packages = tuple(map(str.encode, version.never_preempted_packages))
        self._rules = _Rules(version)
        self._never: set[int] = set()  # offsets of names: of packages that are never preempted
        self._ordinary: set[int] = set()  # and of others
        self._refused: dict[tuple[int, int, bool, bool], list[tuple[int, int, Verdict]]] = {}

    def ranges(self, function: GoFunc, end: int) -> list[VerdictRange]:
        """The ranges of a function that ends at `end`, in rising order, without gaps.

        PclntabError for a broken table; BadRestartPCError where a restart sequence is longer than
        the runtime allows.
        """
        points, has_maps, own = self._tables(function, end)
        calls = self._calls(function, own) if has_maps else None
        if calls is not None:
            return self._rules.ranges(function.entry, end, _merged(points, calls, own), has_maps)
        runs = zip(points.ends, points.values, (0, *points.ends), repeat(own), strict=False)
        return self._rules.ranges(function.entry, end, runs, has_maps)

    def refused(self, function: GoFunc, end: int) -> Sequence[tuple[int, int, Verdict]]:
        """(start, end, verdict) of the ranges that are not safe, from the entry.

        Functions share tables: what one says is remembered.
        """
        has_maps = function.has_locals_pointer_maps and not function.is_assembly
        own = self.never_preempted(function.nameoff)
        if has_maps and self._calls(function, own) is not None:
            return self._refused_ranges(function, end)
        table = function.pcdata_offset(PCDATA_UnsafePoint)
        key = (table, end - function.entry, has_maps, own)
        known = self._refused.get(key)
        if known is None:
            if len(self._refused) >= _REMEMBERED:
                self._refused.clear()
            known = self._refused[key] = self._refused_ranges(function, end)
        return known

    def _refused_ranges(self, function: GoFunc, end: int) -> list[tuple[int, int, Verdict]]:
        entry = function.entry
        return [
            (start - entry, stop - entry, verdict)
            for start, stop, verdict in self.ranges(function, end)
            if not verdict.safe
        ]

    def _tables(self, function: GoFunc, end: int) -> tuple[PcValues, bool, bool]:
        """(PCDATA_UnsafePoint, whether it has pointer maps, whether it is never preempted)."""
        size = end - function.entry
        points = function.unsafe_points()
        if points is None:
            points = PcValues((size,), (UnsafePointSafe,))
        elif points.ends[-1] < size:
            raise self._table.error(
                f"PCDATA table {PCDATA_UnsafePoint} of {function.name} says nothing of "
                f"{function.entry + points.ends[-1]:#x}",
                function.offset,
            )
        has_maps = function.has_locals_pointer_maps and not function.is_assembly
        return points, has_maps, self.never_preempted(function.nameoff)

    def never_preempted(self, nameoff: int) -> bool:
        """Whether the function whose name stands there is of a package that is never preempted."""
        if nameoff not in self._never and nameoff not in self._ordinary:
            never = self._table.runtime_name_starts(nameoff, self._packages)
            (self._never if never else self._ordinary).add(nameoff)
        return nameoff in self._never

    def _calls(self, function: GoFunc, own: bool) -> list[tuple[int, bool]] | None:
        """(end, whether the innermost function is never preempted) of runs; None: always `own`."""
        inlined = function.inlined_runs()
        if inlined is None:
            return None
        indices, nameoffs = inlined
        if (self._never if own else self._ordinary).issuperset(nameoffs.values()):
            return None
        never = {index: self.never_preempted(nameoff) for index, nameoff in nameoffs.items()}
        if all(each == own for each in never.values()):
            return None
        return [
            (end, never.get(index, own))
            for end, index in zip(indices.ends, indices.values, strict=True)
        ]


def _merged(points: PcValues, calls: list[tuple[int, bool]], own: bool) -> Iterator[Run]:
    """The runs of both tables; behind the end of `calls` nothing is inlined."""
    rest = iter(calls)
    call_end, never = next(rest, (_BEHIND, own))
    begin = 0
    for end, value in zip(points.ends, points.values, strict=True):
        while call_end < end:
            yield Run(call_end, value, begin, never)
            call_end, never = next(rest, (_BEHIND, own))
        yield Run(end, value, begin, never)
        begin = end
        if call_end == end:
            call_end, never = next(rest, (_BEHIND, own))


def function_ranges(function: GoFunc, end: int, version: GoVersion) -> list[VerdictRange]:
    """The ranges of one function of a binary, which ends at `end`: see StaticVerdicts."""
    return StaticVerdicts(function.table, version).ranges(function, end)


def snippet_ranges(function: SnippetFunc, version: GoVersion) -> list[VerdictRange]:
    """The ranges of a snippet's function."""
    table = function.function.pcdata.get(PCDATA_UnsafePoint)
    entry, end = function.entry, function.function.end
    edges = {end}
    for run in table.ranges if table is not None else ():
        edges |= {edge for edge in (run.start, run.end) if entry < edge < end}
    never = function.name.startswith(version.never_preempted_packages)
    runs = []
    start = entry
    for edge in sorted(edges):
        value, begin = function.pcdatavalue2(PCDATA_UnsafePoint, start)
        runs.append(Run(edge - entry, value, begin - entry, never))
        start = edge
    has_maps = function.has_locals_pointer_maps and not function.is_assembly
    return _Rules(version).ranges(entry, end, runs, has_maps)
