"""gdb itself on deterministic Go programs: what it sees is right, and changes nothing.

    pytest -s tests/conformance/test_gdb.py

The references are gdb's own reading of the program's DWARF, and the run without gdb: output, exit
status, number of instructions and preemptions must be the same.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from test_booted import program
from toolchains import versions

from emulator.gdb.packets import to_gdb
from emulator.linux.signal_abi import Signal

if TYPE_CHECKING:
    from pathlib import Path

GDB = shutil.which("gdb")
pytestmark = pytest.mark.skipif(GDB is None, reason="gdb is not installed")


def run(path: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pushcall", "run", str(path), "--json", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def debugged(path: Path, *commands: str) -> tuple[str, dict[str, Any]]:
    """What gdb prints, and the document of the run that it controls."""
    with run(path, "--gdb", "0") as process:
        assert process.stderr is not None
        port = re.search(r"localhost:(\d+)", process.stderr.readline())
        assert port is not None
        script = [f"target remote localhost:{port[1]}", *commands]
        options = [option for command in script for option in ("-ex", command)]
        gdb = [str(GDB), "-q", "-nx", "-batch", str(path), *options]
        printed = subprocess.run(gdb, capture_output=True, text=True, check=True, timeout=120)
        out, _ = process.communicate(timeout=120)
    return printed.stdout, json.loads(out)


def plain(path: Path) -> dict[str, Any]:
    with run(path) as process:
        found: dict[str, Any] = json.loads(process.communicate()[0])
    return found


SAME = ("exit", "instructions", "time_ns", "preempted", "system_calls", "stdout", "stderr")


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert {key: one[key] for key in SAME} == {key: other[key] for key in SAME}


@pytest.mark.parametrize("version", versions())
def test_a_breakpoint_in_main_and_on_to_the_end(version: str) -> None:
    path = program(version, "hello")
    printed, document = debugged(
        path,
        "break main.main",
        "continue",
        "backtrace",
        "info registers rip cs mxcsr",
        "info threads",
        "continue",
    )
    assert re.search(r"hit Breakpoint 1, main\.main \(\) at .*main\.go:\d+", printed)
    assert re.search(r"#0  main\.main \(\) at .*main\.go", printed)
    assert re.search(r"rip +0x[0-9a-f]+ +0x[0-9a-f]+ <main\.main\+\d+>", printed)
    assert re.search(r"cs +0x33", printed)
    assert re.search(r"mxcsr +0x1f80 +\[ IM DM ZM OM UM PM \]", printed)
    assert re.search(r"\* \d+ +Thread 1000 \(M0 G1, main\.main\) +main\.main \(\)", printed)
    assert re.search(r"Thread 1001 \(M1 G0, runtime\.\w+\)", printed)  # sysmon's
    assert "exited normally" in printed
    assert_same(document, plain(path))


@pytest.mark.parametrize("version", versions()[1::3])
def test_a_position_independent_program_lies_where_gdb_thinks(version: str) -> None:
    """The way by auxv: AT_ENTRY against the file's entry."""
    path = program(version, "nilderef", "-buildmode=pie", "-ldflags=-linkmode=internal")
    printed, document = debugged(path, "break main.main", "continue", "delete", "continue", "c")
    assert re.search(r"hit Breakpoint 1, main\.main \(\)", printed)
    assert_same(document, plain(path))


@pytest.mark.parametrize("version", versions()[1::3])
def test_signals_are_told_and_passed(version: str) -> None:
    """SIGSEGV of a nil dereference stops, and Go's handler gets it; SIGURG goes by."""
    path = program(version, "nilderef")
    printed, document = debugged(path, "continue", "print $_siginfo", "continue")
    assert re.search(r"received signal SIGSEGV.*\n.*main\.\w+ \(", printed)
    assert "exited with code 03" in printed
    assert_same(document, plain(path))


@pytest.mark.parametrize("version", versions()[1::3])
def test_breakpoints_in_preemptions_do_not_change_them(version: str) -> None:
    path = program(version, "nuts", "-gcflags=-N")
    printed, document = debugged(
        path,
        "break runtime.doSigPreempt",
        "continue",
        "backtrace 3",
        "finish",
        "set language c",
        "watch -l *(long *) ($sp - 8)",
        "continue",
        "stepi",
        "set language auto",
        "delete",
        "handle SIGURG stop print",
        "continue",
        "handle SIGURG nostop noprint",
        "break runtime.asyncPreempt2",
        "continue",
        "continue 5",
        "delete",
        "continue",
    )
    assert "runtime.sighandler" in printed
    assert re.search(r"hit Hardware watchpoint 2: .*\n\nOld value", printed)
    assert "received signal SIGURG" in printed
    assert len(re.findall(r"hit Breakpoint [\d.]+, .*runtime\.asyncPreempt2", printed)) == 2
    assert "exited normally" in printed
    assert_same(document, plain(path))


def test_what_gdb_kills_and_what_it_leaves() -> None:
    path = program(versions()[-1], "hello")
    _, document = debugged(path, "break main.main", "continue", "kill")
    assert document["exit"] == {"status": None, "how": "killed by gdb"}
    assert document["stdout"] == ""
    _, document = debugged(path, "break main.main", "continue")  # at its end gdb detaches
    assert_same(document, plain(path))


def test_signals_have_gdbs_numbers() -> None:
    """`info signals` lists them by gdb's numbers, from 1 on."""
    listed = subprocess.run(
        [str(GDB), "-q", "-nx", "-batch", "-ex", "info signals"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    names = re.findall(r"^(SIG[A-Z0-9]+)\b", listed, re.MULTILINE)
    numbers = {name: number for number, name in enumerate(names, 1)}
    ours = {signal.name: to_gdb(signal) for signal in Signal if signal.name != "SIGSTKFLT"}
    assert ours == {name: numbers[name] for name in ours}
    for signo in range(33, 64):
        assert to_gdb(signo) == numbers[f"SIG{signo}"]
