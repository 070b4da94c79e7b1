"""`pushcall audit`: the loops of a Go binary that asynchronous preemption can never stop.

A finding is a cycle of the control-flow graph in which no boundary has a safe verdict and no
call checks the stack (control_flow.py). Of the packages that are never preempted (runtime,
reflect …) only assembly is reported unless the runtime is asked for: the rest is so by design,
but memmove, memclr or a hash run on whatever sizes a program hands them.
"""

from __future__ import annotations

import bisect
import gc
import itertools
from collections import Counter
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

from pushcall.audit.control_flow import (
    Code64,
    Kind,
    checks_stack,
    count,
    decode,
    is_target,
    leads_to,
    loops,
    scan,
    suspects,
)
from pushcall.audit.safepoints import BadTableError, open_binary, reason_name
from pushcall.processes import worker_processes
from runtime_model.preempt import Reason, Verdict
from runtime_model.safepoints import StaticVerdicts
from runtime_model.symtab import funcpkgpath

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from pushcall.audit.control_flow import Loop
    from runtime_model.func_info import Frame, GoFunc
    from runtime_model.moduledata import GoBinary
    from runtime_model.safepoints import VerdictRange
    from runtime_model.version import GoVersion

Refused = Sequence[tuple[int, int, Verdict]]  # as StaticVerdicts.refused gives them
_CHUNK: Final = 512  # functions that are audited at a time
_CALL_DEPTH: Final = 4  # nosplit functions that are looked into for a stop


@dataclass(frozen=True, slots=True)
class Finding:
    """One loop that nothing stops. `lines` are its first and last in `file`."""

    function: str
    start: int
    end: int
    kind: Kind
    reason: Reason
    bound: str
    instructions: int
    file: str
    lines: tuple[int, int]

    @property
    def badness(self) -> tuple[int, int, str, int]:
        """For sorting: the worst kind first, then the longest body."""
        return list(Kind).index(self.kind), -self.instructions, self.function, self.start

    def to_json(self) -> dict[str, Any]:
        """Its entry in the document of `pushcall audit --json`."""
        return {
            "function": self.function,
            "start": f"{self.start:#x}",
            "end": f"{self.end:#x}",
            "kind": self.kind.value,
            "reason": reason_name(self.reason),
            "instructions": self.instructions,
            "bound": self.bound,
            "file": self.file,
            "lines": list(self.lines),
        }


@dataclass
class Audit:
    """What was found, and the totals: of instructions by reason, of functions."""

    findings: list[Finding] = field(default_factory=list)
    instructions: Counter[Reason] = field(default_factory=Counter)
    functions: int = 0
    broken: list[str] = field(default_factory=list)  # functions whose tables cannot be right
    interrupted: bool = False  # by a Ctrl-C: the functions that follow are not in it

    def add(self, other: Audit) -> None:
        """Takes in the results of other functions."""
        self.findings += other.findings
        self.instructions += other.instructions
        self.functions += other.functions
        self.broken += other.broken

    @property
    def preemptible(self) -> float:
        """The share of instructions with a safe verdict; 0 of none."""
        total = sum(self.instructions.values())
        return self.instructions[Reason.SAFE] / total if total else 0.0

    def to_json(self) -> dict[str, Any]:
        """The document of `pushcall audit --json`."""
        document: dict[str, Any] = {
            "schema": "pushcall.audit/1",
            "findings": [finding.to_json() for finding in self.findings],
            "totals": {
                "functions": self.functions,
                "instructions": sum(self.instructions.values()),
                "preemptible": round(self.preemptible, 6),
                "by_reason": {
                    reason_name(reason): n for reason, n in self.instructions.most_common()
                },
                "findings_by_kind": dict(sorted_counts(f.kind.value for f in self.findings)),
                "findings_by_reason": dict(
                    sorted_counts(reason_name(f.reason) for f in self.findings)
                ),
                "findings_by_package": dict(
                    sorted_counts(funcpkgpath(f.function) for f in self.findings)
                ),
            },
            "errors": self.broken,
        }
        if self.interrupted:
            document["interrupted"] = True
        return document


def sorted_counts(keys: Iterable[Any]) -> list[tuple[Any, int]]:
    """(key, count), the largest count first, equal ones by name."""
    return sorted(Counter(keys).items(), key=lambda item: (-item[1], str(item[0])))


