"""isAsyncSafePoint and what leads to it: every condition, with its reason.

Conditions, their order and their versions: runtime/preempt.go and signal_unix.go of each version.
Conditions of g, m and p are made true by writing the guest's own bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from small_runtime import Stopped, stopped

from emulator.events import SignalSent
from pushcall.api import run
from runtime_model.events import PreemptRequested, PushedCall, SafePointVerdict
from runtime_model.policy import Policy
from runtime_model.preempt import (
    BadRestartPCError,
    Reason,
    Verdict,
    isAsyncSafePoint,
    static_verdict,
    wantAsyncPreempt,
)
from runtime_model.proc_sysmon import preemptone
from runtime_model.runtime2 import (
    _Grunnable,
    _Grunning,
    _Gscan,
    _Gsyscall,
    _Gwaiting,
    _Pidle,
    _Psyscall,
)
from runtime_model.signal_unix import signalM
from runtime_model.stack import stackPreempt
from runtime_model.timers import request_preemption
from runtime_model.version import GoVersion

if TYPE_CHECKING:
    from collections.abc import Callable


def verdict(at: Stopped, *, pc: int | None = None, sp: int | None = None) -> Verdict:
    registers = at.thread.registers
    with at.rt.acting(at.thread):
        return isAsyncSafePoint(
            at.rt,
            at.gp,
            registers["RIP"] if pc is None else pc,
            registers["RSP"] if sp is None else sp,
        )


@pytest.mark.parametrize("go", ["1.14", "1.18", "1.22", "1.27"])
def test_a_running_goroutine_is_at_a_safe_point(go: str) -> None:
    at = stopped(go=go)
    pc = at.thread.registers["RIP"]
    assert verdict(at) == Verdict(True, Reason.SAFE, pc, "main.loop")


# (view, field, value): preemptoff is a string, a pointer and a length.
REFUSALS = [
    (Reason.NOT_USER_G, "mp", "curg", 0),
    (Reason.NOT_USER_G, "mp", "curg", 0xC000_0000_00),
    (Reason.NO_P, "mp", "p", 0),
    (Reason.LOCKS, "mp", "locks", 1),
    (Reason.MALLOCING, "mp", "mallocing", 1),
    (Reason.PREEMPTOFF, "mp", "preemptoff_len", 1),
    (Reason.P_NOT_RUNNING, "pp", "status", _Psyscall),
    (Reason.P_NOT_RUNNING, "pp", "status", _Pidle),
]


@pytest.mark.parametrize("go", ["1.14", "1.22", "1.27"])
def test_state_of_g_m_and_p_that_forbids_preemption(go: str) -> None:
    at = stopped(go=go)
    for reason, view, field, value in REFUSALS:
        struct = getattr(at, view)
        good = getattr(struct, field)
        setattr(struct, field, value)
        assert verdict(at) == Verdict(False, reason), (field, value)
        setattr(struct, field, good)
        assert verdict(at).safe


def test_conditions_are_asked_in_gos_order() -> None:
    at = stopped()
    at.mp.locks = 1
    at.mp.mallocing = 1
    at.mp.preemptoff_len = 1
    at.pp.status = _Psyscall
    order = [Reason.LOCKS, Reason.MALLOCING, Reason.PREEMPTOFF, Reason.P_NOT_RUNNING]
    cures: list[Callable[[], None]] = [
        lambda: setattr(at.mp, "locks", 0),
        lambda: setattr(at.mp, "mallocing", 0),
        lambda: setattr(at.mp, "preemptoff_len", 0),
    ]
    for reason, cure in zip(order, [*cures, lambda: None], strict=True):
        assert verdict(at, pc=0, sp=0).reason is reason
        cure()


@pytest.mark.parametrize(("go", "refused"), [("1.25", False), ("1.26", True), ("1.27", True)])
def test_since_1_26_a_goroutine_in_a_system_call_is_refused(go: str, refused: bool) -> None:
    # Its P stays running since then; before, the P's status said it.
    for status in (_Gsyscall, _Gscan | _Gsyscall):
        at = stopped(go=go)
        at.gp.atomicstatus = status
        expected = Reason.IN_SYSCALL if refused else Reason.SAFE
        assert verdict(at).reason is expected


# Read out of running programs of each version: 384 + 24 + 64, and 128 + 24 + 48 + 64 since 1.26.
@pytest.mark.parametrize(
    ("go", "size"),
    [
        *((go, 472) for go in ("1.14", "1.16", "1.17", "1.21", "1.22", "1.25")),
        *((go, 264) for go in ("1.26", "1.27")),
    ],
)
def test_asyncpreemptstack_bytes_must_be_left(go: str, size: int) -> None:
    at = stopped(go=go)
    assert at.rt.asyncPreemptStack == size
    low = at.gp.stack_lo
    assert verdict(at, sp=low + size).safe
    for sp in (low + size - 1, low, low - 1, low - 8, 0):
        assert verdict(at, sp=sp) == Verdict(False, Reason.NO_STACK)


def test_what_is_no_code_is_not_go_code() -> None:
    at = stopped()
    for pc in (0, at.gp.address, at.rt.symbol("newstack")):
        assert verdict(at, pc=pc) == Verdict(False, Reason.NOT_GO)


def test_the_runtimes_assembly_is_refused_as_assembly() -> None:
    at = stopped()
    for name in ("mcall", "morestack", "asyncPreempt", "sigtramp"):
        pc = at.rt.symbol(name)
        assert verdict(at, pc=pc) == Verdict(False, Reason.ASSEMBLY, 0, f"runtime.{name}")


def test_under_as_assembly_a_snippet_is_refused_as_gos_assembly_is() -> None:
    at = stopped(as_assembly=True)
    assert verdict(at) == Verdict(False, Reason.ASSEMBLY, 0, "main.loop")


MARKED = """
#include "textflag.h"
#include "funcdata.h"

