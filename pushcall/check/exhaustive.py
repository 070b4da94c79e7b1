"""`pushcall check`: a preemption at every boundary that a snippet executes, and what it cost.

docs/check.md says what is compared and why that is enough. In three steps:

1. the program runs alone, once, to its end: how many boundaries are there, and which instructions
   read stack that a preemption may have overwritten (emulator.dead_stack);
2. the survey (survey.py): all boundaries are recorded, and tried in batches inside the machine;
3. some are tried through the whole runtime, beside a twin that is left alone (direct.py): the first
   visits of each PC, samples, those dead loads, and whatever a batch cannot judge.

Steps 2 and 3 are cut into parts, by the program alone: who does them makes no difference.
"""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING, Final, Protocol

from pushcall.check.survey import DIRECT_PER_PC
from pushcall.check.verdict import CheckResult
from pushcall.check.worker import Run, Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pushcall.check.survey import Surveyed
    from pushcall.snippet.side import Start
    from runtime_model.boot import Config

BUDGET: Final = 20_000_000  # instructions of a program that is left alone: a minute of checking
PART: Final = 1 << 18  # boundaries of a part of the survey
AT_ONCE: Final = 2  # boundaries that are tried first where one loss is enough
DIRECT_PART: Final = 256  # directly tried boundaries of a part

# At least so many boundaries may be tried directly because a batch cannot judge them, or because
# they read dead stack; and one in so many of all.
DIRECT_LIMIT: Final = 20_000
DIRECT_SHARE: Final = 100


# Arguments of Worker.survey and Worker.direct.
SurveyPart = tuple[tuple[int, int], frozenset[int], tuple[int, int]]
DirectPart = tuple[list[int], frozenset[int], int | None, bool]


class Pool(Protocol):
    """Who does the parts. Results come in the order of the parts."""

    def survey(
        self,
        parts: Sequence[SurveyPart],
        progress: Callable[[int], None],
    ) -> Iterable[Surveyed]:
        """Worker.survey of each."""

    def direct(
        self,
        parts: Sequence[DirectPart],
        progress: Callable[[int], None],
    ) -> Iterable[tuple[CheckResult, int]]:
        """Worker.direct of each."""