class Auditor:
    """Audits functions of one binary."""

    def __init__(self, binary: GoBinary, include_runtime: bool = False) -> None:
        self.binary = binary
        self._include_runtime = include_runtime
        self._verdicts = StaticVerdicts(binary.table, binary.version)
        self._can_stop: dict[int, bool] = {}
        self._program = Code64(self.can_stop, binary.elf.u64)

    def audit(self, functions: Iterable[GoFunc]) -> Audit:
        """The findings in some functions, and their totals."""
        result = Audit()
        for function in functions:
            result.functions += 1
            try:
                result.findings += self._function(function, result.instructions)
            except BadTableError as error:
                result.broken.append(f"{function.entry:#x}: {error}")
        return result

    def _function(self, function: GoFunc, totals: Counter[Reason]) -> list[Finding]:
        entry, end = function.entry, function.end
        refused = self._verdicts.refused(function, end)
        code = bytes(self.binary.code(entry, end))
        safe = count(code)
        looping = []
        for start, stop, verdict in refused:
            part = code[start:stop]
            number, may_loop = scan(part)
            totals[verdict.reason] += number
            safe -= number
            if may_loop:
                looping.append((part, entry + start))
        totals[Reason.SAFE] += safe
        if not looping or self._by_design(function, refused):
            return []
        unsafe = _Unsafe(code, entry, refused)
        back = itertools.chain.from_iterable(suspects(decode(*each)) for each in looping)
        if any(leads_to(to, at, unsafe.at) for at, to in back):
            return self._findings(function, code, end)
        return []

    def _by_design(self, function: GoFunc, refused: Refused) -> bool:
        """Whether it is Go code of a package that is never preempted."""
        if self._include_runtime or any(
            verdict.reason is Reason.ASSEMBLY for _, _, verdict in refused
        ):
            return False
        return function.name.startswith(self.binary.version.never_preempted_packages)

    def _findings(self, function: GoFunc, code: bytes, end: int) -> list[Finding]:
        ranges = self._verdicts.ranges(function, end)
        instructions = list(decode(code, function.entry))
        reasons = {
            each.ip: None if where.verdict.safe else where.verdict.reason
            for each, where in _with_ranges(instructions, ranges)
        }
        found = loops(instructions, lambda ip: reasons[ip] is not None, self._program)
        places = {
            at: function.frames(at)[-1] for at in {a for loop in found for a in loop.addresses}
        }
        return [self._finding(function, loop, reasons, places) for loop in found]

    def _finding(
        self,
        function: GoFunc,
        loop: Loop,
        reasons: dict[int, Reason | None],
        frames: dict[int, Frame],
    ) -> Finding:
        places = [frames[address] for address in loop.addresses]
        file = places[0].file
        lines = [place.line for place in places if place.file == file]
        reason = Counter(reasons[at] for at in loop.addresses).most_common(1)[0][0]
        assert reason is not None
        return Finding(
            function.name,
            loop.start,
            loop.end,
            loop.kind,
            reason,
            loop.bound,
            len(loop.addresses),
            file,
            (min(lines), max(lines)),
        )

    def can_stop(self, address: int, depth: int = 0) -> bool:
        """Whether a call of this address may reach a safe boundary or a stack check.

        What is not Go code cannot. Nosplit functions are looked into, and what they call.
        """
        known = self._can_stop.get(address)
        if known is None:
            self._can_stop[address] = False  # a recursion adds nothing
            known = self._can_stop[address] = self._look_into(address, depth)
        return known

    def _look_into(self, address: int, depth: int) -> bool:
        function = self.binary.findfunc(address)
        if function is None:
            return False
        if function.name.startswith("runtime.morestack"):
            return True  # the stack check itself, which preempts cooperatively
        end = function.end
        ranges = self._verdicts.ranges(function, end)
        if any(each.verdict.safe for each in ranges):
            return True
        instructions = list(decode(self.binary.code(function.entry, end), function.entry))
        if checks_stack(instructions):
            return True
        calls = [each for each in instructions if each.is_call_near or each.is_call_near_indirect]
        if any(not is_target(each) for each in calls) or depth >= _CALL_DEPTH:
            return True
        return any(self.can_stop(each.near_branch_target, depth + 1) for each in calls)


class _Unsafe:
    """The instructions of a function that have no safe verdict, decoded as they are asked for."""

    def __init__(self, code: bytes, entry: int, refused: Refused) -> None:
        self._code = code
        self._entry = entry
        self._refused = refused
        self._decoded: dict[int, dict[int, Any]] = {}

    def at(self, address: int) -> Any:
        """The instruction at an address; None where that is none of these."""
        offset = address - self._entry
        index = bisect.bisect_right(self._refused, offset, key=itemgetter(0)) - 1
        if index < 0 or offset >= self._refused[index][1]:
            return None
        decoded = self._decoded.get(index)
        if decoded is None:
            start, stop, _ = self._refused[index]
            part = decode(self._code[start:stop], self._entry + start)
            decoded = self._decoded[index] = {each.ip: each for each in part}
        return decoded.get(address)


def _with_ranges(
    instructions: list[Any], ranges: list[VerdictRange]
) -> Iterator[tuple[Any, VerdictRange]]:
    """Each instruction with the range that holds its address."""
    rest = iter(ranges)
    current = next(rest)
    for each in instructions:
        while each.ip >= current.end:
            current = next(rest)
        yield each, current


