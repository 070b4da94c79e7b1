"""Preemptions inside functions of real programs, by their own runtime: nothing is lost.

Copies of the executables in which one save or restore of asyncPreempt is overwritten with NOPs must
lose that register, by name, at every boundary.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from toolchains import CACHE, build, versions

from emulator.disassembly import disassemble
from pushcall.booted import check as booted_check
from pushcall.booted.check import check_function
from pushcall.pytest_plugin import Checker
from pushcall.usage import UsageError
from runtime_model.booted import Settings
from runtime_model.moduledata import GoBinary

if TYPE_CHECKING:
    from pushcall.check.verdict import CheckResult

PROGRAM = Path(__file__).parent / "programs/checked"
FUNCTIONS = ("main.integers", "main.floats", "main.pointers", "main.slices")
# A restore, the register that is lost without it, and the function to try.
MISSING = (
    ("mov r9, qword ptr", "R9", "main.integers"),
    ("mov rax, qword ptr [rsp", "RAX", "main.slices"),
    ("mov rbx, qword ptr", "RBX", "main.pointers"),
    ("movups xmm1, xmmword ptr", "XMM1", "main.floats"),
    ("movups xmm15, xmmword ptr", "XMM15", "main.floats"),
    ("popfq", "RIP", "main.integers"),  # everything is a word off then
)
TESTED = [version for version in versions() if version.startswith(("1.19", "1.22", "1.24", "1.27"))]


def program(version: str) -> Path:
    return build(version, PROGRAM, CACHE / "booted" / f"checked-{version}", "-trimpath")


def check(path: Path, function: str, points: int | None = None) -> CheckResult:
    with GoBinary(path) as binary:
        return check_function(binary, Settings((b"p",)), function, points=points, jobs=2)


def without(path: Path, text: str, output: Path) -> Path:
    """A copy of the program in which asyncPreempt's first such instruction is NOPs."""
    data = bytearray(path.read_bytes())
    with GoBinary(path) as binary:
        function = binary.names["runtime.asyncPreempt"]
        code = bytes(binary.code(function.entry, function.end))
        found = next(i for i in disassemble(code, function.entry) if i.text.startswith(text))
        segment = binary.elf.segment_at(found.address)
        assert segment is not None
        start = found.address - segment.address + segment.offset
    data[start : start + found.size] = b"\x90" * found.size
    output.write_bytes(data)
    return output


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("version", TESTED)
def test_every_safe_boundary_is_preserved(version: str, function: str) -> None:
    result = check(program(version), function)
    assert result.verdict == "preserved"
    assert result.findings == []
    assert result.points + result.unsafe == result.boundaries
    assert result.points > 20
    print(f"{version:8} {function:14} {result.points} of {result.boundaries} preempted")


@pytest.mark.parametrize(("text", "register", "function"), MISSING)
@pytest.mark.parametrize("version", TESTED)
def test_a_restore_that_is_missing_is_lost_by_name_at_every_boundary(
    version: str, text: str, register: str, function: str, tmp_path: Path
) -> None:
    broken = without(program(version), text, tmp_path / "broken")
    result = check(broken, function)
    assert result.verdict == "lost"
    assert [loss.register for loss in result.losses] == [register]
    assert result.losses[0].points == result.points == result.boundaries - result.unsafe


@pytest.mark.parametrize(
    ("text", "register"), [("movups xmmword ptr", "XMM0"), ("mov qword ptr [rsp + 0x30], r8", "R8")]
)
@pytest.mark.parametrize("version", TESTED)
def test_a_save_that_is_missing_is_lost_by_name(
    version: str, text: str, register: str, tmp_path: Path
) -> None:
    broken = without(program(version), text, tmp_path / "broken")
    result = check(broken, "main.floats")
    assert [loss.register for loss in result.losses] == [register]
    assert result.losses[0].points == result.points


def test_the_fixture_shows_the_code_around_the_boundary(tmp_path: Path) -> None:
    without(program(TESTED[-1]), "mov r9, qword ptr", tmp_path / "broken")
    with pytest.raises(pytest.fail.Exception) as failed:
        Checker(tmp_path).check_function("broken", "main.integers", points=3)
    lost, *_, head, first, second, third, fourth, fifth = str(failed.value).splitlines()
    assert lost == "lost: R9"
    assert head.startswith("around boundary 0, 0x")
    assert first.startswith("  > ")
    with GoBinary(tmp_path / "broken") as binary:
        entry = binary.names["main.integers"].entry
        code = disassemble(bytes(binary.code(entry, entry + 100)), entry, 5)
    shown = [line[4:].split(maxsplit=1) for line in (first, second, third, fourth, fifth)]
    assert shown == [[hex(each.address), each.text] for each in code]
    Checker(tmp_path).check_function(program(TESTED[-1]), "main.integers", points=3)


def command(path: Path, *arguments: str) -> dict[str, Any]:
    line = [sys.executable, "-m", "pushcall", "check", str(path), "--json", *arguments]
    ended = subprocess.run(line, capture_output=True, text=True, check=True)
    document: dict[str, Any] = json.loads(ended.stdout)
    return document


def test_a_part_of_the_boundaries_says_so_and_any_number_of_jobs_finds_the_same() -> None:
    path = program(TESTED[-1])
    options = ("--function", "main.integers", "--points", "20")
    one, two = command(path, *options), command(path, *options, "--jobs", "2")
    assert one["repeat"] == f"pushcall check {path} {' '.join(options)}"
    assert two.pop("repeat") == f"{one.pop('repeat')} --jobs 2"
    assert one == two
    assert one["sample"] == {"boundaries": 20, "of": one["boundaries"]}
    assert one["points"] == 20


def test_a_call_with_more_boundaries_than_are_tried_is_no_success(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(booted_check, "MOST_BOUNDARIES", 5)
    result = check(program(TESTED[-1]), "main.integers")
    assert result.boundaries == 5
    assert result.findings == ["the call goes on: only its first 5 boundaries were tried"]
    assert result.status == 1


def test_what_cannot_be_checked_is_said() -> None:
    path = program(TESTED[-1])
    with pytest.raises(UsageError, match=r"no function integerz; there is main\.integers"):
        check(path, "integerz")
    with pytest.raises(UsageError, match="was never called"):
        check(path, "runtime.throw")
    with pytest.raises(UsageError, match="g0"):
        check(path, "runtime.schedule")
