"""The host's part of a batch: what happens between two frames, in machine code or in Python.

Called before marked instructions of asm/go/batch_amd64.s (RDI = engine, RSI = address, RCX = the
block whose words `Word` names). It compares what landed with its frame, overwrites what the frame
and its preemption left in memory, and sets up the next one, which would hide what was written to
its place out of turn: so it first sees that nothing was. The goroutine's stack and the guest's
variables are written where the engine has them mapped. The text says what the bytes are; a test
assembles it.
"""

from __future__ import annotations

import ctypes
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from emulator.frames import FRAME, NEXT, POISON, WINDOW, WORDS
from emulator.registers import ARITHMETIC_FLAGS, LAYOUT, SIZE

if TYPE_CHECKING:
    from collections.abc import Callable

CALL_SIZE: Final = 5  # of the CALL that stands where the snippet would go on


class Word(IntEnum):
    """Indices of the block's 64-bit words; the machine code has them times 8."""

    FRAME = 0  # host address of the frame that is being tried
    STATE = 1  # host addresses of the guest's variables: registers at the landing,
    LOAD = 2  # registers to begin with,
    OPPOSITE = 3  # and their complements
    DELTA = 4  # host address minus guest address of the goroutine's stack
    DEAD = 5  # words below RSP that are overwritten before each preemption
    VERDICT = 6  # host address of the guest's variable
    BASE = 7  # eight bytes that the stack holds when no frame is in it
    SCRATCH = 8  # host address of p.xRegs.scratch,
    CACHE = 9  # of the block that p.xRegs.cache names,
    AREA = 10  # and their size in words, 0 before Go 1.26
    CHANGED = 11  # whether the stack was not as it should have been before a frame came into it
    LAST_RSP = 12  # of the last frame for which that was looked at
    LAST_WORDS = 13
    # Of batch_native_amd64.s:
    CAUGHT = 14  # where the snippet's code has a CALL
    FEATURES = 15  # components of the extended state, as bits of XCR0
    LAST_EXTENDED = 16  # the image that was loaded last, or 0
    INITIAL = 17  # addresses of the image of the initial state,
    LANDED = 18  # and of the area that the landing's is stored in


class Verdict(IntEnum):
    """What the guest's code reads."""

    GO_ON = 0
    LOST = 1
    DONE = 2


