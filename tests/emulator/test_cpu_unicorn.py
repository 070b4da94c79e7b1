"""What the engine takes for granted about Unicorn: another version of it must fail here."""

from __future__ import annotations

import ctypes

import pytest
from keystone import KS_ARCH_X86, KS_MODE_64, Ks
from small_cpu import CODE, DATA, STACK, small_cpu, state
from unicorn import unicorn_const, x86_const

from emulator import hooks, unicorn_raw
from emulator.cpu import Stop, StopReason
from emulator.memory import Prot
from emulator.unicorn_raw import library


@pytest.mark.parametrize("name", ["CODE", "BLOCK", "GUARD", "SYSCALL", "INTR", "TLB_FILL"])
def test_hooks_are_their_assembly(name: str) -> None:
    text = getattr(hooks, f"{name}_TEXT")
    lines = [line.split(";")[0] for line in text.splitlines()]
    assert bytes(Ks(KS_ARCH_X86, KS_MODE_64).asm("\n".join(lines))[0]) == getattr(hooks, name)


def test_hooks_use_the_fields_that_they_name() -> None:
    for text in (
        hooks.CODE_TEXT,
        hooks.BLOCK_TEXT,
        hooks.GUARD_TEXT,
        hooks.SYSCALL_TEXT,
        hooks.INTR_TEXT,
        hooks.TLB_FILL_TEXT,
    ):
        for line in text.splitlines():
            code, _, comment = line.partition(";")
            name = comment.split("=")[0].strip()
            if name not in hooks.Field.__members__:
                continue
            if "[rcx]" in code:
                assert hooks.Field[name] == 0
            elif " + " in code:
                assert f"+ {hooks.Field[name] * 8}]" in code
    assert f"and     eax, {hooks.BLOCK_ENTRIES - 1:#x}" in hooks.BLOCK_TEXT
    assert hooks.BLOCK_ENTRY == 1 << 5
    assert f"test    r11b, {~hooks.Mark.EXAMINED & 0xFF:#x}" in hooks.BLOCK_TEXT
    assert f"and     al, {int(hooks.STOPPING):#x}" in hooks.CODE_TEXT
    assert f"test    al, {int(hooks.Mark.REPEAT):#x}" in hooks.CODE_TEXT
    assert f"xor     al, {int(hooks.Mark.EXAMINED):#x}" in hooks.CODE_TEXT
    assert f"mov     esi, {int(unicorn_raw.Register.RCX)} " in hooks.CODE_TEXT
    assert f"mov     esi, {int(unicorn_raw.Register.RAX)} " in hooks.GUARD_TEXT
    assert f"[rcx + {hooks.Field.SCRATCH * 8 + 4}], 0" in hooks.GUARD_TEXT
    assert f"test    dil, {hooks.GUARDED:#x} " in hooks.BLOCK_TEXT
    assert f"and     dil, {hooks.LENGTH:#x}\n" in hooks.BLOCK_TEXT
    assert f"and     bpl, {0xFF ^ hooks.Mark.FENCE:#x} " in hooks.BLOCK_TEXT


def test_numbers_are_those_of_the_package() -> None:
    for register in unicorn_raw.Register:
        assert register == getattr(x86_const, f"UC_X86_REG_{register.name}")
    for i in range(8):
        assert unicorn_raw.Register.FP0 + i == getattr(x86_const, f"UC_X86_REG_FP{i}")
        assert unicorn_raw.Register.R8 + i == getattr(x86_const, f"UC_X86_REG_R{8 + i}")
    for i in range(16):
        assert unicorn_raw.Register.XMM0 + i == getattr(x86_const, f"UC_X86_REG_XMM{i}")
    for name, value in vars(unicorn_raw).items():
        theirs = getattr(unicorn_const, f"UC_{name}", getattr(x86_const, f"UC_X86_{name}", value))
        assert theirs == value, name
    assert unicorn_raw.CTL_TB_REMOVE_CACHE == unicorn_const.UC_CTL_TB_REMOVE_CACHE
    for error in unicorn_raw.Error:
        assert error == getattr(unicorn_const, f"UC_ERR_{error.name}")


def test_the_version_is_the_one_that_was_measured() -> None:
    major, minor = ctypes.c_int(), ctypes.c_int()
    word = library.uc_version(ctypes.byref(major), ctypes.byref(minor))
    assert (major.value, minor.value) == (2, 1)
    assert word >> 8 & 0xFF == 4


def test_a_rep_comes_by_once_more_after_its_last_iteration() -> None:
    # Without the rule of the REPEAT mark this counts 11: the rule is still needed, and right.
    cpu = small_cpu("rep movsb; syscall", RCX=10, RSI=DATA, RDI=DATA + 64)
    cpu._marks.regions[0].marks[0] = hooks.Mark.EXAMINED
    assert cpu.run(99) == Stop(StopReason.SYSCALL, 12)


def test_sysret_gave_cpl_3() -> None:
    cpu = small_cpu("nop")
    assert cpu.engine.read(unicorn_raw.Register.CS) == 0x33
    assert cpu.engine.read(unicorn_raw.Register.CR0) & 0x20  # NE


def test_data_pages_are_asked_for_once() -> None:
    # Virtual TLB: the hook is called for a page, not for an access.
    cpu = small_cpu("l: mov [rbx], rcx; mov rdx, [rbx]; dec rcx; jnz l; syscall", RCX=5, RBX=DATA)
    cpu.run(99)
    cpu._words[hooks.Field.PAGE] = 0
    registers = state(cpu)
    registers["RIP"] = CODE
    registers["RCX"] = 5
    cpu.load(registers)
    assert cpu.run(99).reason is StopReason.SYSCALL
    assert cpu._words[hooks.Field.PAGE] == 0


def test_many_engines_can_live_at_once_and_die() -> None:
    for _ in range(30):
        cpu = small_cpu("push rax; syscall")
        assert cpu.run(2) == Stop(StopReason.SYSCALL, 2)
        region = cpu.memory.map("more", STACK + 0x100000, 0x1000, Prot.RW)
        cpu.attach(region)
