"""Asks a Go binary's own runtime.isAsyncSafePoint about PCs, in Unicorn.

The binary is mapped but not started: a g, m and p are laid out as the version's runtime has
them, as for a running user goroutine with stack room, and a loop of machine code calls the
function for each PC of a range and stores what it returns.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import capstone
import keystone
import unicorn
from capstone.x86 import X86_OP_MEM, X86_REG_RIP
from unicorn.x86_const import UC_X86_REG_FS_BASE, UC_X86_REG_RIP, UC_X86_REG_RSP

from runtime_model import layout

if TYPE_CHECKING:
    from runtime_model.moduledata import GoBinary

PAGE = 4096
BASE = 0x7000_0000_0000
G, GSIGNAL, M, P, STATE, CODE, TLS = (BASE + 0x10000 * i for i in range(7))
STACK = BASE + 0x100000
STACK_SIZE = 0x40000
OUT = BASE + 0x1000000
BATCH = 0x40000  # PCs a run
TIMEOUT = 300_000_000  # microseconds: a runtime that throws never returns
_Grunning = 2
_Prunning = 1
ASYNC_PREEMPT_STACK = 472

REGISTER_ABI = """
again:
    movabs r13, {state}
    movabs rax, {g}
    mov rbx, [r13]
    movabs rcx, {sp}
    xor edi, edi
    movabs r14, {gsignal}
    xorps xmm15, xmm15
    movabs rdx, {function}
    call rdx
    movabs r13, {state}
    mov rdx, [r13 + 16]
    mov [rdx], rbx
    movzx eax, al
    mov [rdx + 8], rax
    add qword ptr [r13 + 16], 16
    inc qword ptr [r13]
    mov rbx, [r13]
    cmp rbx, [r13 + 8]
    jb again
"""
STACK_ABI = """
again:
    movabs r13, {state}
    movabs rax, {g}
    mov [rsp], rax
    mov rbx, [r13]
    mov [rsp + 8], rbx
    movabs rcx, {sp}
    mov [rsp + 16], rcx
    mov qword ptr [rsp + 24], 0
    movabs rdx, {function}
    call rdx
    movabs r13, {state}
    mov rdx, [r13 + 16]
    mov rbx, [rsp + 40]
    movzx eax, byte ptr [rsp + 32]
    mov [rdx], rbx
    mov [rdx + 8], rax
    add qword ptr [r13 + 16], 16
    inc qword ptr [r13]
    mov rbx, [r13]
    cmp rbx, [r13 + 8]
    jb again
"""


def async_preempt_stack(binary: GoBinary) -> int:
    """The address of runtime.asyncPreemptStack: isAsyncSafePoint's only 8-byte compare with it.

    Stripped builds have no symbols, and their data lies elsewhere than in the unstripped ones.
    """
    function = binary.names["runtime.isAsyncSafePoint"]
    code = bytes(binary.code(function.entry, function.end))
    found = {
        function.entry + i.address + i.size + i.operands[k].mem.disp
        for i in disassembler().disasm(code, 0)
        if i.mnemonic == "cmp"
        for k in (0, 1)
        if i.operands[k].type == X86_OP_MEM
        and i.operands[k].size == 8
        and i.operands[k].mem.base == X86_REG_RIP
    }
    symbol = binary.elf.symbols.get("runtime.asyncPreemptStack")
    (address,) = found
    assert symbol is None or symbol[0] == address
    return address


def disassembler() -> capstone.Cs:
    engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    engine.detail = True
    return engine


class Oracle:
    """One binary's isAsyncSafePoint."""

    def __init__(self, binary: GoBinary) -> None:
        where = layout.load(binary.version.number)
        uc = self.uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        mapped = 0
        for segment in sorted(binary.elf.segments, key=lambda s: s.address):
            start = max(mapped, segment.address // PAGE * PAGE)
            mapped = max(mapped, (segment.address + segment.size + PAGE - 1) // PAGE * PAGE)
            if mapped > start:
                uc.mem_map(start, mapped - start)
            if segment.file_size:
                data = binary.elf.view(segment.address, segment.file_size)
                uc.mem_write(segment.address, bytes(data))
        uc.mem_map(BASE, 0x100000)
        uc.mem_map(STACK, STACK_SIZE)
        uc.mem_map(OUT, BATCH * 16)
        self.quad(async_preempt_stack(binary), ASYNC_PREEMPT_STACK)

        def put(base: int, struct_name: str, field: str, value: int) -> None:
            place = where.field(struct_name, field)
            uc.mem_write(base + place.offset, value.to_bytes(place.size, "little"))

        for g in (G, GSIGNAL):
            put(g, "g", "stack.lo", STACK)
            put(g, "g", "stack.hi", STACK + STACK_SIZE)
            put(g, "g", "stackguard0", STACK + 928)
            put(g, "g", "stackguard1", STACK + 928)
            put(g, "g", "m", M)
            put(g, "g", "atomicstatus", _Grunning)
        put(M, "m", "curg", G)
        put(M, "m", "gsignal", GSIGNAL)
        put(M, "m", "p", P)
        put(P, "p", "status", _Prunning)
        put(P, "p", "m", M)
        self.quad(TLS - 8, GSIGNAL)
        uc.reg_write(UC_X86_REG_FS_BASE, TLS)
        text = REGISTER_ABI if binary.version.register_abi else STACK_ABI
        text = text.format(
            state=STATE,
            g=G,
            gsignal=GSIGNAL,
            sp=STACK + STACK_SIZE // 2,
            function=binary.names["runtime.isAsyncSafePoint"].entry,
        )
        code, _ = keystone.Ks(keystone.KS_ARCH_X86, keystone.KS_MODE_64).asm(text, CODE)
        uc.mem_write(CODE, bytes(code))
        self.end = CODE + len(code)

    def quad(self, address: int, value: int) -> None:
        self.uc.mem_write(address, struct.pack("<Q", value))

    def ask(self, start: int, end: int) -> list[tuple[bool, int]]:
        """(safe, resume PC) of each PC of `[start, end)`; resume is 0 where it is not safe."""
        answers: list[tuple[bool, int]] = []
        for first in range(start, end, BATCH):
            last = min(end, first + BATCH)
            self.uc.mem_write(STATE, struct.pack("<QQQ", first, last, OUT))
            self.uc.reg_write(UC_X86_REG_RSP, STACK + STACK_SIZE - 1024)
            self.uc.emu_start(CODE, self.end, timeout=TIMEOUT)
            done = struct.unpack("<Q", self.uc.mem_read(STATE, 8))[0]
            rip = self.uc.reg_read(UC_X86_REG_RIP)
            assert (rip, done) == (self.end, last), f"at {rip:#x}, asked about {done:#x}"
            data = self.uc.mem_read(OUT, (last - first) * 16)
            answers += [(bool(safe), resume) for resume, safe in struct.iter_unpack("<QQ", data)]
        return answers
