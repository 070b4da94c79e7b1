"""10,000 interleavings over all versions, and faults of the model that they find.

    pytest -s tests/conformance/test_interleavings_full.py

What the state machine is, and what it checks, stand in tests/interleaving.py and in
runtime_model/invariants.py. Each fault is one statement of a function of the runtime's, and the
command that is printed for it must show it again.
"""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from interleaving import failing_command, run_some, status_of

from runtime_model import (
    preempt,
    preempt_xreg,
    proc,
    proc_runq,
    proc_world,
    signal_unix,
    stack,
    suspend,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

COUNT = 10_000
ENOUGH = 600  # to find any of the faults


@dataclass(frozen=True)
class Fault:
    """A function with one of its texts replaced, and what must be found."""

    module: ModuleType
    function: str
    right: str
    wrong: str
    found: str

    def __str__(self) -> str:
        return f"{self.function}: {self.wrong} for {self.right}"


FAULTS = (
    Fault(signal_unix, "doSigPreempt", "mp.signalPending = 0", "pass", "no signal is on its way"),
    Fault(signal_unix, "doSigPreempt", "mp.preemptGen += 1", "pass", "handler counted"),
    Fault(preempt, "canPreemptM", "mp.locks != 0", "False", "m.locks is set"),
    Fault(preempt, "canPreemptM", "mp.mallocing != 0", "False", "m.mallocing is set"),
    Fault(preempt, "canPreemptM", "mp.preemptoff_len != 0", "False", "m.preemptoff is set"),
    Fault(proc, "goschedImpl", "globrunqput(rt, gp)", "pass", ""),
    Fault(proc, "dropg", "mp.curg = 0", "pass", "1 Ms"),
    Fault(proc, "dropg", "rt.g(mp.curg).m = 0", "pass", "do not name each other"),
    Fault(proc_runq, "_append", "rt.sched.runqsize += 1", "pass", ""),
    Fault(proc_runq, "runqget", "pp.runnext = 0", "pass", "queues"),
    Fault(proc, "pidleput", "rt.sched.npidle += 1", "pass", ""),
    Fault(suspend, "suspendG", "_Gpreempted, _Gwaiting", "_Gpreempted, _Grunnable", ""),
    Fault(suspend, "resumeG", "ready(rt, gp, runnext=True)", "pass", ""),
    Fault(preempt_xreg, "xRegSave", "gp.xRegs_state = dest", "pass", ""),
    Fault(stack, "copystack", "gp.sched_sp = new_hi - used", "pass", ""),
    Fault(proc_world, "startTheWorldWithSema", "rt.sched.gcwaiting = 0", "pass", ""),
)


def faulty(fault: Fault) -> Callable[..., object]:
    """The function, compiled again from its changed text."""
    text = inspect.getsource(getattr(fault.module, fault.function))
    assert fault.right in text
    namespace = dict(vars(fault.module))
    exec(text.replace(fault.right, fault.wrong, 1), namespace)
    made: Callable[..., object] = namespace[fault.function]
    return made


def test_10_000_interleavings_break_no_rule_of_the_runtime() -> None:
    run_some(COUNT)
    print(f"\n{COUNT:,} interleavings, Go 1.13 to 1.27: no rule broken")


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_fault_of_the_runtime_is_found_and_shown_again_by_one_command(
    fault: Fault, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as mutant:
        right, wrong = getattr(fault.module, fault.function), faulty(fault)
        for module in list(sys.modules.values()):
            if getattr(module, fault.function, None) is right:
                mutant.setattr(module, fault.function, wrong)
        what, command = failing_command(ENOUGH, shrink=False)
        assert fault.found in what
        assert command, "not found"
        assert status_of(command, mutant) == 1
        assert what in capsys.readouterr().out
    assert status_of(command, monkeypatch) == 0
    print(f"\n{fault}: {what}\n  {command}")
