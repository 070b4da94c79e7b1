"""Goroutine stacks that grow, move and shrink (runtime/stack.go of the versions)."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from small_runtime import stopped

from pushcall.api import run
from runtime_model import stackpool
from runtime_model.events import Descheduled, Entered, StackChecked, StackCopied, StatusChanged
from runtime_model.newstack import StackOverflow
from runtime_model.panic import Throw
from runtime_model.poison import STACK_POISON
from runtime_model.policy import Policy
from runtime_model.runtime2 import (
    _Gcopystack,
    _Grunnable,
    _Grunning,
    _Gscan,
    _Gwaiting,
)
from runtime_model.stack import isShrinkStackSafe, shrinkstack
from runtime_model.timers import request_preemption

if TYPE_CHECKING:
    from emulator.events import Event
    from pushcall.snippet.run import Outcome

ALL = ["1.13", "1.14", "1.15", "1.16", "1.17", "1.20", "1.22", "1.25", "1.27"]

# A number and a pointer to it lie in the first frame; DEPTH calls below them the stack has moved.
DOWN = """
#include "textflag.h"

TEXT main·main(SB), 0, $24-0
	LEAQ	8(SP), AX
	MOVQ	AX, 16(SP)
	MOVQ	$7, 8(SP)
	MOVQ	$DEPTH, 0(SP)
	CALL	main·down(SB)
	LEAQ	8(SP), BX
	MOVQ	16(SP), CX
	SUBQ	CX, BX	// 0: the pointer has moved with what it points to
	MOVQ	(CX), AX
	RET

TEXT main·down(SB), 0, $64-8
	MOVQ	n+0(FP), BX
	TESTQ	BX, BX
	JEQ	done
	DECQ	BX
	MOVQ	BX, 0(SP)
	CALL	main·down(SB)
done:
	RET
"""


def grown(text: str = DOWN, depth: int = 100, **options: object) -> tuple[Outcome, list[Event]]:
    """A run without preemption, and its events."""
    from pushcall.api import program
    from pushcall.snippet.run import run as run_program

    options.setdefault("policy", Policy(None))
    defines = {"DEPTH": depth}
    loaded = program(text, defines=defines, **options)  # type: ignore[arg-type]
    _, out = run_program(loaded, keep_events=True)
    return out, out.events


def of(events: list[Event], kind: type[Event]) -> list[Event]:
    return [event for event in events if isinstance(event, kind)]


@pytest.mark.parametrize("go", ALL)
def test_a_stack_grows_to_twice_its_size_and_pointers_into_it_move_along(go: str) -> None:
    out, events = grown(go=go)
    assert out.exit == 0, out.crash
    last = out.goroutines[1]
    assert last is not None
    assert (last["RAX"], last["RBX"]) == (7, 0)
    copies = [e for e in events if isinstance(e, StackCopied)]
    sizes = [(e.old_hi - e.old_lo, e.new_hi - e.new_lo) for e in copies]
    assert sizes == [(2048, 4096), (4096, 8192), (8192, 16384)]
    for old, new in pairwise(copies):
        assert (new.old_lo, new.old_hi) == (old.new_lo, old.new_hi)


@pytest.mark.parametrize("go", ALL)
def test_growth_takes_the_steps_of_newstack(go: str) -> None:
    # stack.go, newstack: casgstatus to _Gcopystack, copystack, casgstatus back, gogo to the
    # function, whose check is repeated.
    _, events = grown(go=go, depth=20)
    at = next(i for i, e in enumerate(events) if isinstance(e, StackChecked))
    assert isinstance(events[at], StackChecked)
    path = [
        e.function if isinstance(e, Entered) else (e.old, e.new)
        for e in events[at - 3 : at + 10]
        if isinstance(e, Entered | StatusChanged)
    ]
    assert path[:8] == [
        "morestack_noctxt", "morestack", "newstack",
        "casgstatus", (_Grunning, _Gcopystack), "copystack",
        "casgstatus", (_Gcopystack, _Grunning),
    ]  # fmt: skip
    assert path[8:] == ["gogo", "main.down"]


@pytest.mark.parametrize("go", ["1.13", "1.22", "1.27"])
def test_every_saved_bp_is_adjusted(go: str) -> None:
    at = stopped(DOWN, at=0, defines={"DEPTH": 60}, go=go)
    while not at.of(StackCopied):
        at.go_on(1)
    rt, gp = at.rt, at.gp
    copied = at.of(StackCopied)[0]
    bp, chain = at.thread.registers["RBP"], []
    while bp:
        assert gp.stack_lo <= bp < gp.stack_hi
        chain.append(bp)
        bp = rt.memory.u64(bp)
    assert chain == sorted(chain)
    # One in each frame but the outermost, whose caller had none; sched.bp; the pointer itself.
    assert copied.adjusted == len(chain) - 1 + 1 + 1


def test_the_old_stack_is_poisoned_and_used_again() -> None:
    at = stopped(DOWN, at=0, defines={"DEPTH": 60})
    rt = at.rt
    low = at.gp.stack_lo
    while not at.of(StackCopied):
        at.go_on(1)
    assert at.gp.stack_lo != low
    assert rt.memory.read(low + 8, 2040) == STACK_POISON * 2040
    assert stackpool.stackalloc(rt, 2048) == low
    assert stackpool.stackalloc(rt, 2048) not in (low, at.gp.stack_lo)


def test_what_is_below_a_stack_is_not_mapped() -> None:
    at = stopped()
    assert at.rt.memory.find(at.gp.stack_lo) is not None
    assert at.rt.memory.find(at.gp.stack_lo - 1) is None


BIG = """
#include "textflag.h"

