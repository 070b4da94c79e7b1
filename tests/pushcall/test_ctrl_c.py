"""Ctrl-C ends a command at once, with what is known so far and status 130: real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

TICKS = os.sysconf("SC_CLK_TCK")
STARTED = 2.0  # seconds of processor time: the imports are over by then, the work is not
LOOP = (
    "TEXT main·main(SB), 4|512, $0-0\n\tMOVQ $1000000000, CX\nloop:\n\tDECQ CX\n\tJNE loop\n\tRET\n"
)


def processor_time(pid: int) -> float:
    """Seconds of a process and its children: ppid, utime and stime of proc(5)."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text("utf-8").rpartition(") ")[2].split()
        except OSError:
            continue  # it has ended
        if pid in (int(path.parent.name), int(fields[1])):
            ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS


def interrupted(*arguments: str) -> tuple[int, str, str]:
    """Status and outputs of a command that gets SIGINT while it is at work."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pushcall", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    limit = time.monotonic() + 600
    while processor_time(process.pid) < STARTED:
        assert process.poll() is None, "it ended by itself"
        assert time.monotonic() < limit
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


@pytest.fixture
def loop(tmp_path: Path) -> str:
    path = tmp_path / "loop.s"
    path.write_text(LOOP, "utf-8")
    return str(path)


@pytest.mark.parametrize("command", [["run"], ["check", "--budget", "4000000000"]])
def test_a_snippet_that_goes_on_for_long_ends_with_a_partial_result(
    command: list[str], loop: str
) -> None:
    status, out, err = interrupted(*command, loop)
    assert status == 130
    assert out.splitlines()[-1] == "interrupted: this is what is known so far"
    assert err == ""


def test_the_documents_say_interrupted(loop: str) -> None:
    status, out, _ = interrupted("check", loop, "--json", "--budget", "4000000000")
    document: dict[str, Any] = json.loads(out)
    assert status == 130
    assert document["interrupted"] is True
    assert document["schema"] == "pushcall.check/1"


def test_a_trace_has_the_steps_that_were_recorded(loop: str) -> None:
    recorded = ("--steps", "1000000000", "--to", "99", "--json")
    status, out, err = interrupted("trace", loop, "--every", "1000", *recorded)
    document: dict[str, Any] = json.loads(out)
    assert status == 130
    assert document["interrupted"] is True
    assert err == f"interrupted: {document['steps']} steps were recorded\n"


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_mutants_that_were_judged_are_shown(jobs: str) -> None:
    status, out, err = interrupted("mutants", "--json", "--jobs", jobs)
    document: dict[str, Any] = json.loads(out)
    assert status == 130
    assert err == ""
    assert document["interrupted"] is True
    judged = len(document["mutants"])
    assert judged == document["killed"] + document["equivalent"] + document["survived"]
    assert judged < document["total"]
