"""`trace --plain` of the first preemption of the golang-nuts example, held by a golden file.

The golden file is read by people when it changes: `PUSHCALL_WRITE_GOLDEN=1 pytest` writes it anew.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from pushcall.cli.main import cli

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden" / "golang_nuts.trace"


@pytest.fixture(scope="module")
def trace() -> list[str]:
    arguments = ["trace", "examples/golang_nuts.s", "--plain", "--at", "25", "--goroutines", "2"]
    with contextlib.chdir(ROOT):
        traced = CliRunner().invoke(cli, [*arguments, "--procs", "1", "--go", "1.22"])
    assert traced.exit_code == 0
    return traced.stdout.splitlines()


def test_the_first_preemption_is_traced_as_recorded(trace: list[str]) -> None:
    text = "\n".join(trace) + "\n"
    if os.environ.get("PUSHCALL_WRITE_GOLDEN"):
        GOLDEN.write_text(text, "utf-8")
    assert text == GOLDEN.read_text("utf-8")


def test_the_stack_is_drawn_before_and_after_pushcall(trace: list[str]) -> None:
    """As in the explanation that pushCall's picture comes from: SP 8 lower, the PC at its top."""
    drawn = [line.split("│", 1)[1] for line in trace if "gsignal" in line]
    head = next(i for i, line in enumerate(drawn) if "before" in line and "after" in line)
    assert "PC = 0x48" in drawn[head + 1]
    assert "runtime.asyncPreempt" in drawn[head + 1]
    stacks = [line for line in drawn[head:] if "← SP" in line]
    before, after = (re.findall(r"0xc0[0-9a-f]+", line)[0] for line in stacks)
    assert int(before, 16) - int(after, 16) == 8
    interrupted = re.findall(r"PC = (0x[0-9a-f]+)", drawn[head + 1])[0]
    assert re.findall(r"([0-9a-f]{16})  ← SP", stacks[1]) == [interrupted[2:].zfill(16)]


def test_every_instruction_shows_what_it_changed(trace: list[str]) -> None:
    """SDM volume 2: PUSHQ lowers RSP by 8; MOVQ SP, BP copies it; RET raises it by 8."""
    pushed = next(line for line in trace if re.search(r"asyncPreempt +PUSHQ BP +RSP=", line))
    copied = next(line for line in trace if "asyncPreempt+0x1" in line)
    rsp = re.findall(r"RSP=(0x[0-9a-f]+)", pushed)[0]
    assert re.findall(r"RBP=(0x[0-9a-f]+)", copied) == [rsp]


def test_the_trace_ends_behind_the_resumed_instruction(trace: list[str]) -> None:
    resumed = next(i for i, line in enumerate(trace) if "goes on at 0x48" in line)
    assert "every register and the stack are as they were" in trace[resumed + 2]
    assert all("main.main.func1" in line for line in trace[resumed + 3 :])
    assert len(trace) - resumed - 3 == 4
