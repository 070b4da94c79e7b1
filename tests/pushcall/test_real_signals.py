"""SIGURGs of the host's kernel preempt a snippet on its processor, and nothing is lost unnoticed.

Counts of instructions are those that the check on Unicorn finds; what is lost by a faulty
trampoline follows from what it does not save.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from native_host import native_objection
from test_batch import LOOP, MUTANTS
from test_cli import pushcall

from pushcall.api import check, program
from pushcall.signals.run import Signalled, run

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(autouse=True)
def _host() -> None:
    if objection := native_objection():
        pytest.skip(objection)


def signalled(text: str | Path, trampoline: str | None = None, **when: int) -> Signalled:
    more = {"trampoline": trampoline} if trampoline is not None else {}
    return run(program(text, **more), quantum=None, **when)  # type: ignore[arg-type]


def test_a_signal_at_every_boundary_changes_nothing() -> None:
    guarded = LOOP.replace("\tIMULQ", "\tPCDATA\t$0, $-2\n\tIMULQ").replace(
        "\tDECQ", "\tPCDATA\t$0, $-1\n\tDECQ"
    )
    result, other = signalled(guarded, every=1), check(guarded)
    assert result.status == 0, list(result.lines())
    assert result.count == other.boundaries - 1  # not before the first
    assert result.preemptions == other.points - 1
    assert result.refusals == other.refusals  # the handler asks the tables
    assert result.registers is not None
    assert result.registers["R9"] != 0


def test_what_a_trampoline_forgets_is_lost() -> None:
    result = signalled(LOOP, MUTANTS["R9 is not restored"], every=20)
    assert result.status == 1
    first = result.signals[0].losses[0]
    assert (first.register, first.before ^ first.after) == ("R9", 2**64 - 1)
    assert "R9" in [loss.register for loss in result.differences]


def test_a_trampoline_that_goes_astray_ends_the_run() -> None:
    result = signalled(LOOP, MUTANTS["returns through another stack"], every=20)
    assert result.crash is not None
    assert result.signals[0].losses[0].register == "RIP"
    assert result.status == 1


def test_a_timer_of_the_kernels_preempts_wherever_it_hits() -> None:
    loaded = program(EXAMPLES / "golang_nuts.s", defines={"LOOPS": 30_000_000})
    result = run(loaded, quantum=1_000_000)
    assert result.status == 0, list(result.lines())
    assert result.preemptions > 0
    assert all(each.place.symbol.startswith("main.") for each in result.signals if not each.refused)


def test_a_snippet_that_dies_is_a_report() -> None:
    result = signalled(LOOP.replace("\tRET", "\tMOVQ AX, 0(AX)\n\tRET"), every=20)
    assert result.alone
    assert result.crash is not None
    assert "SIGSEGV" in result.crash.title


def test_the_command_and_its_options(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = str(EXAMPLES / "add.s")
    real = ("run", name, "--engine", "native", "--signals", "real")
    status, out, _ = pushcall(capsys, monkeypatch, *real, "--at", "30", "--json")
    document = json.loads(out)
    assert (status, document["schema"]) == (0, "pushcall.run_signals/1")
    assert (document["count"], document["how"]) == (1, "exit")
    for bad in (("run", name, "--signals", "real"), (*real, "--quantum", "10us")):
        status, out, error = pushcall(capsys, monkeypatch, *bad)
        assert (status, out) == (2, "")
        assert "--signals real needs" in error
