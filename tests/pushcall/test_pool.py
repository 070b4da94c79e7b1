"""Who does the parts of a check makes no difference; an interrupt leaves what is known."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from asm.mkpreempt import stack_text
from pushcall.api import check, program
from pushcall.check import exhaustive as checking
from pushcall.check.exhaustive import Alone, Check
from pushcall.check.pool import Shared, processes
from pushcall.check.worker import Worker
from pushcall.usage import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pushcall.check.exhaustive import SurveyPart
    from pushcall.check.survey import Surveyed

NUTS = Path(__file__).parents[2] / "examples" / "golang_nuts.s"
# Dead loads, a register that a mutant loses where a value is odd, and a word that lasts.
TEXT = """#include "textflag.h"
TEXT main·main(SB), NOSPLIT, $16-0
	XORL	R9, R9
	MOVQ	$150, 0(SP)
loop:
	ADDQ	$3, R9
	MOVQ	R9, -8(SP)
	CMPQ	-8(SP), R9
	DECQ	0(SP)
	JNE	loop
	RET
"""
MUTANT = stack_text().replace(
    "\tMOVQ 56(SP), R9\n", "\tTESTQ $1, 56(SP)\n\tJNE skip\n\tMOVQ 56(SP), R9\nskip:\n"
)


# It counts: what it does at a boundary depends on those before.
COUNTING = (
    stack_text().replace(
        "\tMOVQ 56(SP), R9\n",
        "\tINCQ calls<>(SB)\n\tTESTQ $31, calls<>(SB)\n\tJEQ skip\n\tMOVQ 56(SP), R9\nskip:\n",
    )
    + "\nGLOBL calls<>(SB), NOPTR, $8\n"
)


def test_what_a_trampoline_remembers_does_not_depend_on_the_jobs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checking, "PART", 100)
    config = program(NUTS, trampoline=COUNTING, defines={"LOOPS": 90}).config
    alone = checking.check(config)
    assert [loss.register for loss in alone.losses] == ["R9"]
    with processes(2, config) as pool:
        assert checking.check(config, pool=pool).to_json() == alone.to_json()


def test_results_do_not_depend_on_the_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    config = program(TEXT, trampoline=MUTANT).config
    whole = checking.check(config)
    assert {loss.register for loss in whole.losses} == {"R9", "MEMORY"}
    monkeypatch.setattr(checking, "PART", 100)
    monkeypatch.setattr(checking, "DIRECT_PART", 7)
    alone = checking.check(config)
    with processes(2, config) as pool:
        shared = checking.check(config, pool=pool)
        sampled = checking.check(config, points=50, pool=pool)
    assert shared.to_json() == alone.to_json()
    assert sampled.to_json() == checking.check(config, points=50).to_json()
    # In smaller parts more is tried directly for its own sake, and nothing else is found.
    assert [loss.to_json() for loss in alone.losses] == [loss.to_json() for loss in whole.losses]
    assert (alone.points, alone.boundaries) == (whole.points, whole.boundaries)


@pytest.mark.parametrize("points", [1, 7, 100, 750])
def test_points_are_spread_evenly_and_said_so(points: int) -> None:
    result = check(NUTS, defines={"LOOPS": 75}, points=points)
    assert result.boundaries == 763
    assert result.points == points
    assert result.to_json()["sample"] == {"boundaries": points, "of": 763}
    assert next(iter(result.lines())).endswith("evenly spread over 763")
    assert "sample" not in check(NUTS, defines={"LOOPS": 2}, points=5000).to_json()


def test_an_interrupt_leaves_the_parts_that_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "PART", 200)

    class Interrupted(Alone):
        def survey(
            self, parts: Sequence[SurveyPart], progress: Callable[[int], None]
        ) -> Iterable[Surveyed]:
            yield from super().survey(parts[:2], progress)
            raise KeyboardInterrupt

    config = program(NUTS, defines={"LOOPS": 75}).config
    check_ = Check(config)
    check_.pool = Interrupted(check_.worker)
    result = check_.run()
    assert result.status == 130
    assert (result.points, result.boundaries, result.finished) == (400, 400, False)
    assert result.to_json()["interrupted"]


def test_the_death_of_a_process_is_one_message() -> None:
    class Dead:
        def submit(self, *_: object) -> Future[Any]:
            future: Future[Any] = Future()
            future.set_exception(BrokenProcessPool("terminated abruptly"))
            return future

    config = program(NUTS, defines={"LOOPS": 5}).config
    with pytest.raises(UsageError, match="has died: terminated abruptly"):
        checking.check(config, pool=Shared(Dead(), config))  # type: ignore[arg-type]


def test_a_worker_keeps_the_program_that_it_had_last() -> None:
    from pushcall.check.worker import worker_for

    config = program(NUTS, defines={"LOOPS": 5}).config
    worker = worker_for(config)
    assert isinstance(worker, Worker)
    assert worker_for(program(NUTS, defines={"LOOPS": 5}).config) is worker
    assert worker_for(program(NUTS, defines={"LOOPS": 6}).config) is not worker


def test_a_ctrl_c_ends_all_processes_with_what_is_known() -> None:
    arguments = ["check", str(NUTS), "-D", "LOOPS=1500000", "--jobs", "2", "--json"]
    running = subprocess.Popen(
        [sys.executable, "-m", "pushcall", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children")
    deadline = time.monotonic() + 60
    # Two that work, and multiprocessing's tracker of resources.
    while len(children.read_text().split()) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1)
    os.killpg(running.pid, signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert (running.returncode, err) == (130, b"")
    assert json.loads(out)["interrupted"]
    deadline = time.monotonic() + 20  # the tracker sees by itself that it is alone
    while alive_in_session(running.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert alive_in_session(running.pid) == []


def alive_in_session(session: int) -> list[str]:
    """The processes of a session, zombies left out (proc(5): fields 3 and 6 of stat)."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if fields[3] == str(session) and fields[0] != "Z":
                found.append(stat.parent.name)
    return found


def test_dask_and_jobs_are_one_or_the_other() -> None:
    command = [sys.executable, "-m", "pushcall", "check", str(NUTS), "--jobs", "2"]
    ran = subprocess.run(
        [*command, "--dask", "tcp://x:1"], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == "pushcall: --dask cannot be used together with --jobs\n"
