"""The viewer by its keys, through Textual's pilot: where they lead, what the panes then say."""

from __future__ import annotations

import asyncio
import functools
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rich.console import Console
from textual.widgets import Input

from pushcall import api
from pushcall.snippet.injection import Injection
from pushcall.trace import viewer as viewer_module
from pushcall.trace.panes import Panes
from pushcall.trace.recorded import record
from pushcall.trace.viewer import HELP, Pane, Viewer
from runtime_model.events import PushedCall
from runtime_model.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from textual.pilot import Pilot

    from pushcall.trace.recorded import RecordedRun

NUTS = Path(__file__).parents[2] / "examples" / "golang_nuts.s"
WIDE, SMALL = (160, 48), (80, 24)


@functools.cache
def nuts() -> RecordedRun:
    loaded = api.program(NUTS, go="1.22", goroutines=2, procs=1, policy=Policy(None))
    return record(loaded, Injection(at=(25, 300)))


def drive(
    act: Callable[[Viewer, Pilot[None]], Awaitable[None]], size: tuple[int, int] = WIDE
) -> Viewer:
    async def run() -> Viewer:
        viewer = Viewer(nuts())
        async with viewer.run_test(size=size) as pilot:
            await pilot.pause()
            await act(viewer, pilot)
        return viewer

    return asyncio.run(run())


def text(viewer: Viewer, name: str) -> str:
    pane = viewer.query_one(f"#{name}", Pane)
    return "\n".join(pane.render_line(y).text.rstrip() for y in range(pane.size.height))


async def answer(pilot: Pilot[None], key: str, words: str) -> None:
    await pilot.press(key)
    await pilot.press(*("full_stop" if c == "." else c for c in words), "enter")
    await pilot.pause()


def pushed() -> tuple[int, PushedCall]:
    return next((m.step, m.event) for m in nuts().events if isinstance(m.event, PushedCall))


def test_the_first_preemption_back_over_pushcall_and_who_wrote_the_pushed_pc() -> None:
    step, event = pushed()

    async def act(viewer: Viewer, pilot: Pilot[None]) -> None:
        await pilot.press("p")
        assert viewer.at == step
        row = next(line for line in text(viewer, "stack").splitlines() if "< SP" in line)
        assert row.split()[:2] == [f"*{event.rsp_after:#x}", f"{event.resume:016x}"]
        assert "pushed PC main.main.func1+0x46" in row
        await pilot.press("N")
        assert viewer.at == step - 1
        row = next(line for line in text(viewer, "stack").splitlines() if "< SP" in line)
        assert f"{event.rsp_before:#x}" in row
        await pilot.press("n")
        await answer(pilot, "w", "SP")
        assert viewer.at == step
        assert f"{event.rsp_after:#x}: written before step {step}: pushCall" in viewer.message

    drive(act)


def test_a_register_that_has_not_changed_has_no_colour() -> None:
    step, _ = pushed()
    console = Console(color_system="truecolor")
    cells = {
        s.text.strip(): s.style.color if s.style else None
        for line in Panes(nuts()).registers(step + 1, 80)
        for s in line.render(console)
    }
    registers, before = nuts().registers(step + 1), nuts().registers(step)  # behind ADJSP
    assert registers["RBX"] == before["RBX"] != registers["RSP"] != before["RSP"]
    assert cells[f"{registers['RBX']:016x}"] is None
    assert cells[f"{registers['RSP']:016x}"] is not None


@pytest.mark.parametrize("size", [SMALL, viewer_module.WIDE])
def test_the_stack_is_seen_in_the_smallest_terminals(size: tuple[int, int]) -> None:
    async def act(viewer: Viewer, pilot: Pilot[None]) -> None:
        await pilot.press("p")
        assert "< SP pushed PC" in text(viewer, "stack")
        assert viewer.query_one("#keys").render_line(0).text.rstrip().endswith("q quit")

    drive(act, size)


def test_a_tiny_terminal_shows_code_and_registers() -> None:
    async def act(viewer: Viewer, pilot: Pilot[None]) -> None:
        await pilot.press("p")
        assert any(line.startswith(">") for line in text(viewer, "code").splitlines())
        assert "RAX" in text(viewer, "registers")
        await pilot.resize_terminal(80, 24)
        await pilot.pause()
        assert "< SP pushed PC" in text(viewer, "stack")

    drive(act, (40, 10))


def test_the_help_fits_a_terminal_of_80_columns() -> None:
    assert max(map(len, HELP.splitlines())) <= 80 - 2


