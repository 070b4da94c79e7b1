"""Every example, in every family of Go's runtimes: preempted everywhere, and none the worse."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from emulator.registers import LAYOUT
from pushcall.api import check, program, run
from pushcall.snippet.listing import assemble

if TYPE_CHECKING:
    from pushcall.snippet.run import Outcome
    from runtime_model.runtime import Runtime

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = sorted(path.name for path in EXAMPLES.glob("*.s"))

# Cooperative only; trampolines on the stack under the stack ABI; under the register ABI; frames by
# PUSHQ BP; vectors in p.xRegs.
FAMILIES = ["1.13", "1.14", "1.16", "1.17", "1.22", "1.26", "1.27"]

THREADS_OWN = {"FS_BASE", "GS_BASE"}


@functools.cache
def short(name: str) -> str:
    """An example's text with few rounds: the boundaries are the same, only visited less often."""
    text = (EXAMPLES / name).read_text("utf-8")
    text = text.replace("#define DEPTH 40", "#define DEPTH 24")
    return re.sub(r"^#define (ROUNDS|LOOPS) \d+", r"#define \1 2", text, flags=re.MULTILINE)


def final_state(rt: Runtime, out: Outcome) -> dict[str, object]:
    """What a program leaves: its status, each goroutine's last registers, and its data."""
    assert out.crash is None, out.crash.lines()
    state: dict[str, object] = {"exit": out.exit}
    for segment in rt.user.segments:
        if segment.writable and segment.data:
            state[segment.name] = rt.memory.read(segment.address, len(segment.data))
    for goid, registers in out.goroutines.items():
        assert registers is not None
        for register in LAYOUT.keys() - THREADS_OWN:
            state[f"G{goid} {register}"] = hex(registers[register])
    return state


@pytest.mark.parametrize("go", FAMILIES)
@pytest.mark.parametrize("name", NAMES)
def test_preempted_at_every_boundary_it_ends_as_if_never_preempted(name: str, go: str) -> None:
    goroutines = 3 if "goroutines=" in short(name) else 1
    left_alone = run(short(name), EXAMPLES, go=go, goroutines=goroutines, procs=1, never=True)
    preempted = run(short(name), EXAMPLES, go=go, goroutines=goroutines, procs=1, every=1)
    rt, out = preempted
    assert final_state(*preempted) == final_state(*left_alone)
    assert (out.failed, out.losses, out.status) == ([], [], 0)
    assert len(out.goroutines) == goroutines
    if go == "1.13":
        assert out.preemptions == 0
    else:
        # All boundaries but each goroutine's first and those that are marked unsafe.
        assert out.preemptions == out.resumed
        assert out.preemptions + sum(out.refusals.values()) == out.requests
        # A stack check that fails, for want of stack or to give way, is passed again unasked.
        assert out.preemptions >= 0.6 * rt.machine.user_instructions


@pytest.mark.parametrize("go", ["1.14", "1.27"])
@pytest.mark.parametrize("name", NAMES)
def test_check_says_preserved(name: str, go: str) -> None:
    result = check(short(name), EXAMPLES, go=go)
    assert result.verdict == "preserved"
    assert result.ok
    assert result.points + result.unsafe == result.boundaries > 30


@pytest.mark.parametrize("name", NAMES)
def test_check_of_the_whole_example_says_preserved(name: str) -> None:
    result = check(name, EXAMPLES, go="1.22")
    assert result.ok
    assert result.points + result.unsafe == result.boundaries


# The golang-nuts program: https://groups.google.com/g/golang-nuts, "How does isAsyncSafePoint
# check preemptable?", 6 Aug 2020: main.main.func1 from t := 0 to the jump back, by gdb.
GOLANG_NUTS = """
48 c7 44 24 08 00 00 00 00
48 c7 44 24 10 00 00 00 00
eb 00
48 81 7c 24 10 00 ca 9a 3b
7c 02
eb 1f
48 8b 44 24 08
48 83 c0 02
48 89 44 24 08
eb 00
48 8b 44 24 10
48 ff c0
48 89 44 24 10
eb d4
"""


def test_golang_nuts_assembles_to_the_bytes_of_the_post() -> None:
    image = assemble(program("golang_nuts.s", EXAMPLES, defines={"LOOPS": 1000000000}).config).user
    function = image.function("main.main.func1")
    assert function is not None
    lines = [i.data for i in function.instructions if not i.inserted]
    assert lines[: len(GOLANG_NUTS.split("\n")) - 2] == [
        bytes.fromhex(line) for line in GOLANG_NUTS.strip().split("\n")
    ]


def test_adds_stack_check_is_the_one_of_go_1_14() -> None:
    # `go tool compile -S` of Go 1.14, as printed in articles about its preemption: offsets 0, 9
    # and 13, and at the end NOP, CALL runtime.morestack_noctxt, JMP 0.
    image = assemble(program("add.s", EXAMPLES, go="1.14").config).user
    function = image.function("main.add")
    assert function is not None
    head = function.instructions[:3]
    assert all(instruction.inserted for instruction in head)
    assert [i.address - function.address for i in head] == [0, 9, 13]
    assert head[0].data == bytes.fromhex("64 48 8b 0c 25 f8 ff ff ff")  # MOVQ (TLS), CX
    sources = [i.source for i in head]
    assert sources[0] == "MOVQ (TLS), CX"
    assert sources[2].startswith("JLS")
    *_, call, back = function.instructions
    assert call.source == "CALL runtime.morestack_noctxt(SB)"
    assert call.data[0] == 0xE8
    assert back.source.startswith("JMP")
    # The JLS leads to the call, the JMP to the start.
    assert head[2].end + head[2].data[-1] == call.address
    assert back.end + int.from_bytes(back.data[1:], "little", signed=True) == function.address


@pytest.mark.parametrize("go", ["1.14", "1.22", "1.27"])
def test_a_value_below_rsp_is_lost_at_the_boundary_before_its_load(go: str) -> None:
    result = check("lost/red_zone.s", EXAMPLES, go=go)
    assert result.verdict == "lost"
    (loss,) = result.losses
    assert loss.register == "MEMORY"
    assert loss.points == 1
    assert loss.first.place.source.split() == ["MOVQ", "-8(SP),", "BX"]
    assert loss.before == 42
    assert loss.after != 42
    assert loss.address is not None
