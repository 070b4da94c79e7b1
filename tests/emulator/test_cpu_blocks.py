"""Runs of blocks: the same results as of single instructions, and mostly without them."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from small_cpu import CODE, DATA, DATA_END, assemble, small_cpu, state

from emulator.cpu import Stop, StopReason
from emulator.fault import FaultKind
from emulator.hooks import Field
from emulator.memory import Prot

if TYPE_CHECKING:
    from emulator.unicorn_cpu import UnicornCpu

# Branches, calls, stores, a REP, and blocks of many lengths.
PROGRAM = """
    again: mov rcx, rbx
           and ecx, 7
           lea rdi, [r12 + rcx * 8]
           add [rdi], rbx
           test bl, 3
           jnz over
           mov ecx, 5
           rep stosb
           call sub
    over:  adc rax, [r12]
           cmp rax, rbx
           jle less
           rol rax, 3
    less:  dec rbx
           jnz again
           syscall
    sub:   push rax
           imul rax, rax, 77
           pop rdx
           ret
"""


def pair(text: str, **registers: int) -> tuple[UnicornCpu, UnicornCpu]:
    """Processors that execute blocks as soon as they can, and never."""
    blocks = small_cpu(text, counting="block", **registers)
    blocks._blocks_from, blocks._chunks = 1, (1, 16)
    return blocks, small_cpu(text, counting="machine-code", **registers)


def agree(one: UnicornCpu, other: UnicornCpu) -> None:
    assert one.rip() == other.rip()
    assert state(one).diff(state(other)) == []
    size = DATA_END - DATA
    assert one.memory.read(DATA, size) == other.memory.read(DATA, size)


@pytest.mark.parametrize("seed", range(12))
def test_runs_of_any_length_end_where_single_instructions_end(seed: int) -> None:
    rng = random.Random(seed)
    blocks, single = pair(PROGRAM, RBX=400, R12=DATA)
    if seed % 3 == 1:
        for cpu in (blocks, single):
            cpu.add_breakpoint(CODE + len(assemble("mov rcx, rbx; and ecx, 7")))
    while True:
        count, armed = rng.choice((1, 2, 3, 10, 50, 300, 2000)), rng.random() < 0.8
        stop = blocks.run(count, armed=armed)
        assert stop == single.run(count, armed=armed)
        agree(blocks, single)
        if stop.reason is StopReason.SYSCALL:
            break
        if stop.reason is StopReason.BREAK:
            assert blocks.run(1, armed=False) == single.run(1, armed=False)


def test_a_loop_is_left_to_the_blocks() -> None:
    cpu = small_cpu("l: inc rax; dec rbx; jnz l; syscall", RBX=1_000_000)
    assert cpu.counting == "block"
    examined = []
    counting = cpu._run_singly
    cpu._run_singly = lambda done, count: (  # type: ignore[method-assign]
        examined.append(count),
        counting(done, count),
    )[1]
    assert cpu.run(2_500_000) == Stop(StopReason.COUNT, 2_500_000)
    assert sum(examined) < 1000
    assert state(cpu)["RAX"] == 833_334


FAULTS = {
    "store": ("mov [r12], rax", FaultKind.WRITE),
    "load": ("mov rdx, [r12 - 8 + 8]", FaultKind.READ),
    "divide": ("mov rdx, 0; mov rcx, 4000; sub rcx, r13; div rcx", FaultKind.DIVIDE),
    "call": ("lea rsp, [r12 + 8]; call q; q: nop", FaultKind.WRITE),
    "privileged": ("cmp r13, 4000; jne q; cli; q: nop", FaultKind.PRIVILEGED),
    "invalid": ("cmp r13, 4000; jne q; ud2; q: nop", FaultKind.INVALID),
    "breakpoint": ("cmp r13, 4000; jne q; int3; q: nop", FaultKind.BREAKPOINT),
    "jump": ("cmp r13, 4000; jne q; jmp r12; q: nop", FaultKind.FETCH),
}


# The loop is in blocks long before it faults, at the same instruction, after as many.
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_in_a_known_block_is_told_as_by_single_instructions(name: str) -> None:
    text, kind = FAULTS[name]
    text = f"mov rsi, rsp; l: inc rax; {text}; add r12, 8; inc r13; mov rsp, rsi; jmp l"
    # DATA_END - 8 * 500 + 8 * 500
    start = DATA_END - 8 * 500 if name in ("store", "load", "call") else DATA_END
    blocks, single = pair(text, R12=start, R13=3500, RAX=3)
    stops = [blocks.run(100_000), single.run(100_000)]
    assert stops[0] == stops[1]
    assert stops[0].fault is not None
    assert stops[0].fault.kind is kind
    assert stops[0].executed > 2500
    agree(blocks, single)
    assert blocks.run(5) == single.run(5)
    assert blocks._words[Field.TABLE]


def test_breakpoints_and_changed_code_reach_known_blocks() -> None:
    cpu = pair("l: inc rax; nop; dec rbx; jnz l; syscall", RBX=10_000)[0]
    cpu.run(5000)
    cpu.add_breakpoint(CODE + 3)
    assert cpu.run(5000) == Stop(StopReason.BREAK, 1)
    cpu.remove_breakpoint(CODE + 3)
    assert cpu.run(4000) == Stop(StopReason.COUNT, 4000)
    cpu.memory.write(CODE + 3, b"\xf4")
    cpu.flush_code(CODE + 3, 1)
    stop = cpu.run(5000)
    assert stop.fault is not None
    assert (stop.fault.kind, stop.fault.pc) == (FaultKind.PRIVILEGED, CODE + 3)


def test_code_written_in_a_block_takes_effect_in_blocks() -> None:
    # Each round the immediate of the ADD becomes the round's number.
    text = "l: mov [rip + 3], bl; nop; add eax, 0x01; dec ebx; jnz l; syscall"
    results = []
    for counting in ("block", "machine-code"):
        cpu = small_cpu(text, counting=counting, code=Prot.RW | Prot.EXEC, RBX=100)
        cpu._blocks_from, cpu._chunks = (1, (1, 8)) if counting == "block" else (2**63, (1, 1))
        results.append((cpu.run(100_000), state(cpu)))
    assert results[0][0] == results[1][0]
    assert results[0][1].diff(results[1][1]) == []
    assert results[0][1]["RAX"] == sum(range(1, 101))


def test_time_stamps_count_the_instructions_before_them() -> None:
    text = "l: nop; rdtsc; mov rsi, rax; dec rbx; jnz l; syscall"
    for cpu in pair(text, RBX=1000):
        seen: list[int] = []
        cpu.time_stamp = lambda cpu=cpu, seen=seen: seen.append(cpu.executed()) or 5
        assert cpu.run(99_999) == Stop(StopReason.SYSCALL, 5001)
        assert seen == list(range(1, 5000, 5))
