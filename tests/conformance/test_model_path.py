"""The model's path of a preemption against Go's own: the golang-nuts program, version by version.

    pytest -s tests/conformance/test_model_path.py

The executable is booted and its first preemption single-stepped, from the signal to the resumed
instruction. The functions that the model says it enters must be entered by the executable in that
order (inlined ones count), as often, and the goroutine's status must change in the same way. What
Go calls besides must be explained in docs/model-and-reality.md, for the versions that do.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import groupby
from pathlib import Path

import pytest
from test_booted import program
from toolchains import versions

from emulator.events import FrameBuilt
from pushcall.booted.trace import Wanted, record
from pushcall.snippet import run as running
from pushcall.snippet.program import Options, load
from runtime_model.booted import Booted, Settings
from runtime_model.events import Entered, Executing, PreemptRequested, Resumed, StatusChanged
from runtime_model.moduledata import GoBinary
from runtime_model.runtime2 import G

DOCUMENT = Path(__file__).parents[2] / "docs/model-and-reality.md"
EXAMPLE = Path(__file__).parents[2] / "examples/golang_nuts.s"

# Names that are the model's own: a wrapper of the compiler's, a label of the assembler's, or the
# kernel's way back.
MODELS_OWN = {
    "sigreturn__sigaction": "runtime.sigreturn__sigaction",
    "asyncPreempt2_func1": "runtime.asyncPreempt2.func1",
}
BEFORE_1_21 = {"sigreturn__sigaction": "runtime.sigreturn"}
# Assembly that the compiler's frames do not name: setg is written out in Go's sigtramp path.
NOT_A_FUNCTION = {"setg"}


@dataclass
class Path_:
    """Functions in the order in which they are entered, and changes of the goroutine's status."""

    functions: list[str] = field(default_factory=list)
    statuses: list[tuple[int, int]] = field(default_factory=list)


def models(version: str) -> Path_:
    options = Options(go=version, goroutines=4, procs=2, defines=("LOOPS=3000000",))
    _, out = running.run(load(EXAMPLE, options))
    path, goid = Path_(), 0
    own = MODELS_OWN | ({} if int(version.split(".")[1]) > 20 else BEFORE_1_21)
    events = iter(out.path)
    for event in events:
        if isinstance(event, PreemptRequested):
            goid = event.target_g
        if isinstance(event, FrameBuilt):
            break
    away = False  # other goroutines run: the executable is stepped again from execute on
    for event in events:
        if isinstance(event, Executing):
            away = event.goid != goid
            if away:  # it is not stepped through execute, either
                begun = len(path.functions) - path.functions[::-1].index("runtime.execute")
                del path.functions[begun:]
        elif isinstance(event, Entered) and event.function not in NOT_A_FUNCTION:
            name = event.function
            away = away and name != "execute"
            if not away and not name.startswith("main."):
                path.functions.append(own.get(name, f"runtime.{name}"))
        elif isinstance(event, StatusChanged) and event.goid == goid:
            path.statuses.append((event.old, event.new))
    return path


def real(version: str) -> Path_:
    """Of the executable's first preemption, from its signal's arrival on, as it was recorded."""
    path = Path_()
    with GoBinary(program(version, "nuts", "-gcflags=-N")) as binary:
        run = record(binary, Settings((b"nuts",)), Wanted())
        booted = run.rt
        assert isinstance(booted, Booted)
        first = next(m.step for m in run.events if isinstance(m.event, FrameBuilt))
        last = next(m.step for m in run.events if isinstance(m.event, Resumed))
        goid = next(m.event.goid for m in run.events if isinstance(m.event, Resumed))
        g = G(run.memory(first), booted.layout, run.goroutines[goid])
        status, stack = g.atomicstatus, (g.stack_lo, g.stack_hi)
        calls: list[str] = []  # the functions that have not returned, outermost first
        where: tuple[int, bool] | None = None  # the thread, and whether on the goroutine's stack
        for step in range(first, last + 1):
            now = G(run.memory(step), booted.layout, g.address).atomicstatus
            if now != status:
                path.statuses.append((status, now))
                status = now
            here = (run.who(step).tid, stack[0] <= run.registers(step)["RSP"] <= stack[1])
            if here != where:
                calls, where = [], here
            for frame in reversed(booted.frames(run.pc(step))):
                if frame.function in calls:
                    del calls[calls.index(frame.function) + 1 :]
                else:
                    calls.append(frame.function)
                    path.functions.append(frame.function)
    return path


@dataclass(frozen=True)
class Explained:
    """A line of the table in docs/model-and-reality.md."""

    patterns: tuple[str, ...]
    versions: str  # "all", "1.22 on", "to 1.22", "1.22 to 1.24", "1.19" or "sometimes"

    def names(self, version: str) -> bool:
        """Whether its functions are called in that version, always."""
        minor = int(version.split(".")[1])
        bounds = [int(number) for number in re.findall(r"1\.(\d+)", self.versions)]
        first = bounds[0] if bounds and not self.versions.startswith("to") else 0
        last = bounds[-1] if bounds and not self.versions.endswith("on") else 99
        return self.versions != "sometimes" and first <= minor <= last

    def matches(self, function: str) -> bool:
        name = function.removeprefix("runtime.")
        return any(fnmatchcase(name, pattern) for pattern in self.patterns)


def explained() -> list[Explained]:
    lines = DOCUMENT.read_text("utf-8").splitlines()
    cells = [line.split("|")[1:4] for line in lines if line.startswith("| `")]
    return [Explained(tuple(re.findall(r"`(.*?)`", one)), two.strip()) for one, two, _ in cells]


def without_repeats(names: list[str]) -> list[str]:
    """A function that goes on to another stack, mcall say, is there on both."""
    return [name for name, _ in groupby(names)]


@pytest.mark.parametrize("version", versions())
def test_the_models_path_is_gos(version: str) -> None:
    model, own = models(version), real(version)
    besides = {name for name in own.functions if name not in model.functions}
    besides -= {name for name in besides if name.startswith("main.")}
    same = [name for name in own.functions if name in model.functions]
    print(f"\n{version}: {len(without_repeats(same))} functions, {len(besides)} others besides")
    assert without_repeats(same) == without_repeats(model.functions)
    assert own.statuses == model.statuses == [(2, 1), (1, 2)]  # _Grunning, _Grunnable
    lines = explained()
    assert {name for name in besides if not any(line.matches(name) for line in lines)} == set()
    for line in lines:
        found = {pattern for pattern in line.patterns for n in besides if line.matches(n)}
        assert bool(found) == line.names(version) or line.versions == "sometimes", line


def test_the_path_is_the_one_that_the_documentation_tells() -> None:
    """Its list for the newest version, and what it says of older ones."""
    text = " ".join(DOCUMENT.read_text("utf-8").split())
    told = re.search(r"In 1\.27 that path is (.*?)\. Before", text)
    assert told is not None
    newest = without_repeats(models(versions()[-1]).functions)
    assert [f"runtime.{name}" for name in told[1].split(", ")] == newest
