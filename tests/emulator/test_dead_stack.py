"""Loads of stack that was below RSP since it was last written are found, and no others."""

from __future__ import annotations

import pytest
from keystone import KS_ARCH_X86, KS_MODE_64, Ks
from small_cpu import CODE, STACK, STACK_END, small_cpu

from emulator import dead_stack, hooks
from emulator.dead_stack import DeadStack, Word
from emulator.unicorn_raw import Register

COUNTING = [None, "machine-code", "python"]

# Instructions, and of which the loads are dead: (boundary, last boundary at which it was so).
PROGRAMS = {
    "a frame that is written first": ("sub rsp, 32; mov [rsp + 8], rax; mov rbx, [rsp + 8]", []),
    "a push and a pop": ("push rax; pop rbx; push rcx; push rdx; pop rdx; pop rcx", []),
    "a call": ("call f; nop; ud2; f: ret", []),
    "what was there at first": ("mov rax, [rsp]; mov rbx, [rsp + 16]", []),
    "below RSP": ("mov [rsp - 8], rax; mov rbx, [rsp - 8]; nop", [(1, 1)]),
    "below RSP, of a push": ("push rax; add rsp, 8; push [rsp - 8]", [(2, 2)]),
    "taken into a frame behind the write": (
        "mov [rsp - 8], rax; nop; sub rsp, 8; mov rbx, [rsp]; mov rcx, [rsp]", [(3, 2)],
    ),
    "a slot that nobody wrote": ("sub rsp, 64; nop; nop; mov eax, [rsp + 12]", [(3, 0)]),
    "half a slot": ("sub rsp, 16; mov [rsp], eax; mov ebx, [rsp]; mov rbx, [rsp]", [(3, 0)]),
    "one byte of sixteen": (
        ("sub rsp, 16; mov [rsp], rax; mov [rsp + 8], eax; mov [rsp + 12], ax; mov [rsp + 14], al;"
        "movups xmm0, [rsp]; mov [rsp + 15], al; movups xmm0, [rsp]"), [(5, 0)],
    ),
    "a frame that was given back": (
        "push rax; add rsp, 8; sub rsp, 8; pop rax", [(3, 2)],
    ),
    "a string move": (
        "lea rsi, [rsp - 16]; lea rdi, [rsp + 8]; mov ecx, 2; rep movsq", [(3, 3), (4, 4)],
    ),
    "another stack meanwhile": (
        "mov [rsp - 8], rax; mov rbx, rsp; mov rsp, r12; nop; mov rsp, rbx; mov rcx, [rsp - 8]",
        [(5, 5)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("counting", COUNTING)
@pytest.mark.parametrize("name", PROGRAMS)
def test_dead_loads(name: str, counting: str | None) -> None:
    text, expected = PROGRAMS[name]
    rsp = STACK_END - 128
    cpu = small_cpu(f"{text}; ud2", counting=counting, RSP=rsp)
    with DeadStack(cpu, (CODE, 0x100), (STACK, STACK_END), rsp) as dead:
        stop = cpu.run(100)
    assert dead.boundaries == stop.executed
    assert sorted(dead.loads()) == expected
    assert dead.lost == 0


def test_loads_that_have_no_room_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_stack, "FOUND", 3)
    for counting in COUNTING:
        cpu = small_cpu("mov rax, [rsp - 8]; " * 8 + "ud2", counting=counting, RSP=STACK_END)
        with DeadStack(cpu, (CODE, 0x100), (STACK, STACK_END), STACK_END) as dead:
            cpu.run(8)
        assert (len(dead.loads()), dead.lost) == (3, 5)


@pytest.mark.parametrize("name", ["STEP", "LOAD", "STORE"])
def test_hooks_are_their_assembly_and_use_the_words_that_they_name(name: str) -> None:
    text = getattr(dead_stack, f"{name}_TEXT")
    lines = [line.partition(";") for line in text.splitlines()]
    code = bytes(Ks(KS_ARCH_X86, KS_MODE_64).asm("\n".join(line[0] for line in lines))[0])
    assert code == getattr(dead_stack, name)
    for instruction, _, comment in lines:
        word = comment.strip()
        if word == "RECORD_BLOCK":
            assert f"+ {hooks.Field[word] * 8}]" in instruction
        elif word:
            number = Word[word] * 8
            assert f" + {number}]" in instruction or (number == 0 and "[rbx]" in instruction)
    assert name != "STEP" or f"mov     esi, {int(Register.RSP)}\n" in text
