"""A preemption of a real executable in every view: recorded from tgkill to the resumed instruction.

    pytest -s tests/conformance/test_booted_trace.py

The reference is the run without a recording: the same preemption, by its number, hits the same
goroutine at the same PC; and what the goroutine's registers were before and after.
"""

from __future__ import annotations

import asyncio
import functools
import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from test_booted import program
from test_booted_check import program as checked
from textual.widgets import Input
from toolchains import versions

from emulator.events import FrameBuilt, SystemCall
from pushcall.booted.run import run_binary
from pushcall.booted.trace import NotReachedError, Wanted, record
from pushcall.snippet.crash import place
from pushcall.trace import slots, walk
from pushcall.trace.drawing import svg
from pushcall.trace.page import content
from pushcall.trace.panes import Panes
from pushcall.trace.perfetto import document
from pushcall.trace.plain import Shown, lines, to_json
from pushcall.trace.viewer import Pane, Viewer
from pushcall.usage import UsageError
from runtime_model.booted import Settings
from runtime_model.events import PreemptRequested, PushedCall, Resumed
from runtime_model.moduledata import GoBinary

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from textual.pilot import Pilot

    from pushcall.trace.recorded import RecordedRun

TESTED = [v for v in versions() if v.startswith(("1.19", "1.22", "1.27"))]
NUTS = ("nuts", "-gcflags=-N")
SETTINGS = Settings((b"program",))


@functools.cache
def recorded(version: str, number: int = 2) -> RecordedRun:
    return record(GoBinary(program(version, *NUTS)), SETTINGS, Wanted(number))


def step_of(run: RecordedRun, kind: type) -> int:
    return next(m.step for m in run.events if isinstance(m.event, kind))


@pytest.mark.parametrize("version", TESTED)
def test_it_is_the_preemption_of_that_number_in_the_run(version: str) -> None:
    with GoBinary(program(version, *NUTS)) as binary:
        _, out = run_binary(binary, SETTINGS, [])
    wanted = out.preempted[1]
    run = recorded(version)
    found = next(m.event for m in run.events if isinstance(m.event, PushedCall))
    assert (found.resume, found.g, found.m) == (wanted.pc, wanted.goid, wanted.m)
    assert found.time == wanted.time
    print(f"{version}: {len(run)} steps")


@pytest.mark.parametrize("version", TESTED)
def test_every_instruction_from_tgkill_to_the_resumed_one_is_there(version: str) -> None:
    run = recorded(version)
    asked = step_of(run, PreemptRequested)
    assert place(run.rt, run.pc(asked - 1)).source == "syscall"
    assert place(run.rt, run.pc(asked)).symbol.startswith("runtime.tgkill+")
    built = step_of(run, FrameBuilt)
    frame = next(m.event for m in run.events if isinstance(m.event, FrameBuilt))
    assert frame.interrupted is not None
    assert place(run.rt, run.pc(built)).symbol == "runtime.sigtramp"
    resumed = step_of(run, Resumed) + 1  # behind asyncPreempt's RET
    now = run.registers(resumed)
    threads_own = {"FS_BASE", "GS_BASE"}
    assert set(frame.interrupted.diff(now)) <= threads_own
    assert run.who(resumed).g == next(
        m.event.goid for m in run.events if isinstance(m.event, Resumed)
    )
    functions = {place(run.rt, run.pc(step)).symbol.partition("+")[0] for step in range(len(run))}
    assert functions >= {"runtime.sighandler", "runtime.asyncPreempt", "runtime.schedule"}


@pytest.mark.parametrize("version", TESTED)
def test_each_of_its_steps_leads_to_the_next(version: str) -> None:
    """What an instruction changes is all that changes, unless the kernel or others ran between."""
    run = recorded(version)
    broken = [
        step
        for step in range(len(run) - 1)
        if run.who(step).tid == run.who(step + 1).tid
        and not run.log.interrupted(step, step + 1)
        and run.behind(step) != run.registers(step + 1)
    ]
    assert broken == []


@pytest.mark.parametrize("version", TESTED)
def test_slots_say_what_asyncpreempt_saved_where(version: str) -> None:
    run = recorded(version)
    step = step_of(run, Resumed)
    first = step_of(run, PushedCall)
    call = next(
        s
        for s in range(first, step)
        if place(run.rt, run.pc(s)).symbol.startswith("runtime.asyncPreempt+")
        and place(run.rt, run.pc(s)).source.startswith("call")
    )
    what = {slot.what: slot.value for slot in slots.stack(run, call, above=80).slots}
    pushed = next(m.event for m in run.events if isinstance(m.event, PushedCall))
    before = run.registers(first)
    assert any(k.startswith("pushed PC ") and v == pushed.resume for k, v in what.items())
    assert {what["saved RAX"], what["saved R8"]} == {before["RAX"], before["R8"]}
    assert what["saved BP"] == before["RBP"]
    told, writer = walk.who_wrote(run, call, "SP")
    assert told.startswith("0x")
    assert writer is not None