STEP_TEXT: Final = """
    judge:
        mov     r10, rcx
        mov     r8, [rcx]                   ; FRAME
        mov     r9, [rcx + 8]               ; STATE
        mov     r11, [r8 + 32]
        add     qword ptr [r9 + 32], 8      ; the PC that CALL pushed
        cmp     r11, [r9 + 32]
        jne     lost
        mov     rax, [rcx + 32]             ; DELTA
        mov     rax, [rax + r11 - 8]
        sub     rax, 5                      ; CALL_SIZE
        mov     [r9 + 128], rax
        pxor    xmm0, xmm0
        xor     eax, eax
    registers:
        movdqu  xmm1, [r8 + rax]
        movdqu  xmm2, [r9 + rax]
        pxor    xmm1, xmm2
        por     xmm0, xmm1
        add     eax, 16
        cmp     eax, 144
        jne     others
        mov     eax, 304                    ; XMM0
    others:
        cmp     eax, 560
        jne     registers
        pxor    xmm1, xmm1
        pcmpeqb xmm0, xmm1
        pmovmskb eax, xmm0
        cmp     eax, 0xffff
        jne     lost
        mov     eax, [r8 + 160]             ; MXCSR
        cmp     eax, [r9 + 160]
        jne     lost
        mov     rdi, [r10 + 32]             ; DELTA
        add     rdi, r11
        lea     rsi, [r8 + 608]
        mov     rcx, [r8 + 568]             ; WORDS
        cmp     eax, eax
        repe    cmpsq
        je      leave
    lost:
        mov     rax, [r10 + 48]             ; VERDICT
        mov     qword ptr [rax], 1
        ret
    next:
        mov     r10, rcx
        mov     r8, [rcx]                   ; FRAME
        mov     r11, [r8 + 32]
    leave:
        mov     rcx, [r10 + 40]             ; DEAD
        lea     rdx, [rcx * 8]
        mov     rdi, [r10 + 32]             ; DELTA
        add     rdi, r11
        sub     rdi, rdx
        add     rcx, [r8 + 568]             ; WORDS
        mov     rax, [r10 + 56]             ; BASE
        rep     stosq
        mov     rdi, [r10 + 64]             ; SCRATCH
        mov     rcx, [r10 + 80]             ; AREA
        rep     stosq
        mov     r8, [r8 + 560]              ; NEXT
        mov     [r10], r8                   ; FRAME
        test    r8, r8
        jz      done
        jmp     set
    begin:
        mov     r10, rcx
        mov     r8, [rcx]                   ; FRAME
    set:
        mov     r11, [r8 + 32]
        mov     rcx, [r8 + 568]             ; WORDS
        cmp     r11, [r10 + 96]             ; LAST_RSP
        jne     clean
        cmp     rcx, [r10 + 104]            ; LAST_WORDS
        je      cleaned
    clean:
        mov     [r10 + 96], r11             ; LAST_RSP
        mov     [r10 + 104], rcx            ; LAST_WORDS
        mov     rdi, [r10 + 40]             ; DEAD
        add     rcx, rdi
        shl     rdi, 3
        neg     rdi
        add     rdi, r11
        add     rdi, [r10 + 32]             ; DELTA
        mov     rax, [r10 + 56]             ; BASE
        repe    scasq
        je      cleaned
        mov     qword ptr [r10 + 88], 1     ; CHANGED
    cleaned:
        mov     rsi, r8
        mov     rdi, [r10 + 16]             ; LOAD
        mov     ecx, 70
        rep     movsq
        mov     rdx, [r10 + 24]             ; OPPOSITE
        pcmpeqd xmm0, xmm0
        xor     eax, eax
    opposite:
        movdqu  xmm1, [r8 + rax]
        pxor    xmm1, xmm0
        movdqu  [rdx + rax], xmm1
        add     eax, 16
        cmp     eax, 560
        jne     opposite
        mov     rax, [r8 + 136]
        xor     rax, 0x8d5                  ; ARITHMETIC_FLAGS
        mov     [rdx + 136], rax
        mov     rcx, [r10 + 40]             ; DEAD
        lea     rdx, [rcx * 8]
        mov     rdi, [r10 + 32]             ; DELTA
        add     rdi, [r8 + 32]
        sub     rdi, rdx
        mov     rax, [r8 + 576]             ; POISON
        rep     stosq
        lea     rsi, [r8 + 608]
        mov     rcx, [r8 + 568]             ; WORDS
        rep     movsq
        mov     rdi, [r10 + 64]             ; SCRATCH
        mov     rcx, [r10 + 80]             ; AREA
        rep     stosq
        mov     rax, [r10 + 48]             ; VERDICT
        mov     qword ptr [rax], 0
        ret
    done:
        mov     rax, [r10 + 48]             ; VERDICT
        mov     qword ptr [rax], 2
        ret
    save:
        mov     rdx, rcx
        mov     rsi, [rdx + 64]             ; SCRATCH
        mov     rdi, [rdx + 72]             ; CACHE
        mov     rcx, [rdx + 80]             ; AREA
        rep     movsq
        mov     rax, [rdx]                  ; FRAME
        mov     rax, [rax + 576]            ; POISON
        mov     rdi, [rdx + 64]             ; SCRATCH
        mov     rcx, [rdx + 80]             ; AREA
        rep     stosq
        ret
"""
STEP: Final = bytes.fromhex(
    "4989ca4c8b014c8b49084d8b582049834120084d3b59200f8583000000488b41204a8b4418f84883e8054989"
    "8180000000660fefc031c0f3410f6f0c00f3410f6f1401660fefca660febc183c0103d900000007505b83001"
    "00003d3002000075d6660fefc9660f74c1660fd7c03dffff0000752c418b80a0000000413b81a0000000751c"
    "498b7a204c01df498db060020000498b883802000039c0f348a77416498b423048c70001000000c34989ca4c"
    "8b014d8b5820498b4a28488d14cd00000000498b7a204c01df4829d749038838020000498b4238f348ab498b"
    "7a40498b4a50f348ab4d8b80300200004d89024d85c00f84dc000000eb064989ca4c8b014d8b5820498b8838"
    "0200004d3b5a607506493b4a68742e4d895a6049894a68498b7a284801f948c1e70348f7df4c01df49037a20"
    "498b4238f348af740849c74258010000004c89c6498b7a10b946000000f348a5498b5218660f76c031c0f341"
    "0f6f0c00660fefc8f30f7f0c0283c0103d3002000075e7498b80880000004835d50800004889828800000049"
    "8b4a28488d14cd00000000498b7a20490378204829d7498b8040020000f348ab498db060020000498b883802"
    "0000f348a5498b7a40498b4a50f348ab498b423048c70000000000c3498b423048c70002000000c34889ca48"
    "8b7240488b7a48488b4a50f348a5488b02488b8040020000488b7a40488b4a50f348abc3"
)
ENTRIES: Final = {"judge": 0, "next": 172, "begin": 250, "save": 480}  # offsets in it


