"""The model's path of a preemption against Go's own: the golang-nuts program, version by version.

    pytest -s tests/conformance/test_model_path.py

The executable is booted and its first preemption single-stepped, from the signal to the resumed
instruction. The functions that the model says it enters must be entered by the executable in that
order (inlined ones count), and the goroutine's status must change in the same way. What Go enters
besides is printed: the model leaves it out on purpose (tracing, timers, work stealing, checks).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from test_booted import program
from toolchains import versions

from emulator.events import FrameBuilt
from pushcall import run as running
from pushcall.booted_trace import Wanted, record
from pushcall.program import Options, load
from runtime_model.booted import Booted, Settings
from runtime_model.events import Entered, Executing, PreemptRequested, Resumed, StatusChanged
from runtime_model.moduledata import GoBinary
from runtime_model.runtime2 import G

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
    frames: dict[int, set[str]] = {}  # by thread: the functions of its last instruction
    with GoBinary(program(version, "nuts", "-gcflags=-N")) as binary:
        run = record(binary, Settings((b"nuts",)), Wanted())
        booted = run.rt
        assert isinstance(booted, Booted)
        first = next(m.step for m in run.events if isinstance(m.event, FrameBuilt))
        last = next(m.step for m in run.events if isinstance(m.event, Resumed))
        goid = next(m.event.goid for m in run.events if isinstance(m.event, Resumed))
        address = run.goroutines[goid]
        status = G(run.memory(first), booted.layout, address).atomicstatus
        for step in range(first, last + 1):
            now = G(run.memory(step), booted.layout, address).atomicstatus
            if now != status:
                path.statuses.append((status, now))
                status = now
            names = [frame.function for frame in reversed(booted.frames(run.pc(step)))]
            tid = run.who(step).tid
            path.functions += [name for name in names if name not in frames.get(tid, set())]
            frames[tid] = set(names)
    return path


@pytest.mark.parametrize("version", versions())
def test_the_models_functions_are_gos_in_order(version: str) -> None:
    model, own = models(version), real(version)
    rest = iter(own.functions)
    missing = [name for name in model.functions if name not in rest]
    besides = ", ".join(sorted(set(own.functions) - set(model.functions)))
    print(f"\n{version}: {len(model.functions)} of the model's; Go's besides: {besides}")
    assert missing == []
    assert own.statuses == model.statuses