class Alone:
    """A pool of nobody else."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    def survey(
        self,
        parts: Sequence[SurveyPart],
        progress: Callable[[int], None],
    ) -> Iterable[Surveyed]:
        """Worker.survey of each."""
        return (self.worker.survey(*part, progress) for part in parts)

    def direct(
        self,
        parts: Sequence[DirectPart],
        progress: Callable[[int], None],
    ) -> Iterable[tuple[CheckResult, int]]:
        """Worker.direct of each."""
        return (self.worker.direct(*part, progress) for part in parts)


class Check:
    """One check; `result` grows while it goes on.

    points: how many boundaries to try, evenly spread; all if not given.
    """

    def __init__(
        self,
        config: Config,
        *,
        all_direct: bool = False,
        budget: int | None = None,
        points: int | None = None,
        pool: Pool | None = None,
        until_lost: bool = False,
        start: Start | None = None,
        whole: bool = True,
        progress: Callable[[int, int], None] = lambda _done, _of: None,
    ) -> None:
        self.worker = Worker(config, start)
        self.until_lost = until_lost
        self.whole = whole
        self.pool = pool or Alone(self.worker)
        self.all_direct = all_direct
        self.budget = budget or BUDGET
        self.points = points
        self.result = CheckResult(str(config.version), self.worker.engine)
        self._progress = progress
        self._done = self._of = 0
        self._descheduled = 0

    def run(self) -> CheckResult:
        """Checks. Raises AsmError and BadProgramError for bad input."""
        result = self.result
        try:
            run = self.worker.run_alone(self.budget)
            result.boundaries = run.boundaries
            if not self.whole:
                result.notes += _partial(run, self.budget)
            elif run.crash is not None:
                result.crash = run.crash
            elif not run.ended:
                result.findings.append(
                    f"the snippet does not end within {self.budget} instructions"
                )
            self._try_all(run)
            result.finished = run.ended or not self.whole
            if result.direct and not self._descheduled:
                result.findings.append(
                    "asyncPreempt never came to asyncPreempt2: the goroutine was not descheduled"
                )
        except KeyboardInterrupt:
            result.interrupted = True
        result.losses.sort(key=lambda loss: loss.first.index)
        return result

    def _try_all(self, run: Run) -> None:
        count = run.boundaries
        last = count + (run.crash is not None and run.begun)  # where it dies is a boundary, too
        if not last:
            return
        share = (1, 1)
        if self.points is not None and self.points < count:
            share = (self.points, count)
            self.result.of = count
        self._of = last * share[0] // share[1]
        # A batch leaves the kernel out.
        if self.all_direct or run.unrecorded or self.worker.config.bugs:
            taken = [
                i for i in range(last) if (i + 1) * share[0] // share[1] > i * share[0] // share[1]
            ]
            self._try_directly(taken, run, inputs=True)
            return
        if self.until_lost and self._lost_at_once(last):
            return
        surveyed = self._survey(run, share)
        if self.until_lost and self.result.losses:
            return
        chosen = self._choose(surveyed, run)
        if last > count and share == (1, 1):
            chosen.add(count)
        for each in surveyed:
            self._settle(each, chosen)
        self._of = self._done + len(chosen)
        pcs = {abs(pc) for each in surveyed for pc in each.first}
        self.result.visited |= pcs
        self._try_directly(sorted(chosen), run, inputs=self.worker.has_inputs(pcs))

    def _lost_at_once(self, last: int) -> bool:
        """Whether something is lost at one of the first boundaries."""
        indexes = list(range(min(AT_ONCE, last)))
        result, _ = self.worker.direct(indexes, frozenset(), None, inputs=True, until_lost=True)
        if result.losses:
            self.result.add(result)
        return bool(result.losses)

    def _survey(self, run: Run, share: tuple[int, int]) -> list[Surveyed]:
        count = run.boundaries
        wanted = sorted(index for index, _ in run.dead)
        parts = []
        for start in range(0, count, PART):
            stop = min(start + PART, count)
            low, high = bisect.bisect_left(wanted, start), bisect.bisect_left(wanted, stop)
            here = frozenset(wanted[low:high])
            parts.append(((start, stop), here, share))
        surveyed = []
        try:
            for each in self.pool.survey(parts, self._advance):
                surveyed.append(each)
                self.result.add(each.result)
        except KeyboardInterrupt:
            for each in surveyed:
                self._settle(each, set())
            self.result.boundaries = max((each.stop for each in surveyed), default=0)
            raise
        return surveyed

    def _choose(self, surveyed: list[Surveyed], run: Run) -> set[int]:
        """The boundaries to try directly."""
        first: dict[int, list[int]] = {}
        for each in surveyed:
            for pc, indexes in each.first.items():
                first[pc] = sorted(first.get(pc, []) + indexes)[:DIRECT_PER_PC]
        chosen = {index for indexes in first.values() for index in indexes}
        limit = max(DIRECT_LIMIT, run.boundaries // DIRECT_SHARE)
        dead = {index for index, _ in run.dead}
        loads = sorted(index for each in surveyed for index in each.direct & dead)
        unjudged = sorted(index for each in surveyed for index in each.unjudged)
        chosen |= {index for each in surveyed for index in each.direct - dead}
        chosen |= set(_thinned(loads, limit)) | set(_thinned(unjudged, limit))
        if run.lost or len(loads) > limit:
            self.result.findings.append(
                f"{len(loads) + run.lost} instructions read stack that a preemption may have "
                f"overwritten; {min(len(loads), limit)} of them were tried"
            )
        missing = len(set(unjudged) - chosen)
        if missing:
            self.result.findings.append(
                f"{missing} of {len(unjudged)} boundaries that no batch can judge were not tried"
            )
        return chosen

    def _settle(self, surveyed: Surveyed, chosen: set[int]) -> None:
        """Counts what the survey made of the boundaries that are not tried directly."""
        for index, outcome in surveyed.judged.items():
            if index in chosen:
                continue
            if isinstance(outcome, str):
                self.result.refuse(outcome)
                continue
            self.result.points += 1
            for boundary, loss in outcome:
                self.result.lose(boundary, loss)

    def _try_directly(self, chosen: Sequence[int], run: Run, *, inputs: bool) -> None:
        since: dict[int, set[int]] = {}
        for index, dead_at in run.dead:
            since.setdefault(index, set()).add(dead_at)
        parts: list[DirectPart] = []
        for first in range(0, len(chosen), DIRECT_PART):
            counted = chosen[first : first + DIRECT_PART]
            before = {at for index in counted for at in since.get(index, ())} - set(counted)
            end = run.boundaries if run.ended and first + DIRECT_PART >= len(chosen) else None
            parts.append((sorted({*counted, *before}), frozenset(before), end, inputs))
        for result, descheduled in self.pool.direct(parts, self._advance):
            self.result.add(result)
            self._descheduled += descheduled
            if self.until_lost and result.losses:
                return

    def _advance(self, done: int) -> None:
        self._done += done
        self._progress(self._done, self._of)


def _partial(run: Run, budget: int) -> list[str]:
    """How a program that need not come to its end was left."""
    if run.crash is not None:
        return [f"died at {run.crash.where}: {run.crash.title}; what lies behind was not reached"]
    if not run.ended:
        return [f"was left after {budget} instructions"]
    return []


def _thinned(indexes: Sequence[int], limit: int) -> Iterable[int]:
    """So many of them at most, evenly spread."""
    if len(indexes) <= limit:
        return indexes
    return (indexes[i * len(indexes) // limit] for i in range(limit))


def check(
    config: Config,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
    *,
    all_direct: bool = False,
    budget: int | None = None,
    points: int | None = None,
    pool: Pool | None = None,
    until_lost: bool = False,
    start: Start | None = None,
    whole: bool = True,
) -> CheckResult:
    """Preempts the program at every boundary that it executes. See the module's text.

    progress: called with the boundaries that were tried so far, and how many there will be.
    all_direct: each preemption goes through the whole runtime, none through a batch.
    budget: instructions within which the program must end when left alone; BUDGET if not given.
    points: how many boundaries to try, evenly spread; all if not given.
    pool: who does the work; this process alone if not given.
    until_lost: the first loss is enough.
    start: where to begin (Side.start), of the same configuration but for the trampoline.
    whole: the program must come to its end; else a note says how it ended.
    """
    try:
        return Check(
            config,
            all_direct=all_direct,
            budget=budget,
            points=points,
            pool=pool,
            until_lost=until_lost,
            start=start,
            whole=whole,
            progress=progress,
        ).run()
    except KeyboardInterrupt:  # before anything was known
        return CheckResult(str(config.version), "", interrupted=True)
