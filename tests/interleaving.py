"""Random origins, signals and schedules over the runtime model, one boundary at a time.

A hypothesis state machine builds a schedule (runtime_model/schedule.py) action by action and runs
it as it does; the runtime's invariants are checked at every boundary of the runtime, and at the
end each goroutine must have come to its end with the registers that the example expects. What
fails is printed as one command that does the same.
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from emulator.fault import GuestStopped
from emulator.memory import Prot
from pushcall.api import program
from pushcall.cli import main as cli
from runtime_model.boot import boot
from runtime_model.events import GoroutineExited
from runtime_model.invariants import Invariants
from runtime_model.policy import Policy
from runtime_model.schedule import NUMBERS, Action, Scheduled, What

if TYPE_CHECKING:
    from emulator.events import Event
    from emulator.linux.threads import Thread
    from emulator.snapshot import Snapshot
    from pushcall.snippet.program import Expectation
    from runtime_model.runtime import Runtime

ROOT = Path(__file__).parents[1]
PROGRAMS = ("examples/growth.s", "examples/register_loop.s", "tests/system_calls.s")
VERSIONS = tuple(f"1.{minor}" for minor in range(13, 28))
GOROUTINES, PROCS = 3, 2
MS = PROCS + 3  # one for each P, the worker's among them, and sysmon's
AGAIN = "again: "
BUDGET = 400_000  # instructions of a run: about a hundred times what one takes


@dataclass
class Stepwise(Scheduled):
    """A schedule that is known up to its next action: the machine stops behind that."""

    def fire(self, thread: Thread) -> None:
        super().fire(thread)
        if self.done == len(self.actions):
            self.rt.machine.stop()


@dataclass
class Started:
    """A booted program in front of its first instruction, to be had again and again."""

    rt: Runtime
    snapshot: Snapshot
    expected: tuple[Expectation, ...]
    listeners: list[Any]

    def again(self) -> Runtime:
        rt = self.rt
        known = {start for _, start, _, _ in self.snapshot.regions}
        for region in tuple(rt.memory.regions):
            if region.prot & Prot.WRITE and region.start not in known:  # a larger stack
                rt.memory.unmap(region.start, region.size)
        rt.machine.cpu.remap()
        rt.machine.restore(self.snapshot)
        rt.watch.preempted.clear()
        rt.machine.events.listeners[:] = self.listeners
        rt.machine.budget = BUDGET
        return rt


@cache
def started(name: str, go: str) -> Started:
    loaded = program(
        ROOT / name,
        ROOT / "examples",
        go=go,
        goroutines=GOROUTINES,
        procs=PROCS,
        policy=Policy(force_preempt_ns=None),
    )
    rt = boot(replace(loaded.config, gc=True))
    timer = Stepwise(rt, [Action(0, What.SLICE, rt.machine.scheduler.slice_ns)])
    rt.machine.timer = timer
    listeners = [each for each in rt.machine.events.listeners if each != timer._listen]
    assert rt.machine.run() is None
    return Started(rt, rt.machine.snapshot(), loaded.expected.registers, listeners)


@dataclass
class Run:
    """One interleaving of one program."""

    name: str
    go: str
    actions: list[Action] = field(default_factory=list)
    ended: bool = False  # the program has, or has failed
    last: dict[int, Any] = field(default_factory=dict)  # registers at a goroutine's end

    def __post_init__(self) -> None:
        self._started = started(self.name, self.go)
        self.rt = self._started.again()
        self._timer = self.rt.machine.timer = Stepwise(self.rt, [])
        self._timer._since = self.rt.machine.user_instructions
        self._invariants = Invariants(self.rt)
        self.rt.machine.events.subscribe(self._listen)

    def _listen(self, event: Event) -> None:
        if isinstance(event, GoroutineExited):
            self.last[event.goid] = event.registers

    @property
    def command(self) -> str:
        schedule = ",".join(map(str, self.actions))
        return (
            f"pushcall run {self.name} --go {self.go} --goroutines {GOROUTINES} "
            f"--procs {PROCS} --budget {BUDGET} --schedule {schedule}"
        )

    def do(self, action: Action) -> None:
        self.actions.append(action)
        self._timer.actions.append(action)
        self._go_on()

    def finish(self) -> None:
        """To the end of the program, under no lock: whoever holds one may spin at a stack check."""
        if not self.ended:
            self.do(Action(0, What.FREE))
        if not self.ended:
            self._go_on()

    def _go_on(self) -> None:
        try:
            status = self.rt.machine.run()
            if status is None:
                self._invariants.check()
                return
            self.ended = True
            assert status == 0, f"exit status {status}"
            self._invariants.finish()
            self._judge()
        except (GuestStopped, AssertionError) as error:
            self.ended = True
            what = str(error) or type(error).__name__
            raise AssertionError(f"{what}\n{AGAIN}{self.command}") from error

    def _judge(self) -> None:
        assert len(self.last) == GOROUTINES, f"only {sorted(self.last)} came to their end"
        for expectation in self._started.expected:
            for goid, registers in self.last.items():
                found = registers[expectation.register]
                assert found == expectation.value, f"goroutine {goid}: {expectation.text}"


AFTER = st.integers(0, 40) | st.integers(0, 600)


def machine(versions: tuple[str, ...], names: tuple[str, ...]) -> type[RuleBasedStateMachine]:
    """The state machine over these versions and examples."""

    class Interleaving(RuleBasedStateMachine):
        run: Run

        @initialize(
            name=st.sampled_from(names),
            go=st.sampled_from(versions),
            slice_ns=st.sampled_from((10_000, 1000, 200, 50, 10, 1)),
        )
        def start(self, name: str, go: str, slice_ns: int) -> None:
            self.run = Run(name, go)
            self.run.do(Action(0, What.SLICE, slice_ns))

        def _do(self, after: int, what: What, number: int = 0) -> None:
            self.run.do(Action(after, what, number))

        @precondition(lambda self: not self.run.ended)
        @rule(after=AFTER, number=st.integers(0, PROCS - 1))
        def preempt(self, after: int, number: int) -> None:
            self._do(after, What.PREEMPT, number)

        @precondition(lambda self: not self.run.ended)
        @rule(after=AFTER, number=st.integers(0, MS - 1))
        def signal(self, after: int, number: int) -> None:
            self._do(after, What.SIGNAL, number)

        @precondition(lambda self: not self.run.ended)
        @rule(after=AFTER, number=st.sampled_from((10_000, 300, 60, 7)))
        def slice(self, after: int, number: int) -> None:
            self._do(after, What.SLICE, number)

        @precondition(lambda self: not self.run.ended)
        @rule(after=AFTER, what=st.sampled_from([what for what in What if what not in NUMBERS]))
        def other(self, after: int, what: What) -> None:
            self._do(after, what)

        @precondition(lambda self: self.run.ended)
        @rule()
        def over(self) -> None:
            """The program has come to its end: nothing is left to do."""

        def teardown(self) -> None:
            if hasattr(self, "run"):
                self.run.finish()

    return Interleaving


def run_some(
    count: int,
    *,
    versions: tuple[str, ...] = VERSIONS,
    names: tuple[str, ...] = PROGRAMS,
    shrink: bool = True,
) -> None:
    """Tries so many interleavings, always the same ones."""
    run_state_machine_as_test(
        machine(versions, names),
        settings=settings(
            max_examples=count,
            stateful_step_count=20,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
        ),
    )


def failing_command(count: int, **given: Any) -> tuple[str, str]:
    """What failed first in so many interleavings, and the command that shows it again.

    Programs are booted anew, before and after: the model may be a faulty one meanwhile.
    """
    started.cache_clear()
    try:
        run_some(count, **given)
    except AssertionError as error:
        what, _, command = str(error).partition(f"\n{AGAIN}")
        return what, command.partition("\n")[0]
    finally:
        started.cache_clear()
    return "", ""


def status_of(command: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit status of a printed command, run in this process."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", shlex.split(command))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)
