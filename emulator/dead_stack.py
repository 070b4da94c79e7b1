"""Finds the instructions that read stack which was below RSP since it was last written.

What lies below RSP at a boundary may be overwritten there, by a signal's handler or by a call that
is made to look like one. An instruction depends on that if it reads a byte below RSP that it has
not written itself; or one above RSP that came there when RSP was lowered, and that nobody has
written since. A shadow byte for each byte of the stack says whether it was written since it was
last dead, and a word for each eight bytes at which boundary that was.

Machine code keeps the shadow, in hooks before each instruction, load and store; `Word` names the
words of the block that they share. Boundaries are the instructions of one range of code, numbered
from 0; loads and stores are looked at whoever makes them.
"""

from __future__ import annotations

import ctypes
import mmap
from enum import IntEnum
from typing import TYPE_CHECKING, Final, Self

from emulator.disassembly import memory_operands
from emulator.hooks import CODE_HOOK, Field, host_address, machine_code_hooks
from emulator.registers import Registers
from emulator.unicorn_raw import (
    CTL_TB_FLUSH,
    HOOK_MEM_READ,
    HOOK_MEM_WRITE,
    Register,
    function_address,
)

if TYPE_CHECKING:
    from emulator.counting_cpu import CountingCpu

FOUND: Final = 1 << 16  # loads that are remembered
PIECE: Final = 1 << 22  # instructions between two chances for Python to see a Ctrl-C


class Word(IntEnum):
    """Indices of the block's 64-bit words; the machine code has them times 8."""

    REG_READ = 0  # address of the function
    CODE = 1  # guest address of the code
    CODE_SIZE = 2
    INDEX = 3  # boundaries so far
    LOW = 4  # the stack: guest address
    STACK_SIZE = 5
    SHADOW = 6  # host address: 0xff for each byte that was written since it was last dead
    SINCE = 7  # host address: for each word, the last boundary at which it was dead
    NOW = 8  # where uc_reg_read puts RSP
    RSP = 9  # at the last boundary on this stack
    LAST = 10  # the number of that boundary
    LOWEST = 11  # the lowest address that was written since, or RSP
    NEXT = 12  # where the next load that was found goes
    END = 13  # and where there is no room any more
    LOST = 14  # how many had none


STEP_TEXT: Final = """
        push    rbx
        mov     rbx, [rcx + 168]            ; RECORD_BLOCK
        mov     rax, rsi
        sub     rax, [rbx + 8]              ; CODE
        cmp     rax, [rbx + 16]             ; CODE_SIZE
        jae     out
        inc     qword ptr [rbx + 24]        ; INDEX
        sub     rsp, 16
        lea     rdx, [rbx + 64]             ; NOW
        mov     esi, 44
        call    qword ptr [rbx]             ; REG_READ
        add     rsp, 16
        mov     rax, [rbx + 64]             ; NOW
        mov     rdx, rax
        sub     rdx, [rbx + 32]             ; LOW
        cmp     rdx, [rbx + 40]             ; STACK_SIZE
        ja      out
        mov     rsi, [rbx + 72]             ; RSP
        mov     r8, [rbx + 88]              ; LOWEST
        cmp     rax, rsi
        jae     risen
        mov     rcx, rsi
        sub     rcx, rax
        add     rcx, 15
        shr     rcx, 3
        and     rdx, -8
        mov     rdi, [rbx + 56]             ; SINCE
        add     rdi, rdx
        mov     r9, rax
        mov     rax, [rbx + 80]             ; LAST
        rep     stosq
        mov     rax, r9
        jmp     clear
    risen:
        cmp     rsi, r8
        jae     clear
        mov     r8, rsi
    clear:
        mov     [rbx + 72], rax             ; RSP
        mov     [rbx + 88], rax             ; LOWEST
        mov     rdx, [rbx + 24]             ; INDEX
        dec     rdx
        mov     [rbx + 80], rdx             ; LAST
        mov     rcx, rax
        sub     rcx, r8
        jbe     out
        mov     rdi, r8
        sub     rdi, [rbx + 32]             ; LOW
        add     rdi, [rbx + 48]             ; SHADOW
        xor     eax, eax
        rep     stosb
    out:
        pop     rbx
        ret
"""

