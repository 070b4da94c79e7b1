"""Frames hold what single steps show, in lists by PC; Python records what machine code records."""

from __future__ import annotations

import pytest
from hook_text import assert_words
from keystone import KS_ARCH_X86, KS_MODE_64, Ks
from small_cpu import CODE, STACK, STACK_END, small_cpu

from emulator import frame_recorder, frames, hooks
from emulator.frame_recorder import FRAME_TEXT, FrameRecorder, Word
from emulator.frames import Frames, poison
from emulator.registers import LAYOUT, SIZE, Registers

COUNTING = [None, "machine-code", "python"]
TEXT = """
    l: add rax, 3; push rax; adc rdx, rax; movq xmm3, rax; pop rbx; mov [rsp - 8], rcx
    dec ecx; jnz l; mov rsp, rdi; nop; nop; ud2
"""


def recorded(
    counting: str | None, share: tuple[int, int] = (1, 1)
) -> tuple[Frames, FrameRecorder, list[bytes]]:
    """47 boundaries, some of them on another stack; and each frame's bytes but its link."""
    cpu = small_cpu(TEXT, counting=counting, RCX=5, RDI=STACK + 64, RSP=STACK_END - 40)
    room = Frames(64)
    recorder = FrameRecorder(cpu, room, (CODE, 0x100), (STACK, STACK_END), 256, share)
    recorder.begin(1000, 1000 * share[0] // share[1])
    with recorder:
        cpu.run(20)
        cpu.run(22)
    count = (recorder.words[Word.NEXT] - room.base) // frames.FRAME
    return room, recorder, [content(room, slot) for slot in range(count)]


def content(room: Frames, slot: int) -> bytes:
    start = slot * frames.FRAME
    data = bytearray(room.view[start : start + frames.FRAME])
    used = int.from_bytes(data[frames.WORDS : frames.WORDS + 8], "little")
    data[frames.NEXT : frames.NEXT + 8] = bytes(8)
    return bytes(data[: frames.WINDOW + 8 * used])


@pytest.mark.parametrize("counting", COUNTING)
def test_a_frame_holds_the_state_of_a_single_step_and_the_stack(counting: str | None) -> None:
    room, recorder, _ = recorded(counting)
    stepped = small_cpu(TEXT, counting="machine-code", RCX=5, RDI=STACK + 64, RSP=STACK_END - 40)
    for slot in range(42):
        expected = Registers()
        stepped.save(expected)
        address = room.address(slot)
        assert room.registers(address) == expected
        assert room.index(address) == 1000 + slot
        if expected["RSP"] >= STACK + 256:
            size = STACK_END - expected["RSP"]
            assert room.window(address) == stepped.memory.read(expected["RSP"], size)[:496]
        else:
            assert room.window(address) == b""
        stepped.run(1)
    lists, odd = recorder.take()
    assert [room.index(address) for address in odd] == [1041]
    seen = sorted(room.index(address) for each in lists for address in room.walk(each))
    assert seen == list(range(1000, 1041))
    for each in lists:
        assert {room.pc(address) for address in room.walk(each)} == {each.pc}
        assert list(room.walk(each))[-1] == each.tail
    assert recorder.take() == ([], [])


@pytest.mark.parametrize("share", [(1, 1), (1, 3), (5, 7)])
def test_python_records_what_machine_code_records(share: tuple[int, int]) -> None:
    kinds = [recorded(counting, share) for counting in COUNTING]
    assert kinds[0][2] == kinds[1][2] == kinds[2][2]
    assert len(kinds[0][2]) == 1042 * share[0] // share[1] - 1000 * share[0] // share[1]
    taken = [recorder.take() for _, recorder, _ in kinds]
    numbers = [
        [[room.index(a) for a in room.walk(each)] for each in lists]
        for (room, _, _), (lists, _) in zip(kinds, taken, strict=True)
    ]
    assert numbers[0] == numbers[1] == numbers[2]


@pytest.mark.parametrize("counting", COUNTING)
def test_the_poison_is_no_part_of_a_register(counting: str | None) -> None:
    text = "nop; nop; nop; nop; ud2"
    cpu = small_cpu(
        text, counting=counting, RBX=0xDBDB_DBDB << 32, R9=0x2424_2424, XMM7=0x2525_2525 << 96
    )
    room = Frames(8)
    with FrameRecorder(cpu, room, (CODE, 0x100), (STACK, STACK_END), 256):
        cpu.run(4)
    found = [
        bytes(room.view[at : at + 8]) for at in range(frames.POISON, 4 * frames.FRAME, frames.FRAME)
    ]
    assert found == [8 * b"\xdc", 8 * b"\x26"] * 2
    for slot in range(4):
        block = room.registers(room.address(slot)).block
        assert poison(slot, block) * 8 == found[slot]


def test_the_frame_hook_is_its_assembly_and_uses_the_words_that_it_names() -> None:
    lines = [line.partition(";") for line in FRAME_TEXT.splitlines()]
    code = bytes(Ks(KS_ARCH_X86, KS_MODE_64).asm("\n".join(line[0] for line in lines))[0])
    assert code == frame_recorder.FRAME_CODE
    for word, instruction in assert_words(FRAME_TEXT, Word):
        if word == "RECORD_BLOCK":
            assert f"+ {hooks.Field[word] * 8}]" in instruction
        else:
            assert word == "GOLDEN"
            assert f"{frames.GOLDEN:#x} " in instruction
    for name in ("WORDS", "POISON", "INDEX", "NEXT", "WINDOW"):
        assert f"[rdx + {getattr(frames, name)}]" in FRAME_TEXT
    assert f"mov     ecx, {SIZE // 8}\n" in FRAME_TEXT
    assert f"cmp     rcx, {frames.WINDOW_WORDS}\n" in FRAME_TEXT
    assert f", {frames.FRAME}  " in FRAME_TEXT
    assert f"mov     eax, {LAYOUT['XMM0'][0]}\n" in FRAME_TEXT
    assert f"cmp     eax, {SIZE}\n" in FRAME_TEXT
    assert frame_recorder._ROW == 1 << 4
