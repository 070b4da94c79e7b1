"""The parts of a check that can be done apart, in whatever process: see check.py.

A worker keeps the booted runtimes of the program that it was given last. Parts are fixed by the
program alone, so what comes out does not depend on who does which.
"""

from __future__ import annotations

import dataclasses
import threading
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from emulator.dead_stack import DeadStack
from emulator.engines import NATIVE, UNICORN
from emulator.fault import FaultKind, GuestFault, GuestStopped
from pushcall.check.direct import INPUT_SIZE, INPUTS, Direct
from pushcall.check.survey import Survey, Surveyed
from pushcall.snippet.crash import describe
from pushcall.snippet.side import Side
from runtime_model.boot import BadProgramError
from runtime_model.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pushcall.check.verdict import CheckResult
    from pushcall.snippet.crash import Crash
    from pushcall.snippet.side import Start
    from runtime_model.boot import Config


def _refused(stopped: GuestStopped) -> bool:
    return isinstance(stopped, GuestFault) and stopped.fault.kind is FaultKind.REFUSED


@dataclass(frozen=True)
class Run:
    """The program left alone: how many boundaries it has, how it ended, and its dead loads.

    A dead load is (boundary whose instruction reads stack that was dead, the last boundary at which
    it was); `lost` of them are not among `dead`. If it dies, that is at the boundary behind the
    others, unless it never came to its first one. `unrecorded`: Unicorn cannot execute it, and what
    its boundaries read only shows when they are tried.
    """

    boundaries: int
    ended: bool
    begun: bool = True
    crash: Crash | None = None
    dead: frozenset[tuple[int, int]] = field(default_factory=frozenset)
    lost: int = 0
    unrecorded: bool = False


class Worker:
    """The runtimes of one program."""

    def __init__(self, config: Config, start: Start | None = None) -> None:
        if not config.version.asynchronous:
            raise BadProgramError(
                f"Go {config.version} has no asynchronous preemption: there is nothing to check"
            )
        self.config = config
        self._alone = dataclasses.replace(
            config,
            goroutines=1,
            policy=Policy(force_preempt_ns=None),
            budget=None,
        )
        self._start = start
        # Unicorn records; what tries the boundaries may be another one.
        self._recording = dataclasses.replace(self._alone, engine=UNICORN)
        self.twin = Side(self._recording, start)
        self._other: Side | None = None
        self._survey: Survey | None = None
        self._begun = False
        self._recorded = True  # Unicorn can execute the program

    @property
    def engine(self) -> str:
        """Whose processor it is, as reports quote it."""
        return NATIVE if self.config.engine == NATIVE else self.twin.machine.cpu.name

    def _begin(self) -> bool:
        """Brings the twin to the first boundary, once; False if there is none."""
        if not self._begun:
            self._begun = True
            return self.twin.begin(self._start)
        return True

    def run_alone(self, budget: int) -> Run:
        """Follows the program to its end, or for `budget` of its instructions."""
        twin = self.twin
        try:
            alive = self._begin()
        except GuestStopped as stopped:
            return Run(0, ended=False, begun=False, crash=describe(twin.rt, stopped))
        if not alive:
            return Run(0, ended=True)
        crash = None
        stack = (twin.stack_lo, twin.stack_hi)
        rsp = twin.registers["RSP"]
        dead = DeadStack(twin.machine.cpu, twin.code(), stack, rsp)  # type: ignore[arg-type]
        with dead:
            try:
                alive = twin.advance(budget)
            except GuestStopped as stopped:
                if self.config.engine == NATIVE and _refused(stopped):
                    return self._run_unrecorded(budget)
                crash = describe(twin.rt, stopped)
        run = Run(
            twin.at,
            ended=not alive and crash is None,
            crash=crash,
            dead=frozenset(dead.loads()),
            lost=dead.lost,
        )
        twin.restart()
        return run

    def _run_unrecorded(self, budget: int) -> Run:
        """The same where Unicorn cannot execute the program: on the real processor."""
        self._recorded = False
        twin, crash, alive = self.direct_runner.twin, None, False
        try:
            alive = twin.advance(budget)
        except GuestStopped as stopped:
            crash = describe(twin.rt, stopped)
        return Run(twin.at, ended=not alive and crash is None, crash=crash, unrecorded=True)

    def survey(
        self,
        part: tuple[int, int],
        wanted: frozenset[int],
        share: tuple[int, int],
        progress: Callable[[int], None] = lambda _: None,
    ) -> Surveyed:
        """Tries the boundaries of a part in batches."""
        self._begin()
        if self._survey is None or self._survey.share != share:
            self.twin.restart()  # a batch takes the runtime's memory as it is at the first boundary
            self._survey = Survey(self.twin, self.config, share)
        return self._survey.run(*part, wanted, progress)

    def has_inputs(self, pcs: Iterable[int]) -> bool:
        """Whether an instruction at one of these PCs has results that no two runs share."""
        places = (self.twin.rt.memory.locate(pc, 1) for pc in pcs)
        return any(bytes(view[at : at + INPUT_SIZE]).startswith(INPUTS) for view, at in places)

    @cached_property
    def direct_runner(self) -> Direct:
        """The two runtimes that stay side by side."""
        sides = [self.twin] if self.config.engine == UNICORN else []
        while len(sides) < 2:
            side = Side(self._alone, self.twin)
            side.begin(self._start)
            sides.append(side)
        scouts = self._scouts if self.config.engine == NATIVE and self._recorded else None
        return Direct(sides[0], sides[1], scouts)

    def _scouts(self) -> tuple[Side, Side]:
        """Two runtimes on Unicorn, which goes long ways faster than single steps do."""
        if self._other is None:
            self._other = Side(self._recording, self.twin)
            self._other.begin(self._start)
        return self.twin, self._other

    def direct(
        self,
        indexes: Sequence[int],
        uncounted: frozenset[int],
        end: int | None,
        inputs: bool,
        progress: Callable[[int], None] = lambda _: None,
        *,
        until_lost: bool = False,
    ) -> tuple[CheckResult, int]:
        """Tries boundaries through the whole runtime; also, how often one gave way."""
        self._begin()
        direct = self.direct_runner
        result = direct.run(
            indexes,
            uncounted=uncounted,
            end=end,
            inputs=inputs,
            until_lost=until_lost,
            progress=lambda: progress(1),
        )
        return result, direct.descheduled


class _Kept(threading.local):
    config: Config | None = None
    worker: Worker | None = None


_kept = _Kept()


def worker_for(config: Config) -> Worker:
    """This thread's worker for a program."""
    if _kept.worker is None or _kept.config != config:
        _kept.worker = Worker(config)
        _kept.config = config
    return _kept.worker