def python_steps(words: memoryview[int]) -> dict[str, Callable[[], None]]:
    """What the machine code does, as functions by entry."""

    def memory(address: int, size: int) -> memoryview:
        return memoryview((ctypes.c_char * size).from_address(address)).cast("B")

    def frame_word(offset: int) -> int:
        return int.from_bytes(memory(words[Word.FRAME] + offset, 8), "little")

    def put(address: int, value: int) -> None:
        memory(address, 8)[:] = (value % 2**64).to_bytes(8, "little")

    def fill(address: int, count: int, value: int) -> None:
        memory(address, 8 * count)[:] = value.to_bytes(8, "little") * count

    def stack() -> int:
        return (words[Word.DELTA] + frame_word(LAYOUT["RSP"][0])) % 2**64

    def same() -> bool:
        frame = memory(words[Word.FRAME], FRAME)
        state = memory(words[Word.STATE], SIZE)
        rsp = slice(LAYOUT["RSP"][0], LAYOUT["RSP"][0] + 8)
        rip = slice(LAYOUT["RIP"][0], LAYOUT["RIP"][0] + 8)
        pushed = int.from_bytes(state[rsp], "little") + 8
        state[rsp] = pushed.to_bytes(8, "little")
        if frame[rsp] != state[rsp]:
            return False
        landed = int.from_bytes(memory(stack() - 8, 8), "little") - CALL_SIZE
        state[rip] = (landed % 2**64).to_bytes(8, "little")
        used = 8 * frame_word(WORDS)
        return (
            frame[:144] == state[:144]
            and frame[304:SIZE] == state[304:SIZE]
            and frame[160:164] == state[160:164]
            and memory(stack(), used) == frame[WINDOW : WINDOW + used]
        )

    def judge() -> None:
        if same():
            following()
        else:
            put(words[Word.VERDICT], Verdict.LOST)

    def following() -> None:
        dead, base = words[Word.DEAD], words[Word.BASE]
        fill(stack() - 8 * dead, dead + frame_word(WORDS), base)
        fill(words[Word.SCRATCH], words[Word.AREA], base)
        words[Word.FRAME] = frame_word(NEXT)
        if words[Word.FRAME]:
            begin()
        else:
            put(words[Word.VERDICT], Verdict.DONE)

    def look() -> None:
        rsp, used = frame_word(LAYOUT["RSP"][0]), frame_word(WORDS)
        if (rsp, used) != (words[Word.LAST_RSP], words[Word.LAST_WORDS]):
            words[Word.LAST_RSP], words[Word.LAST_WORDS] = rsp, used
            size = words[Word.DEAD] + used
            base = words[Word.BASE].to_bytes(8, "little")
            if memory(stack() - 8 * words[Word.DEAD], 8 * size) != base * size:
                words[Word.CHANGED] = 1

    def begin() -> None:
        look()
        frame = memory(words[Word.FRAME], FRAME)
        memory(words[Word.LOAD], SIZE)[:] = frame[:SIZE]
        memory(words[Word.OPPOSITE], SIZE)[:] = bytes(byte ^ 0xFF for byte in frame[:SIZE])
        flags = LAYOUT["RFLAGS"][0]
        put(words[Word.OPPOSITE] + flags, frame_word(flags) ^ ARITHMETIC_FLAGS)
        dead, used = words[Word.DEAD], 8 * frame_word(WORDS)
        fill(stack() - 8 * dead, dead, frame_word(POISON))
        memory(stack(), used)[:] = frame[WINDOW : WINDOW + used]
        fill(words[Word.SCRATCH], words[Word.AREA], frame_word(POISON))
        put(words[Word.VERDICT], Verdict.GO_ON)

    def save() -> None:
        area = 8 * words[Word.AREA]
        memory(words[Word.CACHE], area)[:] = memory(words[Word.SCRATCH], area)
        fill(words[Word.SCRATCH], words[Word.AREA], frame_word(POISON))

    return {"judge": judge, "next": following, "begin": begin, "save": save}