TEXT main·main(SB), NOSPLIT|NOFRAME, $0-0
	MOVQ	$1, AX
	PCDATA	$0, $-2
	MOVQ	$2, AX
	MOVQ	$3, AX
	PCDATA	$0, $-1
	MOVQ	$4, AX
	RET
"""


@pytest.mark.parametrize("go", ["1.14", "1.15", "1.18", "1.22", "1.27"])
def test_pcdata_minus_2_is_unsafe_until_it_is_minus_1_again(go: str) -> None:
    at = stopped(MARKED, at=0, go=go)
    verdicts = []
    for _ in range(5):
        verdicts.append(verdict(at).reason)
        at.go_on(1) if len(verdicts) < 5 else None
    assert verdicts == [
        Reason.SAFE,
        Reason.UNSAFE_POINT,
        Reason.UNSAFE_POINT,
        Reason.SAFE,
        Reason.SAFE,
    ]


# The tables of a function by hand: what the assembler would make of directives that no compiler
# for amd64 writes.


@dataclass
class Function:
    """A Func with one value in PCDATA table 0, whose run starts at `start`."""

    value: int = -1
    start: int = 0x1000
    name: str = "main.f"
    entry: int = 0x1000
    has_locals_pointer_maps: bool = True
    is_assembly: bool = False
    innermost: str = ""

    def pcdatavalue2(self, table: int, pc: int) -> tuple[int, int]:  # noqa: ARG002
        assert table == 0
        return self.value, self.start

    def innermost_name(self, pc: int) -> str:  # noqa: ARG002
        return self.innermost or self.name

    def findfunc(self, pc: int) -> Function | None:
        return self if pc >= self.entry else None


def of(function: Function, go: str, pc: int = 0x1010) -> Verdict:
    return static_verdict(function, pc, GoVersion(*map(int, go.split("."))))


@pytest.mark.parametrize("value", [-3, -4])
@pytest.mark.parametrize("go", ["1.18", "1.22", "1.27"])
def test_a_restart_sequence_goes_on_at_its_start(go: str, value: int) -> None:
    assert of(Function(value, 0x1004), go) == Verdict(True, Reason.RESTART, 0x1004, "main.f")
    assert of(Function(value, 0x1010), go).resume == 0x1010


@pytest.mark.parametrize("go", ["1.18", "1.27"])
def test_a_restartable_prologue_goes_on_at_the_entry(go: str) -> None:
    expected = Verdict(True, Reason.RESTART_AT_ENTRY, 0x1000, "main.f")
    assert of(Function(-5), go, 0x1030) == expected


def test_a_restart_pc_more_than_20_bytes_back_is_thrown_at() -> None:
    assert of(Function(-3, 0x1000), "1.22", 0x1014).resume == 0x1000
    for start, pc in ((0x1000, 0x1015), (0, 0x1010), (0x1011, 0x1010)):
        with pytest.raises(BadRestartPCError, match="bad restart PC"):
            of(Function(-3, start), "1.22", pc)


@pytest.mark.parametrize("go", ["1.15", "1.16", "1.17"])
def test_from_1_15_to_1_17_minus_1_alone_is_safe(go: str) -> None:
    assert of(Function(-1), go).safe
    for value in (-2, -3, -4, -5, 0, 1):
        assert of(Function(value), go) == Verdict(False, Reason.UNSAFE_POINT, 0, "main.f")


def test_in_1_14_the_table_holds_register_maps_and_minus_2_alone_is_unsafe() -> None:
    assert of(Function(-2), "1.14").reason is Reason.UNSAFE_POINT
    for value in (-1, 0, 1, 77):
        assert of(Function(value), "1.14") == Verdict(True, Reason.SAFE, 0x1010, "main.f")


@pytest.mark.parametrize("go", ["1.14", "1.22"])
def test_code_without_pointer_maps_is_assembly(go: str) -> None:
    for function in (Function(has_locals_pointer_maps=False), Function(is_assembly=True)):
        assert of(function, go).reason is Reason.ASSEMBLY


@pytest.mark.parametrize(
    ("prefix", "versions"),
    [
        ("runtime.", {"1.14", "1.22", "1.23", "1.24", "1.25", "1.27"}),
        ("reflect.", {"1.14", "1.22", "1.23", "1.24", "1.25", "1.27"}),
        ("runtime/internal/atomic.", {"1.14", "1.22", "1.23", "1.24"}),
        ("internal/runtime/maps.", {"1.23", "1.24", "1.25", "1.27"}),
        ("runtimes.", set()),
        ("internal/reflectlite.", set()),
        ("main.runtime.", set()),
    ],
)
def test_packages_that_are_never_preempted(prefix: str, versions: set[str]) -> None:
    name = f"{prefix}f"
    for go in ("1.14", "1.22", "1.23", "1.24", "1.25", "1.27"):
        refused = of(Function(name=name), go).reason is Reason.PACKAGE
        assert refused == (go in versions)
        # What is inlined at the PC counts, not the function that it was inlined into.
        inlined = of(Function(innermost=name), go).reason is Reason.PACKAGE
        assert inlined == (go in versions)
        assert of(Function(name=name, innermost="main.g"), go).reason is not Reason.PACKAGE


# What is wanted, and the signals.


def test_wanted_is_what_is_asked_of_the_g_or_its_p_while_it_runs() -> None:
    at = stopped()
    rt, gp = at.rt, at.gp
    assert not wantAsyncPreempt(rt, gp)
    gp.preempt = 1
    assert wantAsyncPreempt(rt, gp)
    gp.preempt, at.pp.preempt = 0, 1
    assert wantAsyncPreempt(rt, gp)
    gp.atomicstatus = _Gscan | _Grunning
    assert wantAsyncPreempt(rt, gp)
    for status in (_Grunnable, _Gwaiting, _Gsyscall):
        gp.atomicstatus = status
        assert not wantAsyncPreempt(rt, gp)
    gp.atomicstatus = _Grunning
    at.mp.p = 0
    assert not wantAsyncPreempt(rt, gp)
    gp.preempt = 1
    assert wantAsyncPreempt(rt, gp)


def test_one_signal_at_most_is_on_its_way_to_an_m() -> None:
    at = stopped()
    for _ in range(3):
        assert request_preemption(at.rt, at.thread, "test")
    assert len(at.of(PreemptRequested)) == 3
    assert len(at.of(SignalSent)) == 1
    assert at.mp.signalPending == 1
    generation = at.mp.preemptGen
    at.go_on()
    assert (at.mp.signalPending, at.mp.preemptGen) == (0, generation + 1)
    assert request_preemption(at.rt, at.thread, "test")
    assert len(at.of(SignalSent)) == 2


@pytest.mark.parametrize("go", ["1.13", "1.14", "1.22", "1.27"])
def test_sigurg_without_a_wanted_preemption_changes_nothing(go: str) -> None:
    at = stopped(go=go)
    before = at.thread.registers.copy()
    stack = at.rt.memory.read(before["RSP"], at.gp.stack_hi - before["RSP"])
    with at.rt.acting(at.sysmon):
        signalM(at.rt, at.mp, 23)
    at.go_on()
    assert at.thread.registers == before
    assert at.rt.memory.read(before["RSP"], len(stack)) == stack
    assert at.of(PushedCall) == []
    reasons = [event.reason for event in at.of(SafePointVerdict)]
    assert reasons == ([] if go == "1.13" else [Reason.NOT_WANTED.value])


def test_a_refused_request_is_acknowledged_and_stays_wanted() -> None:
    at = stopped()
    at.mp.locks = 1
    before = at.thread.registers.copy()
    request_preemption(at.rt, at.thread, "test")
    at.go_on()
    assert [event.reason for event in at.of(SafePointVerdict)] == [Reason.LOCKS.value]
    assert at.thread.registers == before
    assert at.mp.signalPending == 0
    assert (at.gp.preempt, at.gp.stackguard0) == (1, stackPreempt)


@pytest.mark.parametrize("go", ["1.14", "1.15", "1.22", "1.27"])
def test_asyncpreemptoff_leaves_the_stack_check_alone_to_ask(go: str) -> None:
    at = stopped(go=go, policy=Policy(None, asyncpreemptoff=True))
    with at.rt.acting(at.sysmon):
        assert preemptone(at.rt, at.pp, "test")
    assert at.of(SignalSent) == []
    assert at.pp.preempt == 0
    assert (at.gp.preempt, at.gp.stackguard0) == (1, stackPreempt)
    # Should a signal come all the same, 1.14 acts on it; since 1.15 the handler looks, too.
    with at.rt.acting(at.sysmon):
        signalM(at.rt, at.mp, 23)
    at.go_on()
    assert len(at.of(PushedCall)) == (go == "1.14")


def test_under_as_assembly_nothing_is_preempted_asynchronously() -> None:
    text = MARKED.replace("-2", "-1")
    _, out = run(text, every=1, as_assembly=True)
    assert out.preemptions == 0
    assert set(out.refusals) == {Reason.ASSEMBLY.value}
