"""A processor with some code, data and a stack, for tests of the engine."""

from __future__ import annotations

import iced_x86
from keystone import KS_ARCH_X86, KS_MODE_64, Ks

from emulator.engines import processor
from emulator.memory import Memory, Prot
from emulator.registers import Registers
from emulator.unicorn_cpu import UnicornCpu

CODE = 0x400000
CODE_END = 0x402000
DATA = 0x600000
DATA_END = 0x604000
CONSTANTS = 0x610000
STACK = 0x7F0000000000
STACK_END = STACK + 0x10000


def assemble(text: str) -> bytes:
    """Machine code of text in Intel syntax that is to lie at CODE."""
    return bytes(Ks(KS_ARCH_X86, KS_MODE_64).asm(text, CODE)[0])


def small_cpu(
    text: str | bytes,
    *,
    counting: str | None = None,
    code: Prot = Prot.RX,
    engine: str = "unicorn",
    **registers: int,
) -> UnicornCpu:
    """A processor about to execute `text`, with a guard page below its stack."""
    memory = Memory()
    memory.map("text", CODE, CODE_END - CODE, code)
    memory.map("data", DATA, DATA_END - DATA, Prot.RW)
    memory.map("constants", CONSTANTS, 0x1000, Prot.READ)
    memory.map("guard", STACK - 0x1000, 0x1000, Prot.NONE)
    memory.map("stack", STACK, STACK_END - STACK, Prot.RW)
    memory.write(CODE, text if isinstance(text, bytes) else assemble(text))
    cpu = (
        processor(memory, "native") if engine == "native" else UnicornCpu(memory, counting=counting)
    )
    block = Registers()
    block["RIP"] = CODE
    block["RSP"] = STACK_END - 0x100
    for name, value in registers.items():
        block[name] = value
    cpu.load(block)
    return cpu


def counted_cpu(text: str, **registers: int) -> UnicornCpu:
    """small_cpu on the real processor, at full speed where that is possible and worth it."""
    cpu = small_cpu(text, engine="native", **registers)
    code = cpu.memory.read(CODE, CODE_END - CODE).rstrip(b"\0")
    decoder = iced_x86.Decoder(64, code, ip=CODE)
    cpu.load_code([(i.ip, cpu.memory.read(i.ip, i.len)) for i in decoder if not i.is_invalid])
    return cpu


def state(cpu: UnicornCpu) -> Registers:
    """A copy of all registers."""
    registers = Registers()
    cpu.save(registers)
    return registers
