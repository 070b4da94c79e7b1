"""The real processor records what Unicorn records, and stops where it should not go on."""

from __future__ import annotations

import iced_x86
import pytest
from native_host import native_objection
from small_cpu import CODE, DATA, STACK, STACK_END, small_cpu

from emulator import frames
from emulator.frame_recorder import FrameRecorder
from emulator.frames import Frames
from emulator.native.probe import BLOCK, CODE_SIZE, CONTROL, LEFT, MAP, PROBE_TEXT, RECORD, START
from emulator.native.recorder import NativeRecorder
from emulator.registers import Registers

SIZE = 0x100
ROUNDS = 5
# Calls and returns, a relative operand, flags of all kinds, and vectors.
TEXT = """
    l: add rax, 3; push rax; adc rdx, rax; movq xmm3, rax; call f; pop rbx; mov [rsp - 8], rcx
    inc dword ptr [rip + d]; std; stc; cld; dec ecx; jnz l
    e: {last}; nop; nop; ud2
    f: movdqu [rsp - 24], xmm3; pxor xmm3, xmm5; cmp rax, rdx; jb g; neg rdx; g: ret
    .align 8
    d: .quad 1
"""


@pytest.fixture(autouse=True)
def _host() -> None:
    if objection := native_objection():
        pytest.skip(objection)


class Recorded:
    """A small machine, and what was recorded of it."""

    def __init__(self, last: str, *, native: bool) -> None:
        text = TEXT.format(last=last).replace("[rip + d]", f"[{DATA:#x}]")
        self.cpu = small_cpu(text, RCX=ROUNDS, RSP=STACK_END - 40, XMM5=1 << 100)
        self.frames = Frames(128)
        stack = (STACK, STACK_END)
        self.recorder = FrameRecorder(self.cpu, self.frames, (CODE, SIZE), stack, 256)
        self.recorder.begin(1000, 1000)
        self.registers = Registers()
        self.cpu.save(self.registers)
        if native:
            decoder = iced_x86.Decoder(64, self.cpu.memory.read(CODE, SIZE), ip=CODE)
            code = [(i.ip, self.cpu.memory.read(i.ip, i.len)) for i in decoder if not i.is_invalid]
            self.native = NativeRecorder(self.cpu.memory, self.recorder, code)

    def content(self) -> list[tuple[bytes, bytes, int]]:
        """Registers, window and poison of all frames, in order."""
        count = self.recorder.index - 1000
        found = []
        for slot in range(count):
            address = self.frames.address(slot)
            start = slot * frames.FRAME
            poison = bytes(self.frames.view[start + frames.POISON : start + frames.INDEX + 8])
            registers = bytes(self.frames.registers(address).block)
            found.append((registers + self.frames.window(address), poison, self.frames.pc(address)))
        return found

    def lists(self) -> list[tuple[int, int, int]]:
        lists, odd = self.recorder.take()
        assert not odd
        base = self.frames.base
        return [(each.pc, each.head - base, each.count) for each in lists]


def unicorn(last: str) -> Recorded:
    made = Recorded(last, native=False)
    with made.recorder:
        made.cpu.run(120)
    made.cpu.save(made.registers)
    return made


@pytest.mark.parametrize("last", ["cpuid", "mov rax, [0x10]", "rep movsb", "jmp rax", "ud2"])
def test_frames_are_those_of_unicorn_up_to_where_it_stops(last: str) -> None:
    other, mine = unicorn(last), Recorded(last, native=True)
    done = mine.native.run(mine.registers, 120)
    content = mine.content()
    assert done == len(content) > 20 * ROUNDS - 10
    assert content == other.content()[:done]
    following = other.content()[done:]
    assert not following or following[0][2] == mine.registers["RIP"]
    assert mine.cpu.memory.u64(DATA) == other.cpu.memory.u64(DATA)
    if not following:  # it faulted there on Unicorn, too
        assert mine.lists() == other.lists()
        assert mine.registers.diff(other.registers) == []


@pytest.mark.parametrize("count", [1, 7, 50])
def test_it_stops_after_a_count_and_goes_on(count: int) -> None:
    other, mine = unicorn("mov rax, [0x10]"), Recorded("mov rax, [0x10]", native=True)
    total = 0
    while done := mine.native.run(mine.registers, count):
        assert done <= count
        total += done
    assert mine.content() == other.content()
    assert total == len(other.content())


def test_it_does_nothing_in_memory_that_is_mapped_anew() -> None:
    mine = Recorded("cpuid", native=True)
    assert mine.native.run(mine.registers, 3) == 3
    region = mine.cpu.memory.find(DATA)
    assert region is not None
    mine.cpu.memory.unmap(region.start, region.size)
    mine.cpu.memory.map("data", region.start, region.size, region.prot)
    assert mine.native.run(mine.registers, 3) == 0


def test_the_probe_has_the_places_that_the_names_say() -> None:
    for word, name in ((LEFT, "LEFT"), (RECORD, "RECORD"), (START, "START"), (MAP, "MAP")):
        assert f"[{CONTROL + 8 * word:#x}]" in PROBE_TEXT, name
    assert f"[{CONTROL + 8 * CODE_SIZE:#x}]           ; SIZE" in PROBE_TEXT
    assert f"[{BLOCK + 128:#x}], rsi" in PROBE_TEXT
    for name in ("NEXT", "WORDS", "POISON", "INDEX", "EXTENDED"):
        assert f"[r14 + {getattr(frames, name)}]" in PROBE_TEXT
    assert f"rax + {frames.WINDOW}]" in PROBE_TEXT
    assert f", {frames.FRAME}  " in PROBE_TEXT
    assert f"mov     ecx, {frames.WINDOW_WORDS}\n" in PROBE_TEXT
