"""PCMPESTRI and PCMPESTRM on the real processor and on the engine: the same to the bit."""

from __future__ import annotations

import random

import pytest
from native_host import native_objection

from emulator.cpu import StopReason
from emulator.memory import Memory, Prot
from emulator.native.cpu import NativeCpu
from emulator.registers import Registers
from emulator.unicorn_cpu import UnicornCpu

CODE, DATA, SLOT = 0x10_0000, 0x20_0000, 16
TEXT = DATA + 3  # the second operand need not be aligned (SDM volume 2, 2.4, type 4)
# PCMPESTRM and PCMPESTRI, lengths of 32 and 64 bits, XMM3 against [RDI] and XMM4, every control
# byte.
FORMS = [
    b"\x66" + rex + b"\x0f\x3a" + opcode + operands + bytes([control])
    for opcode in (b"\x60", b"\x61")
    for rex in (b"", b"\x48")
    for operands in (b"\x1f", b"\xdc")
    for control in range(256)
]
LENGTHS = (*range(-18, 19), 255, 1 << 31, (1 << 31) + 3, (1 << 32) + 5, 1 << 63, -(1 << 32))


def string(rng: random.Random) -> int:
    """Few different elements, so that strings are found, or any."""
    alphabet = rng.choice((b"ab", b"\x00\x01\x7f\x80\xff", bytes(range(256))))
    return int.from_bytes(bytes(rng.choices(alphabet, k=16)), "little")


def test_every_control_byte_does_what_the_processor_does() -> None:
    if why := native_objection():
        pytest.skip(why)
    memory = Memory()
    memory.map("code", CODE, 0x10000, Prot.RX)
    memory.map("data", DATA, 0x1000, Prot.RW)
    memory.write(CODE, b"".join(form.ljust(SLOT, b"\x90") for form in FORMS))
    engine, native = UnicornCpu(memory), NativeCpu(memory)
    rng = random.Random(4)
    try:
        for number, form in enumerate(FORMS):
            start = Registers()
            start["RIP"], start["RDI"] = CODE + number * SLOT, TEXT
            start["RAX"], start["RDX"] = (rng.choice(LENGTHS) & 2**64 - 1 for _ in range(2))
            start["RCX"] = 2**64 - 1
            for name in ("XMM0", "XMM3", "XMM4"):
                start[name] = string(rng)
            memory.write(TEXT, start["XMM4"].to_bytes(16, "little"))
            after = []
            for cpu in (engine, native):
                cpu.load(start)
                assert cpu.run(1).reason is StopReason.COUNT
                after.append(Registers())
                cpu.save(after[-1])
            assert after[0].block == after[1].block, (form.hex(), start, after)
            assert after[0] != start
    finally:
        native.close()
