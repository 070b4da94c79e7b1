"""Runs stop on the boundary that was asked for, and count what they executed.

A test runs with hooks in machine code and in Python: the results must be the same.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from small_cpu import CODE, DATA, assemble, state

from emulator.cpu import Stop, StopReason
from emulator.memory import Prot
from emulator.registers import Registers
from emulator.unicorn_cpu import UnicornCpu

GATES = 0x500000

Machine = Callable[..., UnicornCpu]

LOOP = """
    again: add rax, 3
           adc rdx, rax
           push rdx
           test al, 7
           jnz odd
           rol rdx, 5
           cld
           mov rsi, rsp
           lea rdi, [rip + 0x200000]
           mov ecx, 3
           rep movsb
    odd:   cvtsi2sd xmm1, rax
           addsd xmm0, xmm1
           pop rbx
           dec r8
           jnz again
           syscall
"""


def test_any_sequence_of_chunks_passes_the_single_stepped_boundaries(machine: Machine) -> None:
    stepped = machine(LOOP, R8=30)
    boundaries = [state(stepped)]
    while (stop := stepped.run(1)).reason is StopReason.COUNT:
        assert stop.executed == 1
        boundaries.append(state(stepped))
    boundaries.append(state(stepped))
    rng = random.Random(20)
    for _ in range(20):
        cpu = machine(LOOP, R8=30)
        at = 0
        while at < len(boundaries) - 1:
            chunk = rng.randrange(1, 60)
            stop = cpu.run(chunk)
            at += stop.executed
            if stop.reason is StopReason.COUNT:
                assert stop.executed == chunk
            else:
                assert stop == Stop(StopReason.SYSCALL, stop.executed)
                assert at == len(boundaries) - 1
            assert state(cpu).diff(boundaries[at]) == []


def test_chunks_with_registers_loaded_anew_between_them(machine: Machine) -> None:
    whole, pieces = machine(LOOP, R8=9), machine(LOOP, R8=9)
    total = whole.run(10_000).executed
    rng = random.Random(4)
    executed = 0
    while True:
        stop = pieces.run(rng.randrange(1, 9))
        executed += stop.executed
        registers = state(pieces)
        pieces.load(Registers())
        pieces.load(registers)
        if stop.reason is StopReason.SYSCALL:
            break
    assert executed == total
    assert state(pieces).diff(state(whole)) == []


# SDM volume 1, 7.3.9.4 and volume 3, 17.3.1.1: a trap comes after each iteration of a REP
# instruction; the last iteration moves on; with RCX = 0 the instruction is one step.
@pytest.mark.parametrize(("rcx", "steps"), [(0, 1), (1, 1), (2, 2), (10, 10)])
def test_each_iteration_of_rep_is_one_boundary(machine: Machine, rcx: int, steps: int) -> None:
    cpu = machine("rep movsb; nop; syscall", RCX=rcx, RSI=DATA, RDI=DATA + 0x100)
    for step in range(steps):
        assert cpu.rip() == CODE
        assert state(cpu)["RCX"] == rcx - step
        assert cpu.run(1) == Stop(StopReason.COUNT, 1)
    assert cpu.rip() == CODE + 2
    cpu = machine("rep movsb; nop; syscall", RCX=rcx, RSI=DATA, RDI=DATA + 0x100)
    assert cpu.run(99) == Stop(StopReason.SYSCALL, steps + 2)


def test_repe_that_ends_for_its_condition_and_comes_back_with_rcx_zero(machine: Machine) -> None:
    # [DATA] differs from [DATA + 0x100] at once, so one iteration; then RCX = 0, one step.
    text = "l: repe cmpsb; mov ecx, 0; dec rbx; jnz l; syscall"
    cpu = machine(text, RCX=9, RSI=DATA, RDI=DATA + 0x100, RBX=3)
    cpu.memory.put_u8(DATA, 1)
    assert cpu.run(99) == Stop(StopReason.SYSCALL, 3 * 4 + 1)


def test_a_breakpoint_at_rep_stops_at_each_iteration_and_not_once_more(machine: Machine) -> None:
    cpu = machine("rep stosb; nop; syscall", RCX=3, RDI=DATA)
    cpu.add_breakpoint(CODE)
    for _ in range(3):
        assert cpu.run(9) == Stop(StopReason.BREAK, 0)
        assert cpu.run(1, armed=False) == Stop(StopReason.COUNT, 1)
    assert cpu.run(9) == Stop(StopReason.SYSCALL, 2)


def test_syscall_leaves_everything_but_rip_alone(machine: Machine) -> None:
    cpu = machine("nop; syscall; nop", RCX=77, R11=88, RAX=39)
    before = state(cpu)
    assert cpu.run(9) == Stop(StopReason.SYSCALL, 2)
    assert state(cpu).diff(before) == ["RIP"]
    assert cpu.rip() == CODE + 3


def test_a_gate_stops_armed_or_not_and_is_never_executed(machine: Machine) -> None:
    cpu = machine("nop; nop; nop; syscall")
    cpu.add_gates(CODE + 2, CODE + 3)
    assert cpu.run(9, armed=False) == Stop(StopReason.GATE, 2)
    assert cpu.run(9) == Stop(StopReason.GATE, 0)
    assert cpu.rip() == CODE + 2


def test_gates_need_no_memory(machine: Machine) -> None:
    cpu = machine("mov eax, 0x500010; call rax; syscall")
    cpu.add_gates(GATES, GATES + 0x1000)
    assert cpu.run(2) == Stop(StopReason.COUNT, 2)
    assert cpu.run(9) == Stop(StopReason.GATE, 0)
    assert cpu.rip() == 0x500010
    registers = state(cpu)
    registers["RIP"] = cpu.memory.u64(registers["RSP"])
    registers["RSP"] += 8
    cpu.load(registers)
    assert cpu.run(9) == Stop(StopReason.SYSCALL, 1)


def test_a_watched_range_stops_armed_runs_on_entry_and_inside(machine: Machine) -> None:
    cpu = machine("nop; nop; nop; nop; syscall")
    cpu.add_watch(CODE + 1, CODE + 3)
    assert cpu.run(9) == Stop(StopReason.WATCH, 1)
    assert cpu.run(9) == Stop(StopReason.WATCH, 0)
    assert cpu.run(1, armed=False) == Stop(StopReason.COUNT, 1)
    assert cpu.run(9) == Stop(StopReason.WATCH, 0)
    assert cpu.run(9, armed=False) == Stop(StopReason.SYSCALL, 3)


def test_breakpoints_come_and_go(machine: Machine) -> None:
    cpu = machine("l: inc rax; dec rbx; jnz l; syscall", RBX=5)
    cpu.run(2)
    cpu.add_breakpoint(CODE + 3)
    assert cpu.run(99) == Stop(StopReason.BREAK, 2)
    assert cpu.run(5, armed=False) == Stop(StopReason.COUNT, 5)
    assert cpu.run(99) == Stop(StopReason.BREAK, 1)
    cpu.remove_breakpoint(CODE + 3)
    assert cpu.run(99).reason is StopReason.SYSCALL


def test_the_count_comes_before_what_stands_at_the_next_boundary(machine: Machine) -> None:
    cpu = machine("nop; nop; syscall")
    cpu.add_breakpoint(CODE + 1)
    cpu.add_gates(CODE + 2, CODE + 3)
    assert cpu.run(1) == Stop(StopReason.COUNT, 1)
    assert cpu.run(0) == Stop(StopReason.COUNT, 0)
    assert cpu.run(1) == Stop(StopReason.BREAK, 0)
    assert cpu.run(1, armed=False) == Stop(StopReason.COUNT, 1)
    assert cpu.run(1) == Stop(StopReason.GATE, 0)


def test_marks_reach_regions_that_are_attached_later(machine: Machine) -> None:
    cpu = machine("mov eax, 0x700000; jmp rax")
    cpu.add_watch(0x700001, 0x700002)
    region = cpu.memory.map("more", 0x700000, 0x1000, Prot.RX)
    cpu.memory.write(0x700000, b"\x90\x90")
    cpu.attach(region)
    assert cpu.run(9) == Stop(StopReason.WATCH, 3)


def test_code_that_python_changed_is_seen_after_a_flush(unicorn: Machine) -> None:
    cpu = unicorn("l: inc rax; dec rbx; jnz l; syscall", RBX=1000)
    cpu.run(30)
    cpu.memory.write(CODE, assemble("dec rax"))
    cpu.flush_code(CODE, 3)
    before = state(cpu)["RAX"]
    assert cpu.run(30) == Stop(StopReason.COUNT, 30)
    assert state(cpu)["RAX"] == before - 10
    cpu.memory.write(CODE, b"\x0f\x53\xc1")  # RCPPS XMM0, XMM1
    cpu.flush_code(CODE, 3)
    stop = cpu.run(30)
    assert stop.reason is StopReason.FAULT
    assert stop.executed == 0
