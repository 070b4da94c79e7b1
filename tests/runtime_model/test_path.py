"""The way of one preemption, from sysmon's request to the loop that goes on.

The order of functions was seen in real programs of Go 1.27 and 1.22 under a debugger (names of
the functions that the threads pass through); casgstatus and wakep stand where proc.go calls them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from emulator.events import Event, SignalReturned, SignalSent, SystemCall
from pushcall.api import program
from pushcall.snippet.run import Outcome, run
from runtime_model.events import Entered, PushedCall, Resumed, StackChecked
from runtime_model.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runtime_model.runtime import Runtime

QUANTUM = 100_000  # ns

LOOP = """
#include "textflag.h"

TEXT main·loop(SB), NOSPLIT|NOFRAME, $0-0
	MOVQ	$120000, CX
loop:
	DECQ	CX
	JNE	loop
	RET
"""

CALLS = """
#include "textflag.h"

TEXT main·main(SB), 0, $16-0
	MOVQ	$12000, BX
loop:
	MOVQ	BX, 0(SP)
	CALL	main·f(SB)
	MOVQ	0(SP), BX
	DECQ	BX
	JNE	loop
	RET

TEXT main·f(SB), 0, $200-0
	RET
"""

SYSMON = ["sysmon", "retake", "preemptone"]
SIGNAL = [*SYSMON, "signalM", "getpid", "tgkill"]
HANDLER = [
    "sigtramp", "sigtrampgo", "sigfwdgo", "setg", "adjustSignalStack", "sighandler",
    "doSigPreempt", "isAsyncSafePoint",
]  # fmt: skip
GOSCHED = ["gopreempt_m", "goschedImpl", "casgstatus", "globrunqput"]
SCHEDULE = ["schedule", "findRunnable", "execute", "casgstatus", "gogo"]

# The lists as they were seen, with what lies on the way left out there.
SEEN_ON_1_27 = [
    *SIGNAL, *HANDLER, "rt_sigreturn", "asyncPreempt", "asyncPreempt2", "mcall", "xRegSave",
    "gopreempt_m", "goschedImpl", "casgstatus", "globrunqput", "schedule", "findRunnable",
    "execute", "gogo", "asyncPreempt2", "xRegRestore", "asyncPreempt", "main.loop",
]  # fmt: skip
SEEN_ON_1_22 = [name for name in SEEN_ON_1_27 if not name.startswith("xReg")]


def first_preemption(text: str, go: str, *, signals: bool = True) -> tuple[Runtime, Outcome]:
    """Two goroutines on one P under sysmon, and the path of the first preemption."""
    policy = Policy(QUANTUM, asyncpreemptoff=not signals)
    return run(program(text, go=go, goroutines=2, policy=policy))


def entered(events: Iterable[Event]) -> list[str]:
    """The functions that were entered, in order."""
    return [event.function for event in events if isinstance(event, Entered)]


def with_calls(events: Iterable[Event]) -> list[str]:
    """Functions and system calls, in order."""
    return [
        event.function if isinstance(event, Entered) else event.name
        for event in events
        if isinstance(event, Entered | SystemCall)
    ]


def assert_subsequence(wanted: list[str], found: list[str]) -> None:
    """Every name is found, in this order."""
    rest = iter(found)
    for name in wanted:
        assert name in rest, f"{name} is missing, or comes too early, in {found}"


def test_an_asynchronous_preemption_takes_the_way_of_go_1_27() -> None:
    _, out = first_preemption(LOOP, "1.27")
    assert entered(out.path) == [
        *SIGNAL, *HANDLER, "sigreturn__sigaction", "asyncPreempt", "asyncPreempt2", "mcall",
        "asyncPreempt2_func1", "xRegSave", *GOSCHED, "wakep", *SCHEDULE,
        "asyncPreempt2", "xRegRestore", "asyncPreempt", "main.loop",
    ]  # fmt: skip
    assert_subsequence(SEEN_ON_1_27, with_calls(out.path))


def test_an_asynchronous_preemption_takes_the_way_of_go_1_22() -> None:
    _, out = first_preemption(LOOP, "1.22")
    assert entered(out.path) == [
        *SIGNAL, *HANDLER, "sigreturn__sigaction", "asyncPreempt", "asyncPreempt2", "mcall",
        *GOSCHED, "wakep", *SCHEDULE, "asyncPreempt2", "asyncPreempt", "main.loop",
    ]  # fmt: skip
    assert_subsequence(SEEN_ON_1_22, with_calls(out.path))


def test_before_1_22_goschedimpl_wakes_nobody() -> None:
    _, out = first_preemption(LOOP, "1.14")
    assert entered(out.path) == [
        *SIGNAL, *HANDLER, "sigreturn__sigaction", "asyncPreempt", "asyncPreempt2", "mcall",
        *GOSCHED, *SCHEDULE, "asyncPreempt2", "asyncPreempt", "main.loop",
    ]  # fmt: skip


# stack.go: newstack of 1.13 makes the goroutine _Gwaiting for a moment, as it may scan its stack.
@pytest.mark.parametrize(
    ("go", "waits", "wakep"),
    [("1.13", ["casgstatus", "casgstatus"], []), ("1.14", [], []), ("1.22", [], ["wakep"])],
)
def test_a_cooperative_preemption_goes_through_the_stack_check(
    go: str, waits: list[str], wakep: list[str]
) -> None:
    rt, out = first_preemption(CALLS, go, signals=False)
    assert entered(out.path) == [
        *SYSMON, "morestack_noctxt", "morestack", "newstack", *waits, *GOSCHED, *wakep, *SCHEDULE,
        "main.f",
    ]  # fmt: skip
    assert out.signals == 0
    assert out.preemptions == 0
    checked = next(event for event in out.path if isinstance(event, StackChecked))
    assert (checked.preempt, checked.decision) == (True, "gopreempt_m")
    # gogo goes on behind the CALL of morestack, where a jump leads to the function's start.
    function = rt.user.function("main.f")
    assert function is not None
    resumed = function.instruction_at(out.path[-1].pc)
    assert resumed is not None
    assert resumed.inserted
    assert resumed.data[0] == 0xEB  # JMP rel8
    target = resumed.end + int.from_bytes(resumed.data[1:], "little", signed=True)
    assert target == function.address


@pytest.mark.parametrize("go", ["1.14", "1.22", "1.27"])
def test_asyncpreempt_finds_the_interrupted_pc_on_top_of_its_stack(go: str) -> None:
    _, out = first_preemption(LOOP, go)
    pushed = next(event for event in out.path if isinstance(event, PushedCall))
    returned = next(event for event in out.path if isinstance(event, SignalReturned))
    resumed = next(event for event in out.path if isinstance(event, Resumed))
    assert pushed.rsp_after == pushed.rsp_before - 8 == returned.rsp
    assert pushed.stack_after == (pushed.resume, *pushed.stack_before[:])[: len(pushed.stack_after)]
    assert returned.pc == pushed.target
    assert (resumed.pc, resumed.rsp) == (pushed.resume, pushed.rsp_before)
    assert resumed.losses == []


def test_who_acts_where() -> None:
    _, out = first_preemption(LOOP, "1.22")
    actors = {
        event.function: (event.m, event.g) for event in out.path if isinstance(event, Entered)
    }
    sysmon = (1, 0)  # on an M without P, on its g0
    assert {actors[name] for name in SIGNAL} == {sysmon}
    assert actors["sigtramp"] == (0, 2)  # sigtrampgo sets g = gsignal
    assert actors["sighandler"] == actors["isAsyncSafePoint"] == (0, -1)
    assert actors["mcall"] == (0, 2)
    assert actors["goschedImpl"] == actors["gogo"] == (0, 0)
    sent = next(event for event in out.path if isinstance(event, SignalSent))
    assert sent.signal == 23
    assert out.signals == out.preemptions