# Before each load and store: RDI = engine, ESI = kind, RDX = address, ECX = size, R9 = block.
LOAD_TEXT: Final = """
        mov     rax, rdx
        sub     rax, [r9 + 32]              ; LOW
        cmp     rax, [r9 + 40]              ; STACK_SIZE
        jae     out
        mov     r10, [r9 + 48]              ; SHADOW
        add     r10, rax
        mov     r8, [r10]
        not     r8
        cmp     ecx, 8
        jae     whole
        mov     esi, ecx
        shl     ecx, 3
        neg     ecx
        shl     r8, cl
        shr     r8, cl
        mov     ecx, esi
    whole:
        test    r8, r8
        jnz     found
    out:
        ret
    found:
        mov     r11, [r9 + 24]              ; INDEX
        dec     r11
        cmp     rdx, [r9 + 72]              ; RSP
        mov     rsi, r11
        jb      note
        bsf     r8, r8
        shr     r8, 3
        add     rax, r8
        and     rax, -8
        add     rax, [r9 + 56]              ; SINCE
        mov     rsi, [rax]
        mov     rdi, r10
        mov     ecx, ecx
        mov     al, 0xff
        rep     stosb
    note:
        mov     rax, [r9 + 96]              ; NEXT
        cmp     rax, [r9 + 104]             ; END
        jae     lost
        mov     [rax], r11
        mov     [rax + 8], rsi
        add     qword ptr [r9 + 96], 16     ; NEXT
        ret
    lost:
        inc     qword ptr [r9 + 112]        ; LOST
        ret
"""
STORE_TEXT: Final = """
        mov     rax, rdx
        sub     rax, [r9 + 32]              ; LOW
        cmp     rax, [r9 + 40]              ; STACK_SIZE
        jae     out
        add     rax, [r9 + 48]              ; SHADOW
        cmp     rdx, [r9 + 88]              ; LOWEST
        jae     sizes
        mov     [r9 + 88], rdx              ; LOWEST
    sizes:
        cmp     ecx, 8
        jne     fewer
        mov     qword ptr [rax], -1
    out:
        ret
    fewer:
        mov     rdi, rax
        mov     ecx, ecx
        mov     al, 0xff
        rep     stosb
        ret
"""
STEP: Final = bytes.fromhex(
    "53488b99a80000004889f0482b4308483b43100f838f00000048ff43184883ec10488d5340be2c000000ff13"
    "4883c410488b43404889c2482b5320483b53287767488b73484c8b43584839f073284889f14829c14883c10f"
    "48c1e9034883e2f8488b7b384801d74989c1488b4350f348ab4c89c8eb084c39c673034989f0488943484889"
    "4358488b531848ffca488953504889c14c29c1760f4c89c7482b7b2048037b3031c0f3aa5bc3"
)
LOAD: Final = bytes.fromhex(
    "4889d0492b4120493b412873264d8b51304901c24d8b0249f7d083f908730f89cec1e103f7d949d3e049d3e8"
    "89f14d85c07501c34d8b591849ffcb493b51484c89de721f4d0fbcc049c1e8034c01c04883e0f84903413848"
    "8b304c89d789c9b0fff3aa498b4160493b4168730d4c8918488970084983416010c349ff4170c3"
)
STORE: Final = bytes.fromhex(
    "4889d0492b4120493b4128731a49034130493b515873044989515883f908750848c700ffffffffc34889c789"
    "c9b0fff3aac3"
)

_ACCESS_HOOK = ctypes.CFUNCTYPE(
    None,
    ctypes.c_void_p,
    ctypes.c_int,
    ctypes.c_uint64,
    ctypes.c_int,
    ctypes.c_int64,
    ctypes.c_void_p,
)


