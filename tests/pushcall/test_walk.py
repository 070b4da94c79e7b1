"""Ways through a recorded run, and what the slots of its stacks are.

Frames are those of Go's trampolines: their slots come from the layouts that make them.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from asm import mkpreempt
from pushcall import api
from pushcall.snippet.injection import Injection
from pushcall.trace import fields, slots, walk
from pushcall.trace.recorded import record
from pushcall.usage import UsageError
from runtime_model.events import PushedCall, Resumed
from runtime_model.policy import Policy
from runtime_model.stack import stackPreempt

if TYPE_CHECKING:
    from pushcall.trace.recorded import RecordedRun

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = {n: f"R{n}" for n in ("AX", "CX", "DX", "BX", "SI", "DI")}


@functools.cache
def recorded(name: str, go: str = "1.22", *, every: int = 0, at: int = 0) -> RecordedRun:
    loaded = api.program(EXAMPLES / name, go=go, goroutines=1, policy=Policy(None))
    return record(loaded, Injection(every=every or None, at=(at,) if at else ()))


def test_over_a_call_is_behind_it_and_back_over_is_before_it() -> None:
    run = recorded("nested.s", at=10_000)
    calls = [
        step
        for step in range(len(run))
        if run.who(step).g == 1 and walk.is_call(walk.instruction(run.rt, run.pc(step)))
    ]
    returned, moved = 0, list[bool]()
    for step in calls:
        found = walk.instruction(run.rt, run.pc(step))
        assert found is not None
        to = walk.over(run, step)
        if "main·" in found.source:  # morestack goes back to its caller by gogo, not by RET
            returned += 1
            assert run.pc(to) == found.end
            assert to > step + 1
            moved.append(run.registers(to)["RSP"] != run.registers(step)["RSP"])
            assert walk.back_over(run, to) == step
    assert returned == 3
    assert any(moved)  # main.huge made the stack grow, and so move


def test_over_an_interrupted_instruction_passes_by_the_handler() -> None:
    """Behind the last instruction before the signal comes asyncPreempt, of the same goroutine."""
    run = recorded("golang_nuts.s", at=25)
    pushed = next(m.step for m in run.events if isinstance(m.event, PushedCall))
    trampoline = run.recording.find(run.rt.symbol("asyncPreempt"), pushed)
    assert trampoline is not None
    interrupted = walk.back_over(run, trampoline)
    assert run.rt.user.findfunc(run.pc(interrupted)) is not None
    assert walk.over(run, interrupted) == trampoline
    resumed = next(m.step for m in run.events if isinstance(m.event, Resumed))
    assert run.who(resumed).g == 1
    assert walk.over(run, resumed - 1) == resumed
    before = walk.back_over(run, resumed)
    assert walk.is_return(walk.instruction(run.rt, run.pc(before)))


@pytest.mark.parametrize(("go", "layout"), [("1.22", mkpreempt.stack_layout()),
                                            ("1.27", mkpreempt.gpr_layout())])  # fmt: skip
def test_every_slot_of_asyncpreempts_frame_is_named_as_its_layout_says(
    go: str, layout: mkpreempt.Layout
) -> None:
    run = recorded("float_loop.s", go, at=25)
    step = run.recording.find(run.rt.symbol("asyncPreempt2"), 0)
    assert step is not None
    drawn = slots.stack(run, step, above=60, below=1)
    what = {slot.address: slot.what for slot in drawn.slots}
    base = drawn.rsp + 8
    assert what[drawn.rsp].startswith("return PC runtime.asyncPreempt+")
    for slot in layout.slots:
        name = NAMES.get(slot.register, slot.register)
        said = [what[base + slot.offset + i] for i in range(0, slot.size, 8)]
        if slot.size == 8:
            assert said == [f"saved {name}"]
        else:
            parts = ["bits 63 to 0", "bits 127 to 64"]
            assert said == [f"saved {name}, {part}" for part in parts]
    frame = [what[address] for address in sorted(what) if address >= base]
    at = frame.index("saved RFLAGS")
    assert frame[at + 1] == "saved BP"
    assert frame[at + 2].startswith("pushed PC main.loop+")


def test_fields_are_those_of_the_step() -> None:
    run = recorded("golang_nuts.s", at=25)
    pushed = next(m.step for m in run.events if isinstance(m.event, PushedCall))

    def at(step: int) -> dict[str, str]:
        return {f"{f.owner}.{f.path}": f.text for f in fields.fields(run, step)}

    assert at(pushed)["G1.stackguard0"] == "stackPreempt"
    assert at(pushed)["G1.preempt"] == "1"
    assert at(pushed)["G1.atomicstatus"] == "_Grunning"
    resumed = next(m.step for m in run.events if isinstance(m.event, Resumed))
    assert at(resumed)["G1.preempt"] == "0"
    assert int(at(resumed)["G1.stackguard0"], 0) != stackPreempt
    started = next(s.start for s in run.spans if s.g == 1)
    assert at(started)["G1.preempt"] == "0"
    assert at(started)["M0.curg"].endswith("G1")


@pytest.mark.parametrize("text", ["SP+ff", "SP+-8", "SP+0x", "nowhere"])
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        walk.who_wrote(recorded("nested.s", at=10_000), 40, text)


def test_offsets_from_sp_are_decimal_or_hexadecimal() -> None:
    run = recorded("nested.s", at=10_000)
    assert walk.who_wrote(run, 40, "SP+010") == walk.who_wrote(run, 40, "sp+0xA")
