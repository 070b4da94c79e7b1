"""Registers go in and come out whole, in the order that emulator.registers documents."""

from __future__ import annotations

import random
import struct

import pytest
from small_cpu import DATA, small_cpu, state

from emulator.registers import GENERAL, ST, XMM, Registers

ONE = 0x3FFF_8000_0000_0000_0000  # 1.0 in the extended format (SDM volume 1, table 4-3)
PI = 0x4000_C90F_DAA2_2168_C235


def test_every_register_round_trips() -> None:
    rng = random.Random(1)
    cpu = small_cpu("nop")
    for _ in range(50):
        block = Registers()
        for name in (*GENERAL, *XMM, "RIP"):
            block[name] = rng.getrandbits(128)
        for name in ST:
            block[name] = rng.choice([PI, ONE, ONE | 1 << 79])
        block["FS_BASE"] = rng.getrandbits(47)
        block["GS_BASE"] = rng.getrandbits(47)
        block["MXCSR"] = rng.choice([0x1F80, 0x7FC0, 0x9F80])
        block["FCW"] = rng.choice([0x37F, 0x27F, 0xF7F])
        block["FSW"] = rng.getrandbits(16) & 0x7F00
        block["FTW"] = sum(rng.choice([0, 3]) << 2 * i for i in range(8))
        block["RFLAGS"] = rng.getrandbits(12) & 0xCD5 | 0x202
        cpu.load(block)
        assert state(cpu).diff(block) == []


def test_loading_twice_leaves_nothing_of_the_first() -> None:
    cpu = small_cpu("fld1; fldpi; movq xmm3, rsp; cmp eax, 1")
    fresh = state(cpu)
    cpu.run(4)
    assert set(state(cpu).diff(fresh)) == {
        "RIP", "RFLAGS", "FSW", "FTW", "ST6", "ST7", "XMM3",
    }  # fmt: skip
    cpu.load(fresh)
    assert state(cpu).diff(fresh) == []


# SDM volume 1, 8.1.2: FLD decrements TOP and writes the register that it then names, so the first
# one goes to R7; 8.1.7: tag 00 valid, 01 zero, 10 special, 11 empty.
def test_x87_registers_come_in_physical_order_with_full_tags() -> None:
    cpu = small_cpu("fld1; fldz; fldpi; fld1; fldz; fdivp; syscall")
    cpu.run(1)
    registers = state(cpu)
    assert (registers["ST7"], registers["FSW"] >> 11 & 7, registers["FTW"]) == (ONE, 7, 0x3FFF)
    cpu.run(2)
    registers = state(cpu)
    assert [registers[name] for name in ST[5:]] == [PI, 0, ONE]
    assert registers["FTW"] == 0b00_01_00_11_11_11_11_11
    cpu.run(9)
    registers = state(cpu)
    # 1.0 / 0.0 is an infinity, which is special; R3 was popped.
    assert registers["FTW"] >> 6 == 0b00_01_00_10_11
    assert registers["FSW"] >> 11 & 7 == 4


def test_the_fxsave_image_shows_what_was_loaded() -> None:
    cpu = small_cpu("fxsave [rbx]; syscall", RBX=DATA, FCW=0x27F, FSW=0x3000, MXCSR=0x3F80)
    block = state(cpu)
    for i, name in enumerate(ST):
        block[name] = ONE + i
    for i, name in enumerate(XMM):
        block[name] = 0x1111 << 16 * (i % 8)
    block["FTW"] = 0x0FFF  # R6 and R7 are in use; TOP is 6
    cpu.load(block)
    cpu.run(2)
    image = cpu.memory.read(DATA, 512)
    # SDM volume 1, table 10-2: FCW, FSW, abridged FTW, MXCSR at 24, ST0-7 at 32, XMM at 160.
    assert struct.unpack_from("<HHB", image) == (0x27F, 0x3000, 0b1100_0000)
    assert struct.unpack_from("<I", image, 24) == (0x3F80,)
    for i in range(8):
        value = int.from_bytes(image[32 + 16 * i : 42 + 16 * i], "little")
        assert value == ONE + (6 + i) % 8
    assert image[160:416] == block.block[304:560]


# SDM volume 1, table 4-8: rounding control 00 nearest, 01 down, 10 up, 11 toward zero.
@pytest.mark.parametrize(("control", "result"), [(0, 2), (1, 2), (2, 3), (3, 2)])
def test_the_rounding_control_of_mxcsr_and_fcw_is_obeyed(control: int, result: int) -> None:
    text = "cvtsd2si rax, xmm0; fld qword ptr [rbx]; fistp qword ptr [rbx]; mov rcx, [rbx]; syscall"
    bits = struct.unpack("<Q", struct.pack("<d", 2.5))[0]
    cpu = small_cpu(
        text, RBX=DATA, XMM0=bits, MXCSR=0x1F80 | control << 13, FCW=0x37F | control << 10
    )
    cpu.memory.put_u64(DATA, bits)
    cpu.run(9)
    registers = state(cpu)
    assert (registers["RAX"], registers["RCX"]) == (result, result)


def test_rip_is_known_without_saving() -> None:
    cpu = small_cpu("nop; nop; syscall")
    for _ in range(3):
        assert cpu.rip() == state(cpu)["RIP"]
        cpu.run(1)
