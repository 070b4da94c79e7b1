"""`check --function --quick` on small executables, written here: no Go toolchain is needed.

Functions are hand-written machine code; asyncPreempt is Pushcall's for the version, which
tests/asm compares with Go's. Real executables are in tests/conformance/test_quick_check.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from go_binary import TEXT, Function, GoBinaryWriter

from emulator.disassembly import disassemble
from pushcall.booted.check import find
from pushcall.check.quick_check import (
    INTEGERS,
    OTHERS,
    parse_arguments,
    quick_check,
    random_call,
)
from pushcall.usage import UsageError
from runtime_model import layout
from runtime_model.call import SCRATCH, SCRATCH_SIZE
from runtime_model.moduledata import GoBinary
from runtime_model.trampoline import NAME, assemble_trampoline
from runtime_model.version import GoVersion

if TYPE_CHECKING:
    from pathlib import Path

    from pushcall.check.verdict import CheckResult

# for i := RBX; i != 0; i-- { *RAX += R10; R10 *= 3; X1 += X0 }; return
LOOP = bytes.fromhex("4885db 7413 4c0110 4d8d1452 f20f58c8 48ffcb 75f0 90 90 90 c3")
STACK_ARGUMENTS = bytes.fromhex("488b442408 488b4c2410 480108 c3")  # *arg0 += arg1


def asyncPreempt(version: tuple[int, int], entry: int, callee: int) -> tuple[bytes, int]:
    """The version's, at an address, with its CALL of what lies at another; how deep SP gets."""
    externs = {"runtime.asyncPreempt2": callee}
    image = assemble_trampoline(None, GoVersion(*version), layout.load(version), externs)
    function = image.function(NAME)
    assert function is not None
    code = bytearray(b"".join(each.data for each in function.instructions))
    call = next(each for each in disassemble(bytes(code), entry) if each.mnemonic == "call")
    at = call.address - entry
    code[at + 1 : at + 5] = (callee - call.address - 5).to_bytes(4, "little", signed=True)
    return bytes(code), max(r.value for r in function.spdelta.ranges)


def executable(
    path: Path, code: bytes, version: tuple[int, int] = (1, 22), remove: str = "", pie: bool = False
) -> Path:
    """A file with main.f, asyncPreempt (without what is to be removed), and asyncPreempt2."""
    second, third = TEXT + 64, TEXT + 64 + 1024
    preempt, depth = asyncPreempt(version, second, third)
    if remove:
        line = next(i for i in disassemble(preempt, 0) if i.text.startswith(remove))
        preempt = (
            preempt[: line.address] + b"\x90" * line.size + preempt[line.address + line.size :]
        )
    written = GoBinaryWriter(
        version,
        [
            Function("main.f", code.ljust(64, b"\xcc")),
            Function(
                "runtime.asyncPreempt", preempt.ljust(1024, b"\xcc"), locals="none", depth=depth
            ),
            Function("runtime.asyncPreempt2", b"\x0f\x0b" * 8),
        ],
        pie=pie,
    )
    path.write_bytes(bytes(written))
    return path


def quick(path: Path, *arguments: str, **more: int) -> CheckResult:
    with GoBinary(path) as binary:
        function = find(binary, "main.f")
        return quick_check(path, binary.version, function, arguments=arguments, **more)


@pytest.mark.parametrize(("version", "pie"), [((1, 22), False), ((1, 27), True)])
def test_a_call_is_preserved_at_every_boundary(
    version: tuple[int, int], pie: bool, tmp_path: Path
) -> None:
    path = executable(tmp_path / "f", LOOP, version, pie=pie)
    result = quick(path, "mem:8", "5", "1.5")
    assert (result.verdict, result.status) == ("preserved", 0)
    # TEST, JE, five times five instructions, three NOPs, RET.
    assert (result.points, result.boundaries, result.unsafe) == (31, 31, 0)
    assert result.notes[-1].startswith("11 of ")  # INT3s behind the RET are not


def test_a_restore_that_is_missing_is_lost_by_name(tmp_path: Path) -> None:
    path = executable(tmp_path / "f", LOOP, remove="movups xmm1, xmmword ptr")
    result = quick(path, "mem:8", "5", "1.5")
    assert [loss.register for loss in result.losses] == ["XMM1"]
    assert result.losses[0].points == result.points == 31
    assert result.losses[0].explanation is not None
    assert "nothing restores XMM1" in result.losses[0].explanation.text


def test_before_1_17_arguments_lie_on_the_stack(tmp_path: Path) -> None:
    path = executable(tmp_path / "f", STACK_ARGUMENTS, (1, 16))
    result = quick(path, "mem:8", "5")
    assert (result.verdict, result.points, result.notes[:-1]) == ("preserved", 4, [])
    result = quick(path, "5", "5")
    assert result.points == 3
    assert result.notes[0].startswith(f"the call died at {TEXT + 10:#x} main.f+0xa")
    assert "write to unmapped memory at 0x5" in result.notes[0]
    assert result.status == 0


def test_a_system_call_ends_the_call(tmp_path: Path) -> None:
    getpid = bytes.fromhex("b827000000 0f05 c3")
    result = quick(executable(tmp_path / "f", getpid), "0")
    assert (result.verdict, result.points) == ("preserved", 2)
    assert "main.f+0x5" in result.notes[0]
    assert "system call 39: only the whole program makes any" in result.notes[0]


def test_random_arguments_are_those_of_the_seed(tmp_path: Path) -> None:
    path = executable(tmp_path / "f", LOOP)
    result = quick(path, seed=3, budget=2000, calls=1)
    assert result.notes[0] == "the call was left after 2000 instructions"
    assert (result.verdict, result.boundaries) == ("preserved", 2000)
    with GoBinary(path) as binary:
        function, version = find(binary, "main.f"), binary.version
    first = random_call(path, version, function, 3, 0)
    assert first == random_call(path, version, function, 3, 0)
    others = [random_call(path, version, function, *other) for other in ((4, 0), (3, 1))]
    assert first not in others
    values = dict(first.registers)
    assert all(SCRATCH <= values[n] < SCRATCH + SCRATCH_SIZE for n in (*INTEGERS, *OTHERS))


def test_arguments_are_numbers_in_order() -> None:
    found = parse_arguments(["-1", "1.5", "mem:20", "0x10", "2.0f", "mem:1"])
    assert found.integers == (2**64 - 1, 0x10000, 16, 0x10020)
    assert found.floats == (0x3FF8_0000_0000_0000, 0x4000_0000)
    with pytest.raises(UsageError, match="--arg mem:-1"):
        parse_arguments(["mem:-1"])
    with pytest.raises(UsageError, match="--arg seven: not a number"):
        parse_arguments(["seven"])
