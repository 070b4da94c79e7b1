"""The host's steps of a batch: bytes, text and words agree; Python does what machine code does."""

from __future__ import annotations

import dataclasses

import pytest
from hook_text import assert_words
from keystone import KS_ARCH_X86, KS_MODE_64, Ks

from asm.mkpreempt import stack_text, xregs_text
from asm.source import Source
from emulator import counting_cpu, frames
from emulator.extended_images import Images
from emulator.frames import Frames
from emulator.registers import ARITHMETIC_FLAGS, LAYOUT, SIZE, Registers
from pushcall.api import program
from pushcall.check import batch as batches
from pushcall.check.batch import Attempt, Batch
from pushcall.check.batch_hooks import CALL_SIZE, ENTRIES, STEP, STEP_TEXT, Word
from pushcall.check.native_batch import NativeBatch
from pushcall.snippet.side import Side
from runtime_model.policy import Policy

LINES = [line.partition(";") for line in STEP_TEXT.splitlines()]


def test_the_steps_are_their_assembly() -> None:
    assert assembled([line[0] for line in LINES]) == STEP
    for entry, offset in ENTRIES.items():
        marked = [f"{line[0]} .byte 0x90; ud2" if line[0].strip() == f"{entry}:" else line[0]
                  for line in LINES]  # fmt: skip
        assert assembled(marked).index(b"\x90\x0f\x0b") == offset


def assembled(lines: list[str]) -> bytes:
    return bytes(Ks(KS_ARCH_X86, KS_MODE_64).asm("\n".join(lines))[0])


def test_the_steps_use_the_words_and_offsets_that_they_name() -> None:
    assert_words(STEP_TEXT, Word)
    for name in ("NEXT", "WORDS", "POISON"):
        assert f"[r8 + {getattr(frames, name)}]" in STEP_TEXT
    assert f"lea     rsi, [r8 + {frames.WINDOW}]" in STEP_TEXT
    assert f"sub     rax, {CALL_SIZE} " in STEP_TEXT
    assert f"xor     rax, {int(ARITHMETIC_FLAGS):#x}" in STEP_TEXT
    assert f"mov     ecx, {SIZE // 8}\n" in STEP_TEXT
    assert f"cmp     eax, {LAYOUT['FS_BASE'][0]}\n" in STEP_TEXT
    assert f"mov     eax, {LAYOUT['XMM0'][0]} " in STEP_TEXT
    assert f"[r8 + {LAYOUT['MXCSR'][0]}]" in STEP_TEXT


TRAMPOLINES = {
    "1.22": (stack_text(), "1.22"),
    "1.27": (xregs_text(), "1.27"),
    "R9 is not restored": (stack_text().replace("\tMOVQ 56(SP), R9\n", ""), "1.22"),
    "returns 8 bytes further": (stack_text().replace("\tRET", "\tADDQ $8, 0(SP)\n\tRET"), "1.22"),
    "writes above RSP": (stack_text().replace("\tRET", "\tMOVQ $1, 8(SP)\n\tRET"), "1.22"),
    "another stack": (stack_text().replace("\tRET", "\tADDQ $8, SP\n\tRET"), "1.22"),
    "writes far above": (stack_text().replace("\tRET", "\tMOVB $1, 2000(SP)\n\tRET"), "1.22"),
    "never returns": (stack_text().replace("\tRET", "\tUNDEF"), "1.22"),
}
SNIPPET = '#include "textflag.h"\nTEXT main·main(SB), NOSPLIT, $4096-0\n\tNOP\n\tINCQ AX\n\tRET\n'


@pytest.mark.parametrize("name", TRAMPOLINES)
def test_python_steps_do_what_the_machine_code_does(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = tried(*TRAMPOLINES[name])
    monkeypatch.setattr(counting_cpu, "machine_code_hooks", lambda _: None)
    python = tried(*TRAMPOLINES[name])
    assert machine == python
    assert bool(machine.lost or machine.unjudged) == (not name.startswith("1."))


@pytest.mark.parametrize("chunk", [1009, 1013, 1019])
def test_a_batch_may_be_stopped_anywhere(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also right before an instruction at which the host steps in: then it does so once."""
    monkeypatch.setattr(batches, "CHUNK", chunk)
    assert tried(*TRAMPOLINES["1.22"], count=4000) == Attempt()
    lost = tried(*TRAMPOLINES["R9 is not restored"], count=100)
    assert (len(lost.lost), lost.unjudged) == (100, set())


def tried(text: str, go: str, count: int = 6, *, native: bool = False) -> Attempt:
    """What a batch says of that many frames at two neighbouring PCs."""
    loaded = program(SNIPPET, go=go).config
    config = dataclasses.replace(
        loaded, trampoline=Source("<text>", text), policy=Policy(force_preempt_ns=None)
    )
    side = Side(config)
    side.advance(0)
    room = Frames(count, Images(count) if native else None)
    registers, pc = side.registers, side.registers["RIP"]
    rsp = registers["RSP"] - 3000
    for slot in range(count):
        block = Registers(registers.block)
        block["RIP"] = pc + slot % 2
        block["RSP"] = rsp - 24 * (slot % 6)
        block["R9"], block["XMM7"] = slot, slot << 100
        window = bytes(range(slot % 6, slot % 6 + 8 * (slot % 6)))
        room.put(slot, 100 + slot, block.block, window, bytes([0x24 + slot % 6]))
    if native:
        return NativeBatch(side.rt, config.trampoline, room).attempt(room.listed(count))
    batch = Batch(side.rt, config.trampoline, room)
    assert batch.cpu.counting == side.machine.cpu.counting  # type: ignore[union-attr,attr-defined]
    return batch.attempt(room.listed(count))