def audit(
    path: Path,
    version: GoVersion | None = None,
    package: str | None = None,
    include_runtime: bool = False,
    jobs: int = 1,
    report: Callable[[int], None] = lambda _: None,
) -> Audit:
    """Audits a binary, worst finding first. UsageError for what is no Go binary.

    `report` is told the number of functions done. With `jobs` above 1 that many processes work,
    each with its own mapping of the file. A Ctrl-C ends it with what is known.
    """
    binary = open_binary(path, version)
    chunks = [
        (first, min(first + _CHUNK, len(binary.table)))
        for first in range(0, len(binary.table), _CHUNK)
    ]
    result = Audit()
    with _without_gc():
        try:
            for part, (_, done) in zip(
                _parts(binary, chunks, package, include_runtime, jobs), chunks, strict=True
            ):
                result.add(part)
                report(done)
        except KeyboardInterrupt:
            result.interrupted = True
    result.findings.sort(key=lambda finding: finding.badness)
    return result


@contextmanager
def _without_gc() -> Iterator[None]:
    """What an audit makes has no cycles, and looking for them costs a fifth of it."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _parts(
    binary: GoBinary,
    chunks: list[tuple[int, int]],
    package: str | None,
    include_runtime: bool,
    jobs: int,
) -> Iterator[Audit]:
    if jobs <= 1:
        yield from map(Work(binary, package, include_runtime).chunk, chunks)
        return
    arguments = (binary.path, binary.version, package, include_runtime)
    with worker_processes(jobs, _start_worker, *arguments) as executor:
        yield from executor.map(_worker_chunk, chunks)


class Work:
    """What a process does: audits functions by their numbers in functab."""

    def __init__(self, binary: GoBinary, package: str | None, include_runtime: bool) -> None:
        self._auditor = Auditor(binary, include_runtime)
        self._package = package

    def chunk(self, numbers: tuple[int, int]) -> Audit:
        """The audit of the functions `[first, last)`."""
        functions = []
        broken = []
        for number in range(*numbers):
            try:
                function = self._auditor.binary.table.function(number)
                if function is None:
                    continue
                if self._package is None or funcpkgpath(function.name) == self._package:
                    functions.append(function)
            except BadTableError as error:
                broken.append(str(error))
        result = self._auditor.audit(functions)
        result.broken += broken
        return result


_worker: list[Work] = []


def _start_worker(
    path: Path, version: GoVersion | None, package: str | None, include_runtime: bool
) -> None:
    gc.disable()
    _worker[:] = [Work(open_binary(path, version), package, include_runtime)]


def _worker_chunk(numbers: tuple[int, int]) -> Audit:
    return _worker[0].chunk(numbers)


def diff(before: Audit, after: Audit) -> list[Finding]:
    """Findings of `after` that `before` has no like of: one more loop of a kind in a function.

    Addresses and lines move between builds; function, kind and reason do not.
    """
    known = Counter((f.function, f.kind, f.reason) for f in before.findings)
    worse = []
    for finding in after.findings:
        key = (finding.function, finding.kind, finding.reason)
        if known[key]:
            known[key] -= 1
        else:
            worse.append(finding)
    return worse


def lines(result: Audit, limit: int | None = None) -> Iterator[str]:
    """The report as lines for show()."""
    total = len(result.findings)
    what = "loop" if total == 1 else "loops"
    if result.interrupted:
        yield f"! interrupted: {result.functions:,} functions were audited"
    yield f"# {total} {what} that asynchronous preemption cannot stop"
    for finding in itertools.islice(result.findings, limit):
        first, last = finding.lines
        where = f"{finding.file}:{first}" + (f"-{last}" if last != first else "")
        mark = "! " if finding.kind is Kind.UNBOUNDED else "  "
        bound = f" ({finding.bound})" if finding.bound else ""
        yield f"{mark}{finding.function}  {finding.start:#x}-{finding.end:#x}"
        yield (
            f"      {finding.kind.value}{bound}, {finding.instructions} instructions, "
            f"{finding.reason.value}"
        )
        yield f"      {where}"
    if limit is not None and total > limit:
        yield f"  … and {total - limit} more"
    yield "# Totals"
    for package, number in sorted_counts(funcpkgpath(f.function) for f in result.findings):
        yield f"  {number:6}  {package or '(assembly without a package)'}"
    for name, number in sorted_counts(f.kind.value for f in result.findings):
        yield f"  {number:6}  {name}"
    count_of_all = sum(result.instructions.values())
    yield (
        f"  {result.preemptible:.1%} of {count_of_all:,} instructions in {result.functions:,} "
        "functions can be preempted"
    )
    for reason, number in result.instructions.most_common():
        if reason is not Reason.SAFE:
            yield f"  {number:10,}  {reason.value}"
    for text in result.broken:
        yield f"! {text}"
