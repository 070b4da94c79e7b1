"""The loops that are timed, and processors about to run them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import iced_x86
from keystone import KS_ARCH_X86, KS_MODE_64, Ks

from emulator.memory import Memory, Prot
from emulator.native.cpu import NativeCpu
from emulator.registers import Registers
from emulator.unicorn_cpu import UnicornCpu

if TYPE_CHECKING:
    from emulator.cpu import Cpu

CODE: Final = 0x40_0000
STACK: Final = 0x7F_0000_0000
STACK_SIZE: Final = 0x1_0000
RSP: Final = STACK + STACK_SIZE - 0x100

# examples/golang_nuts.s: the loop of the golang-nuts thread, as Go compiles it without
# optimisation; the other has no memory operand and blocks of two instructions and more.
LOOPS: Final = {
    "golang-nuts": """
            mov     qword ptr [rsp + 8], 0
            mov     qword ptr [rsp + 16], 0
    test:   cmp     qword ptr [rsp + 16], 0x7fffffff
            jl      body
            jmp     done
    body:   mov     rax, [rsp + 8]
            add     rax, 2
            mov     [rsp + 8], rax
            jmp     next
    next:   mov     rax, [rsp + 16]
            inc     rax
            mov     [rsp + 16], rax
            jmp     test
    done:   syscall
    """,
    "registers": """
    again:  add     rax, rcx
            jmp     next
    next:   xor     rdx, rax
            dec     rcx
            jnz     again
            syscall
    """,
}
# Loops of five instructions on what emulator.fence lets through, watches or does itself. RBX points
# to the stack; RCX is the number of rounds.
FENCED: Final = {
    "LOCK XADD": "mov eax, [rbx]; lock xadd [rbx], edx; lea rsi, [rdx]",
    "LOCK CMPXCHG": "mov eax, [rbx]; lock cmpxchg [rbx], edx; lea rsi, [rdx]",
    "LOCK CMPXCHG, RAX with an upper half":
        "bts rax, 40; lock cmpxchg [rbx + 8], ebp; lea rsi, [rdx]",
    "ADDPS, aligned": "mov eax, [rbx]; addps xmm0, [rbx]; lea rsi, [rdx]",
    "VMOVDQU YMM": "mov eax, [rbx]; .byte 0xc5, 0xfe, 0x6f, 0x0b; lea rsi, [rdx]",
}  # fmt: skip
FENCED_ROUND: Final = 5
LOOPS_OF_FENCED: Final = {
    name: f"again: {body}; dec rcx; jnz again; syscall" for name, body in FENCED.items()
}


def code(loop: str) -> bytes:
    """The machine code of a loop."""
    text = (LOOPS | LOOPS_OF_FENCED)[loop]
    return bytes(Ks(KS_ARCH_X86, KS_MODE_64).asm(text, CODE)[0])


def processor(loop: str, counting: str | None = None) -> UnicornCpu:
    """A processor at the start of a loop that takes longer than any measurement."""
    cpu = UnicornCpu(_memory(loop), counting=counting)
    _begin(cpu)
    return cpu


def real_processor(loop: str, *, counted: bool) -> NativeCpu:
    """The same on this host's own, which runs at full speed if it is `counted`."""
    cpu = NativeCpu(_memory(loop))
    if counted:
        text = code(loop)
        decoder = iced_x86.Decoder(64, text, ip=CODE)
        cpu.load_code((i.ip, text[i.ip - CODE :][: i.len]) for i in decoder)
    _begin(cpu)
    return cpu


def _memory(loop: str) -> Memory:
    memory = Memory()
    memory.map("text", CODE, 0x1000, Prot.RX)
    memory.map("stack", STACK, STACK_SIZE, Prot.RW)
    memory.write(CODE, code(loop))
    return memory


def _begin(cpu: Cpu) -> None:
    registers = Registers()
    registers["RIP"], registers["RSP"], registers["RCX"] = CODE, RSP, 1 << 40
    registers["RBX"] = RSP
    cpu.load(registers)