def test_keys_lead_where_they_say() -> None:
    run = nuts()

    async def act(viewer: Viewer, pilot: Pilot[None]) -> None:
        for keys, step in (
            ("right down j", 3),
            ("left", 2),
            ("end", len(run)),
            ("right", len(run)),
            ("left", len(run) - 1),
            ("home", 0),
            ("left", 0),
            ("p p", run.preemptions[1]),
            ("P", run.preemptions[0]),
            ("b", run.preemptions[1]),
        ):
            await pilot.press(*keys.split())
            assert viewer.at == step, keys
        await pilot.press("home", "e")
        assert viewer.at == run.stops[0]
        await pilot.press("end", "E")
        assert viewer.at == max(s for s in run.stops if s < len(run))
        await answer(pilot, "g", "1234")
        assert viewer.at == 1234
        await answer(pilot, "question_mark", "asyncPreempt+0x1")
        assert run.pc(viewer.at) == run.rt.symbol("asyncPreempt") + 1
        assert viewer.at < 1234
        await answer(pilot, "slash", "asyncPreempt")
        assert viewer.at > run.preemptions[1]
        await pilot.press("O")
        assert run.who(viewer.at).g == 1
        await pilot.press("q")

    drive(act)


@pytest.mark.parametrize(
    ("key", "words", "says"),
    [
        ("g", "99999999", "the run has steps 0 to"),
        ("g", "many", "many: not a number"),
        ("slash", "nothing", "no symbol nothing"),
        ("w", "XYZ9", "no symbol XYZ9"),
        ("o", "7", "no goroutine; there are G1 to G2"),
    ],
)
def test_a_wrong_answer_is_told_and_leads_nowhere(key: str, words: str, says: str) -> None:
    async def act(viewer: Viewer, pilot: Pilot[None]) -> None:
        await pilot.press("p")
        at = viewer.at
        await answer(pilot, key, words)
        assert (viewer.at, says in viewer.message) == (at, True), viewer.message

    drive(act)


def test_another_goroutines_stack_is_shown_with_where_its_pointer_comes_from() -> None:
    run = nuts()

    async def act(viewer: Viewer, pilot: Pilot[None]) -> None:
        await pilot.press("p")
        await answer(pilot, "o", "1")
        assert "G1: not running: gobuf.sp" in text(viewer, "stack")
        assert "_Grunnable" in text(viewer, "fields")
        await answer(pilot, "o", "")
        assert "G2: interrupted: RSP of the ucontext" in text(viewer, "stack")
        assert run.who(viewer.at).g == 2

    drive(act)


def test_a_small_terminal_has_all_panes_one_lower_one_at_a_time() -> None:
    async def act(viewer: Viewer, pilot: Pilot[None]) -> None:
        seen = []
        for _ in range(5):
            shown = [p.id for p in viewer.query(Pane) if p.display and p.size.height]
            assert shown[0] == "code"
            assert "registers" in shown
            assert all(p.region.bottom <= 22 for p in viewer.query(Pane) if p.display)
            seen += [name for name in shown if name not in ("code", "registers")]
            await pilot.press("tab")
            await pilot.pause()
        assert seen == ["stack", "fields", "events", "timeline", "stack"]
        await pilot.resize_terminal(*WIDE)
        await pilot.pause()
        assert all(pane.size.height > 2 for pane in viewer.query(Pane))

    drive(act, SMALL)


def test_vectors_and_x87_unfold() -> None:
    async def act(viewer: Viewer, pilot: Pilot[None]) -> None:
        await pilot.press("p")
        assert "(u) *XMM0 *XMM1" in text(viewer, "registers")
        await pilot.press("u")
        await pilot.pause()
        assert "*XMM14" in text(viewer, "registers")
        await pilot.press("u")
        await pilot.pause()
        assert " MXCSR  1f80" in text(viewer, "registers")
        assert "*RFLAGS CF=1" in text(viewer, "registers")
        await pilot.press("u")
        assert "RAX" in text(viewer, "registers")

    for size in (WIDE, SMALL):
        drive(act, size)


def test_code_as_written_has_verdicts_with_their_reasons() -> None:
    async def act(viewer: Viewer, pilot: Pilot[None]) -> None:
        await answer(pilot, "slash", "main.func1+0x2e")
        await pilot.press("d")
        code = text(viewer, "code")
        assert "> + 0x48002e +0x2e" in code
        assert "ADDQ $2, AX" in code
        await answer(pilot, "slash", "asyncPreempt")
        assert "- 0x450000" in text(viewer, "code")

    drive(act)


def test_only_what_is_visible_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    original = Panes._step_line

    def counted(panes: Panes, step: int, width: int) -> object:
        made.append(step)
        return original(panes, step, width)

    monkeypatch.setattr(Panes, "_step_line", counted)

    async def act(viewer: Viewer, pilot: Pilot[None]) -> None:
        made.clear()
        await pilot.press("end")
        assert 0 < len(made) < WIDE[1]
        await pilot.press("left")
        assert viewer.at == len(nuts()) - 1
        assert len(made) < WIDE[1] + 3

    drive(act)


def test_help_and_prompt_close_again() -> None:
    async def act(viewer: Viewer, pilot: Pilot[None]) -> None:
        await pilot.press("h")
        await pilot.pause()
        assert len(viewer.screen_stack) == 2
        await pilot.press("q")
        await pilot.pause()
        assert len(viewer.screen_stack) == 1
        await pilot.press("g", "5", "escape")
        assert not viewer.query_one("#prompt", Input).display
        assert viewer.at == 0
        await pilot.press("ctrl+c")
        await pilot.pause()
        assert not viewer.is_running

    drive(act)