TEXT main·main(SB), 0, $16-0
	CALL	main·big(SB)
	RET

TEXT main·big(SB), 0, $30000-0
	MOVQ	$1, 0(SP)
	CALL	main·leaf(SB)
	RET

TEXT main·leaf(SB), NOSPLIT|NOFRAME, $0-0
	RET
"""


@pytest.mark.parametrize(
    ("go", "sizes"),
    [
        # 1.13, 1.14: twice, and again, until the check passes.
        ("1.13", [4096, 8192, 16384, 32768]),
        ("1.14", [4096, 8192, 16384, 32768]),
        # 1.15 on: until funcMaxSPDelta + the guard fit; up to 1.16 beside the old size.
        ("1.15", [65536]),
        ("1.16", [65536]),
        ("1.17", [32768]),
        ("1.27", [32768]),
    ],
)
def test_since_1_15_a_large_frame_makes_the_stack_grow_at_once(go: str, sizes: list[int]) -> None:
    # 30000 + 8 + 928 bytes: beside 2048 used at most in 32768; beside an old size of 2048 not
    # (32768 - 2048 < 30936).
    out, events = grown(BIG, go=go)
    assert out.exit == 0, out.crash
    assert [e.new_hi - e.new_lo for e in events if isinstance(e, StackCopied)] == sizes


def test_the_starting_size_is_an_option() -> None:
    _, events = grown(stack=65536)
    assert of(events, StackCopied) == []
    at = stopped(stack=8192)
    assert at.gp.stack_hi - at.gp.stack_lo == 8192


@pytest.mark.parametrize("go", ["1.13", "1.22", "1.27"])
def test_a_stack_beyond_the_limit_is_a_stack_overflow(go: str) -> None:
    # stack.go, newstack: newsize > maxstacksize, with runtime.main's text.
    out, events = grown(depth=1 << 30, go=go, max_stack=100_000)
    assert out.crash is not None
    assert out.crash.title == (
        "runtime: goroutine stack exceeds 100000-byte limit; fatal error: stack overflow"
    )
    assert out.crash.where is not None
    assert out.crash.where.symbol.startswith("main.down")
    assert out.crash.goroutine == 1
    # 65536 was allowed, 131072 is not.
    last = of(events, StackCopied)[-1]
    assert isinstance(last, StackCopied)
    assert last.new_hi - last.new_lo == 65536


def test_the_default_limit_is_that_of_runtime_main() -> None:
    at = stopped()
    assert at.rt.maxstacksize == 1_000_000_000
    assert issubclass(StackOverflow, Throw)


@pytest.mark.parametrize("go", ["1.14", "1.22", "1.27"])
def test_a_preempted_goroutine_may_grow_before_and_after(go: str) -> None:
    # Preemption at each instruction, growth in between: nothing is lost.
    _, out = run(DOWN, defines={"DEPTH": 20}, every=1, go=go)
    assert out.exit == 0, out.crash
    assert out.copies > 0
    last = out.goroutines[1]
    assert last is not None
    assert (last["RAX"], last["RBX"]) == (7, 0)
    assert out.losses == []
    assert out.preemptions > 100


# Maps.


def with_line(text: str, line: str) -> str:
    """The text with a line at the head of main.main."""
    return text.replace("$24-0\n", f"$24-0\n\t{line}\n").replace(
        '#include "textflag.h"', '#include "textflag.h"\n#include "funcdata.h"'
    )


def test_no_local_pointers_is_taken_at_its_word() -> None:
    out, _ = grown(with_line(DOWN, "NO_LOCAL_POINTERS"))
    last = out.goroutines[1]
    assert out.exit == 0
    assert last is not None
    assert last["RBX"] != 0  # the pointer stayed behind


@pytest.mark.parametrize("go", ["1.13", "1.22", "1.27"])
def test_assembly_with_locals_and_without_a_map_throws(go: str) -> None:
    # stkframe.go (stack.go up to 1.20), getStackMap: "missing stackmap".
    out, _ = grown(go=go, as_assembly=True)
    assert out.crash is not None
    assert out.crash.title.startswith("runtime: frame main.down untyped locals 0xc0")
    assert out.crash.title.endswith("+0x40; fatal error: missing stackmap")
    marked = DOWN.replace("$64-8\n", "$64-8\n\tNO_LOCAL_POINTERS\n")
    out, events = grown(with_line(marked, "NO_LOCAL_POINTERS"), go=go, as_assembly=True)
    assert out.exit == 0, out.crash
    assert len(of(events, StackCopied)) == 3


# Shrinking.


@pytest.mark.parametrize("go", ["1.14", "1.22", "1.27"])
def test_a_stack_with_asyncpreempts_frame_is_never_moved(go: str) -> None:
    at = stopped(go=go, stack=32768, goroutines=2)
    rt, gp = at.rt, at.gp
    request_preemption(rt, at.thread, "test")
    at.go_on()
    if at.gp == gp:  # 61 ticks: it came back at once
        request_preemption(rt, at.thread, "test")
        at.go_on()
    assert gp.atomicstatus == _Grunnable
    with rt.acting(at.thread):
        # At an asynchronous safe point some frame has no exact maps.
        assert gp.asyncSafePoint == 1
        assert not isShrinkStackSafe(rt, gp)
        gp.atomicstatus = _Gscan | _Grunnable
        with pytest.raises(Throw, match="shrinkstack at bad time"):
            shrinkstack(rt, gp)
        gp.atomicstatus = _Grunnable
    assert at.of(StackCopied) == []


def test_shrinking_stops_at_the_fixed_size_and_at_a_quarter() -> None:
    at = stopped(stack=32768, goroutines=2)
    rt = at.rt
    gp = rt.g(rt.goroutines[0])  # has not run yet: its stack holds goexit alone
    assert gp.atomicstatus == _Grunnable
    gp.atomicstatus = _Gscan | _Grunnable
    sizes = []
    with rt.acting(at.thread):
        for _ in range(5):
            shrinkstack(rt, gp)
            sizes.append(gp.stack_hi - gp.stack_lo)
    # 40 bytes and stackNosplit (800) are in use: less than a quarter of 4096, not of 2048.
    assert sizes == [16384, 8192, 4096, 2048, 2048]
    gp.atomicstatus = _Grunnable
    for _ in range(2):
        request_preemption(at.rt, at.thread, "test")
        at.go_on()
    assert at.gp == gp  # and it runs
    assert gp.stack_lo <= at.thread.registers["RSP"] < gp.stack_hi


def test_gcshrinkstackoff_and_status_forbid_shrinking() -> None:
    at = stopped(stack=32768, goroutines=2, policy=Policy(None, gcshrinkstackoff=True))
    rt = at.rt
    gp = rt.g(rt.goroutines[0])
    with rt.acting(at.thread):
        with pytest.raises(Throw, match="bad status in shrinkstack"):
            shrinkstack(rt, gp)
        gp.atomicstatus = _Gscan | _Gwaiting
        shrinkstack(rt, gp)
    assert gp.stack_hi - gp.stack_lo == 32768


@pytest.mark.parametrize("go", ["1.14", "1.22", "1.27"])
def test_a_pending_shrink_is_done_at_the_next_stack_check(go: str) -> None:
    # stack.go, newstack: preemptShrink, before preemptPark or gopreempt_m.
    at = stopped(
        DOWN, 0, defines={"DEPTH": 3}, go=go, stack=32768,
        policy=Policy(None, asyncpreemptoff=True), goroutines=2,
    )  # fmt: skip
    at.gp.preemptShrink = 1
    at.events.clear()
    request_preemption(at.rt, at.thread, "test")
    at.go_on(12)
    wanted = [e for e in at.events if isinstance(e, StackChecked | StackCopied | Descheduled)]
    assert [type(e) for e in wanted[:3]] == [StackChecked, StackCopied, Descheduled]
    copied = at.of(StackCopied)[0]
    assert (copied.old_hi - copied.old_lo, copied.new_hi - copied.new_lo) == (32768, 16384)


def test_a_dead_goroutine_gives_a_grown_stack_back() -> None:
    # proc.go, gfput: a stack of another size than the starting one is freed.
    rt, out = run(DOWN, defines={"DEPTH": 100}, never=True)
    assert out.exit == 0
    assert rt.g(rt.goroutines[0]).stack_lo == 0
    rt, _ = run(DOWN, defines={"DEPTH": 1}, never=True)
    assert rt.g(rt.goroutines[0]).stack_lo != 0
