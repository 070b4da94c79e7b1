"""At full speed the real processor does what it does step by step, and stops as exactly."""

from __future__ import annotations

import pytest
from native_host import native_objection
from small_cpu import DATA, STACK_END, UnicornCpu, counted_cpu, small_cpu, state

from emulator import extended
from emulator.cpu import Stop, StopReason
from emulator.fault import FaultKind
from emulator.native import cpu as native_cpu
from emulator.native.fenced_child import FencedChild
from emulator.native.probe import CODE as COPY
from emulator.registers import Registers

ROUNDS = 40
# Something on the x87 stack, calls and returns, a relative operand, flags of all kinds, vectors
# and, if there are any, their upper halves.
TEXT = """
    fldpi; fld1
    l: add rax, 3; push rax; adc rdx, rax; movq xmm3, rax; call f; pop rbx; mov [rsp - 8], rcx
    inc dword ptr [rip + d]; std; stc; cld; pushfq; pop r9; {wide} dec ecx; jnz l
    e: {last}; nop; nop; ud2
    f: movdqu [rsp - 24], xmm3; pxor xmm3, xmm5; cmp rax, rdx; jb g; neg rdx; call h; g: ret
    h: lea rsi, [rip + l]; jmp g
    .align 8
    d: .quad 1
"""
WIDE = "vaddpd ymm6, ymm3, ymm7; vpaddq ymm7, ymm6, ymm3;"


@pytest.fixture(autouse=True)
def _host(monkeypatch: pytest.MonkeyPatch) -> None:
    if why := native_objection():
        pytest.skip(why)
    monkeypatch.setattr(native_cpu, "WORTH", 1)


def _pair(last: str) -> tuple[UnicornCpu, UnicornCpu]:
    """The same about to run: step by step, and at full speed."""
    wide = "" if native_objection(extended.AVX) else WIDE
    text = TEXT.format(last=last, wide=wide).replace("[rip + d]", f"[{DATA:#x}]")
    given = {"RCX": ROUNDS, "RSP": STACK_END - 40, "XMM5": 1 << 100, "XMM7": 5}
    return small_cpu(text, engine="native", **given), counted_cpu(text, **given)


def _same(stepped: UnicornCpu, counted: UnicornCpu) -> bool:
    one, other = state(stepped), state(counted)
    data = stepped.memory.u64(DATA) == counted.memory.u64(DATA)
    return data and one.block == other.block and one.extended == other.extended


@pytest.mark.parametrize("lengths", [(1, 1, 2, 3, 5, 8, 13, 21, 34), (97, 100, 201)])
def test_after_any_count_all_registers_are_those_of_stepping(lengths: tuple[int, ...]) -> None:
    stepped, counted = _pair("nop")
    for length in lengths:
        assert stepped.run(length) == counted.run(length) == Stop(StopReason.COUNT, length)
        assert _same(stepped, counted)
        assert "ST7" in Registers().diff(state(stepped))  # what the counter lies in
    counted.close()


@pytest.mark.parametrize(
    "last",
    [
        "cpuid", "mov rax, [0x10]", f"mov rax, [{COPY:#x}]", f"mov [{COPY + 8:#x}], rax",
        "rep movsb", "jmp rax", "ud2", "int3", "syscall", "div r8", "fld1; fadd", "push rax; ret",
        "mov rsp, 8; ret",
    ],
)  # fmt: skip
def test_what_is_not_copied_or_faults_ends_as_it_does_stepped(last: str) -> None:
    stepped, counted = _pair(last)
    one, other = stepped.run(10_000), counted.run(10_000)
    assert one == other
    assert one.reason is not StopReason.COUNT
    assert one.executed > 12 * ROUNDS
    assert _same(stepped, counted)
    assert counted.run(1) == stepped.run(1)
    counted.close()


def test_hardly_anything_is_stepped(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []
    step = FencedChild.step
    monkeypatch.setattr(FencedChild, "step", lambda child: steps.append(1) or step(child))
    cpu = counted_cpu("l: call f; dec ecx; jnz l; ud2; f: inc rax; ret", RCX=100_000)
    stop = cpu.run(1_000_000)
    assert stop.executed == 500_000
    assert stop.fault is not None
    assert stop.fault.kind is FaultKind.INVALID
    assert len(steps) < 10


def test_a_breakpoint_is_met_however_often_it_comes_and_goes() -> None:
    cpu = counted_cpu("l: inc rax; inc rbx; dec ecx; jnz l", RCX=1000)
    place = cpu.rip() + 3
    assert cpu.run(400) == Stop(StopReason.COUNT, 400)
    cpu.add_breakpoint(place)
    assert cpu.run(400) == Stop(StopReason.BREAK, 1)
    assert cpu.run(400) == Stop(StopReason.BREAK, 0)
    cpu.remove_breakpoint(place)
    assert cpu.run(400) == Stop(StopReason.COUNT, 400)
    cpu.close()
