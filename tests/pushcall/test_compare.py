"""Both engines side by side: the first step that differs is shown, and named differences are not.

Undefined flags: SDM volume 1, appendix A. MXCSR's exception flags: SDM volume 1, 10.2.3.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from both_engines import EXAMPLES, short
from click.testing import CliRunner
from keystone import KS_ARCH_X86, KS_MODE_64, Ks
from native_host import native_objection

from emulator.agreement import Agreement, Known
from emulator.native.cpu import NativeCpu
from emulator.registers import Flags, Registers
from pushcall.api import program
from pushcall.cli.main import cli
from pushcall.snippet.injection import Injection
from pushcall.trace.compare import Comparison, compare, lines, to_json

if TYPE_CHECKING:
    from pathlib import Path

    from emulator.native.kinds import Kind

native = pytest.mark.skipif(bool(native_objection()), reason=native_objection() or "")


def compared(name: str, every: int, go: str, limit: int = 100_000) -> Comparison:
    return compare(program(short(name), EXAMPLES, go=go), Injection(every=every), limit)


@native
def test_an_example_is_the_same_on_both() -> None:
    result = compared("float_loop.s", 40, "1.22")
    assert (result.status, result.difference) == (0, None)
    assert result.steps > 700
    assert result.known == {Known.MXCSR.value}  # CVTSI2SD and ADDSD are inexact there
    assert f"{result.steps} steps, exit status 0" in next(iter(lines(result)))


@native
def test_a_wrong_register_is_the_first_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    right = NativeCpu._execute
    count, flipped = 0, 0

    def wrong(cpu: NativeCpu, kind: Kind) -> object:
        nonlocal count, flipped
        rip = cpu.rip()
        fault = right(cpu, kind)
        count += 1
        if count == 700:
            registers = Registers()
            cpu.save(registers)
            registers["R13"] ^= 1 << 40
            cpu.load(registers)
            flipped = rip
        return fault

    monkeypatch.setattr(NativeCpu, "_execute", wrong)
    result = compared("carry_chain.s", 50, "1.22")
    found = result.difference
    assert found is not None
    assert [name for name, _, _ in found.registers] == ["R13"]
    ((_, mine, theirs),) = found.registers
    assert mine ^ theirs == 1 << 40
    assert result.status == 1
    assert found.place.pc == flipped
    assert found.step >= 700  # SYSCALL is executed elsewhere
    text = "\n".join(lines(result))
    assert f"differ behind step {found.step - 1}: {found.place.pc:#x}" in text
    assert found.disassembly in text
    document = to_json(result)
    assert document["verdict"] == "different"
    assert document["difference"]["registers"] == [
        {"register": "R13", "unicorn": f"{mine:#x}", "native": f"{theirs:#x}"}
    ]


# RCPPS gives other digits on Unicorn, which refuses it.
@native
def test_what_one_engine_refuses_is_a_difference(tmp_path: Path) -> None:

    path = tmp_path / "rcp.s"
    path.write_text("TEXT ·main(SB), 4, $0\n\tRCPPS X1, X0\n\tRET\n", "utf-8")
    result = CliRunner().invoke(cli, ["compare", str(path), "--json"], standalone_mode=False)
    assert result.return_value == 1
    document = json.loads(result.stdout)
    assert document["verdict"] == "different"
    assert "cannot execute exactly (rcpps" in document["ends"][0]
    assert document["ends"][1] == "exit status 0"
    assert document["difference"]["step"] == document["steps"]


def code(text: str) -> bytes:
    return bytes(Ks(KS_ARCH_X86, KS_MODE_64).asm(text, 0x40_0000)[0])


def flags(value: int) -> Registers:
    registers = Registers()
    registers["RFLAGS"] |= value
    return registers


def test_an_undefined_flag_may_differ_until_it_is_written() -> None:
    agreement = Agreement()
    one, other = flags(0), flags(Flags.AF)
    assert agreement.differing(one, other) == ["RFLAGS"]
    agreement.executed(code("and eax, ecx"), Registers(), 2)
    assert agreement.differing(one, other) == []
    assert agreement.differing(one, flags(Flags.AF | Flags.ZF)) == ["RFLAGS"]
    agreement.executed(code("mov eax, ecx"), Registers(), 4)
    assert agreement.differing(one, other) == []
    assert agreement.met == {Known.UNDEFINED}
    agreement.executed(code("add eax, ecx"), Registers(), 6)
    assert agreement.differing(one, other) == ["RFLAGS"]


def test_flags_between_iterations_may_differ_and_behind_them_not() -> None:
    agreement = Agreement()
    one, other = flags(0), flags(Flags.ZF)
    agreement.executed(code("repe cmpsb"), Registers(), 0)
    assert agreement.differing(one, other) == []
    assert agreement.met == {Known.ITERATING}
    agreement.executed(code("repe cmpsb"), Registers(), 2)
    assert agreement.differing(one, other) == ["RFLAGS"]


def test_undefined_flags_come_back_from_where_they_were_stored() -> None:
    saved: dict[int, int] = {}
    agreement, another = Agreement(saved), Agreement(saved)
    one, other = flags(0), flags(Flags.AF)
    stack = Registers()
    stack["RSP"] = 0x8000
    agreement.executed(code("and eax, ecx"), stack, 2)
    agreement.executed(code("pushfq"), stack, 3)
    agreement.executed(code("add eax, ecx"), stack, 5)
    assert agreement.differing(one, other) == ["RFLAGS"]
    stack["RSP"] -= 8
    another.executed(code("popfq"), stack, 6)
    assert another.differing(one, other) == []
    stack["RSP"] += 8
    another.executed(code("popfq"), stack, 7)
    assert another.differing(one, other) == ["RFLAGS"]


def test_no_other_register_may_differ() -> None:
    agreement = Agreement()
    agreement.executed(code("mul rcx"), Registers(), 3)
    for name in ("RAX", "XMM3", "FS_BASE", "ZMM20", "K1", "FCW"):
        other = Registers()
        other[name] ^= 1
        assert agreement.differing(Registers(), other) == [name]
    other = Registers()
    other["MXCSR"] ^= 0x2000  # rounding
    assert agreement.differing(Registers(), other) == ["MXCSR"]