class DeadStack:
    """Watches one stack while a processor runs the code `[code, code + size)`, as a context.

    The processor is at the first boundary, with RSP as given; what lies above that is alive.
    """

    def __init__(
        self, cpu: CountingCpu, code: tuple[int, int], stack: tuple[int, int], rsp: int
    ) -> None:
        self._cpu = cpu
        self._block = memoryview(bytearray(8 * len(Word))).cast("Q")
        low, high = stack
        size = high - low
        self._shadow = memoryview(mmap.mmap(-1, size + 16))
        self._since = memoryview(mmap.mmap(-1, size + 16))
        self._found = memoryview(mmap.mmap(-1, 16 * FOUND)).cast("Q")
        self._shadow[rsp - low :] = b"\xff" * (len(self._shadow) - rsp + low)
        block = self._block
        block[Word.REG_READ] = function_address("uc_reg_read")
        block[Word.CODE], block[Word.CODE_SIZE] = code
        block[Word.LOW], block[Word.STACK_SIZE] = low, size
        block[Word.SHADOW] = host_address(self._shadow)
        block[Word.SINCE] = host_address(self._since)
        block[Word.RSP] = block[Word.LOWEST] = rsp
        block[Word.NEXT] = host_address(self._found.cast("B"))
        block[Word.END] = block[Word.NEXT] + 16 * FOUND
        codes = {"STEP": STEP, "LOAD": LOAD, "STORE": STORE}
        machine = machine_code_hooks(codes) if cpu.counting != "python" else None
        if machine is not None:
            self._kept: object = machine[0]
            self._addresses = machine[1]
        else:
            callbacks = (
                CODE_HOOK(self._on_instruction),
                _ACCESS_HOOK(lambda _e, _k, address, size, *_: self._on_load(address, size)),
                _ACCESS_HOOK(lambda _e, _k, address, size, *_: self._on_store(address, size)),
            )
            self._kept = callbacks
            self._addresses = {
                name: ctypes.cast(callback, ctypes.c_void_p).value or 0
                for name, callback in zip(codes, callbacks, strict=True)
            }

    def __enter__(self) -> Self:
        cpu, block = self._cpu, host_address(self._block.cast("B"))
        cpu.record(self)
        cpu.control.words[Field.RECORD_BLOCK] = block
        cpu.control.words[Field.RECORD] = self._addresses["STEP"]
        self._hooks = [
            cpu.engine.hook(HOOK_MEM_READ, self._addresses["LOAD"], block),
            cpu.engine.hook(HOOK_MEM_WRITE, self._addresses["STORE"], block),
        ]
        cpu.engine.control(CTL_TB_FLUSH)
        return self

    def __exit__(self, *_: object) -> None:
        self._cpu.control.words[Field.RECORD] = 0
        self._cpu.record(None)
        for hook in self._hooks:
            self._cpu.engine.unhook(hook)

    @property
    def boundaries(self) -> int:
        """How many there were so far."""
        return self._block[Word.INDEX]

    @property
    def lost(self) -> int:
        """Loads that were found and are not among `loads`."""
        return self._block[Word.LOST]

    def loads(self) -> set[tuple[int, int]]:
        """(boundary whose instruction read dead stack, last boundary at which it was dead)."""
        count = (self._block[Word.NEXT] - host_address(self._found.cast("B"))) // 8
        return set(zip(self._found[:count:2], self._found[1:count:2], strict=True))

    # What a processor asks of what records it.

    @property
    def room(self) -> int:
        """How many instructions may be executed in one go."""
        return PIECE

    def collect(self) -> None:
        """Nothing has to be emptied."""

    def drop(self) -> None:
        """The last instruction did not come to its end."""
        block = self._block
        inside = range(block[Word.CODE_SIZE])
        block[Word.INDEX] -= self._cpu.control.words[Field.PREVIOUS] - block[Word.CODE] in inside

    def note(self, engine: int, address: int) -> None:
        """Python is about to execute an instruction, whose accesses no hook sees."""
        self._on_instruction(engine, address, 0, 0)
        registers = Registers()
        self._cpu.save(registers)
        region = self._cpu.memory.find(address)
        assert region is not None
        start = address - region.start
        for place, size in memory_operands(bytes(region.view[start : start + 16]), registers):
            self._on_load(place, size)

    def note_extended(self, state: bytes) -> None:
        """Registers that no address is computed from."""

    def note_store(self, address: int, size: int) -> None:
        """A store that no hook sees."""
        self._on_store(address, size)

    def _on_instruction(self, engine: int, address: int, _size: int, _data: int) -> None:
        """What STEP_TEXT does."""
        block = self._block
        if not 0 <= address - block[Word.CODE] < block[Word.CODE_SIZE]:
            return
        block[Word.INDEX] += 1
        value = ctypes.c_uint64()
        read = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
        read(block[Word.REG_READ])(engine, Register.RSP, ctypes.byref(value))
        rsp, low = value.value, block[Word.LOW]
        if not 0 <= rsp - low <= block[Word.STACK_SIZE]:
            return
        before, lowest = block[Word.RSP], block[Word.LOWEST]
        if rsp < before:
            since = self._since.cast("Q")
            for word in range((rsp - low) // 8, (rsp - low) // 8 + (before - rsp + 15) // 8):
                since[word] = block[Word.LAST]
        else:
            lowest = min(lowest, before)
        block[Word.RSP] = block[Word.LOWEST] = rsp
        block[Word.LAST] = block[Word.INDEX] - 1
        if lowest < rsp:
            self._shadow[lowest - low : rsp - low] = bytes(rsp - lowest)

    def _on_load(self, address: int, size: int) -> None:
        """What LOAD_TEXT does."""
        block = self._block
        start = address - block[Word.LOW]
        if not 0 <= start < block[Word.STACK_SIZE]:
            return
        dead = bytes(self._shadow[start : start + min(size, 8)]).find(b"\0")
        if dead < 0:
            return
        index = since = block[Word.INDEX] - 1
        if address >= block[Word.RSP]:
            since = self._since.cast("Q")[(start + dead) // 8]
            self._shadow[start : start + size] = b"\xff" * size
        place = (block[Word.NEXT] - host_address(self._found.cast("B"))) // 8
        if block[Word.NEXT] >= block[Word.END]:
            block[Word.LOST] += 1
            return
        self._found[place], self._found[place + 1] = index, since
        block[Word.NEXT] += 16

    def _on_store(self, address: int, size: int) -> None:
        """What STORE_TEXT does."""
        block = self._block
        start = address - block[Word.LOW]
        if 0 <= start < block[Word.STACK_SIZE]:
            block[Word.LOWEST] = min(block[Word.LOWEST], address)
            self._shadow[start : start + size] = b"\xff" * size
