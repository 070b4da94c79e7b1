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