@pytest.mark.parametrize("version", TESTED)
def test_all_views_show_it(version: str) -> None:
    run = recorded(version)
    text = "\n".join(lines(run, Shown()))
    assert "tgkill(" in text
    assert "asyncPreempt" in text
    assert "every register and the stack are as they were" in text
    assert "instructions of other threads, not recorded" in text
    assert "main.go:" in text  # functions with their lines
    assert svg(run).count("<rect") > 8
    found = json.loads(json.dumps(document(run)))
    assert {e["ph"] for e in found["traceEvents"]} == {"M", "X", "i", "s", "f"}
    told = to_json(run, Shown())
    assert [e["event"] for e in told["events"]].count("PushedCall") == 1
    page = content(run, 0, min(len(run), 3000), lambda _: None)
    assert page["preemptions"] == run.preemptions
    panes = Panes(run)
    for step in (0, run.preemptions[0], step_of(run, Resumed), len(run)):
        assert panes.fields(step, 80, 20)
        assert panes.stack(step, 20)
        assert len(panes.timeline(step, 80)) > 4
        assert str(panes.status(step)).startswith(f"step {step} of {len(run)}")


def drive(run: RecordedRun, act: Callable[[Viewer, Pilot[None]], object]) -> None:
    async def go() -> None:
        viewer = Viewer(run)
        async with viewer.run_test(size=(160, 48)) as pilot:
            await pilot.pause()
            await act(viewer, pilot)  # type: ignore[misc]

    asyncio.run(go())


def test_the_viewer_goes_through_it_by_its_keys() -> None:
    run = recorded(TESTED[-1])

    async def act(viewer: Viewer, pilot: Pilot[None]) -> None:
        await pilot.press("p")
        assert viewer.at == run.preemptions[0]
        fields = viewer.query_one("#fields", Pane)
        shown = "\n".join(fields.render_line(y).text for y in range(fields.size.height))
        assert "atomicstatus" in shown
        assert "_Grun" in shown
        await pilot.press("w")
        viewer.query_one("#prompt", Input).value = "SP"
        await pilot.press("enter")
        assert "written by step" in viewer.message  # sigctxt.pushCall, inlined
        assert "runtime.doSigPreempt+" in viewer.message
        await pilot.press("b", "d", "n", "N", "e", "E", "O", "slash")
        viewer.query_one("#prompt", Input).value = "runtime.execute"
        await pilot.press("enter")
        assert place(run.rt, run.pc(viewer.at)).symbol == "runtime.execute"

    drive(run, act)


@pytest.mark.parametrize("version", TESTED)
def test_at_a_pc_the_preemption_is_asked_for(version: str) -> None:
    path = checked(version)
    with GoBinary(path) as binary:
        function = binary.names["main.integers"]
        run = record(binary, SETTINGS, Wanted(3, at_pc=f"main.integers+{0x20:#x}"))
        wanted = function.entry + 0x20
        pushed = next(m.event for m in run.events if isinstance(m.event, PushedCall))
        back = next(m.event for m in run.events if isinstance(m.event, Resumed))
        assert (pushed.resume, back.pc, back.losses) == (wanted, wanted, [])
        assert not any(isinstance(m.event, SystemCall) for m in run.events[:3])
        refused = record(binary, SETTINGS, Wanted(at_pc="runtime.mallocgc"))
        assert "function of a package that is never preempted" in refused.refused
        with pytest.raises(UsageError, match="no instruction"):
            record(binary, SETTINGS, Wanted(at_pc=f"{function.entry + 1:#x}"))
        with pytest.raises(NotReachedError, match=r"no goroutine came to main\.integers 3 times"):
            record(binary, SETTINGS, Wanted(3, at_pc="main.integers"))


def trace(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pushcall", "trace", str(path), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_writes_files_and_says_what_it_cannot(tmp_path: Path) -> None:
    path = program(TESTED[-1], *NUTS)
    names = ("--html", "--svg", "--perfetto")
    files = {name: tmp_path / name[2:] for name in names}
    options = [text for name, file in files.items() for text in (name, str(file))]
    ended = trace(path, "--function", "main.main.func1", "--preemption", "2", *options)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert all(file.stat().st_size > 1000 for file in files.values())
    ended = trace(path, "--preemption", "100000", "--plain")
    assert ended.returncode == 1
    assert "ended with status 0 before its preemption 100000" in ended.stderr
    ended = trace(path, "--plain", "--steps", "100")
    assert "only the first 100 steps were recorded (--steps)" in ended.stderr
