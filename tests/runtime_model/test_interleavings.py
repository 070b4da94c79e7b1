"""Interleavings of origins, signals and time slices, and what would be found (interleaving.py).

A few of the 10,000 that tests/conformance/test_interleavings_full.py tries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from interleaving import PROGRAMS, failing_command, run_some, status_of

from runtime_model import preempt, runtime2

if TYPE_CHECKING:
    import pytest

    from runtime_model.runtime import Runtime
    from runtime_model.runtime2 import M


def test_random_interleavings_break_no_rule_of_the_runtime() -> None:
    run_some(8, versions=("1.13", "1.27"), names=PROGRAMS[:1])


def test_what_fails_is_one_command_that_fails_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unlocked(rt: Runtime, mp: M) -> None:
        if rt.p(mp.p).status != runtime2._Prunning:
            return preempt.Reason.P_NOT_RUNNING
        return None

    with monkeypatch.context() as mutant:
        mutant.setattr(preempt, "canPreemptM", unlocked)
        what, command = failing_command(60, versions=("1.27",), names=PROGRAMS[:1], shrink=False)
        assert "was preempted on M" in what
        assert status_of(command, mutant) == 1
        out = capsys.readouterr().out
        assert what in out
    assert status_of(command, monkeypatch) == 0


def test_who_acts_in_the_name_of_the_thread_that_ran_last_has_its_registers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """M1 is in its signal handler, and is made to send a signal right after it has run."""
    schedule = "0:slice=1,1:signal=1,437:signal=1,36:signal=0,26:signal=0"
    command = f"pushcall run {PROGRAMS[0]} --go 1.14 --goroutines 3 --procs 2 --schedule {schedule}"
    assert PROGRAMS[0].endswith("growth.s")
    assert status_of(command, monkeypatch) == 0
    assert "4 refused" in capsys.readouterr().out
