"""The machine code that records: registers before each instruction, and what stores overwrite.

It is entered from the CODE hook of emulator.hooks with its arguments (RDI = engine, RSI = address,
RCX = control block), for each instruction that is counted. The record block, whose words `Word`
names, says where everything lies; its address is in the control block's word RECORD_BLOCK. A record
is a bitmap of 128 bits, one for each 64-bit word of Registers.block, and the words that differ from
those of the record before.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from emulator.registers import SIZE

WORDS: Final = SIZE // 8
BITMAP: Final = 16
LONGEST: Final = BITMAP + SIZE  # bytes of a record
STORE: Final = 32  # bytes of a store: record, address, size, up to 8 bytes that it overwrites


class Word(IntEnum):
    """Indices of the record block's 64-bit words; the machine code has them times 8."""

    FRAME = 0  # address of the present registers; those of the last record lie behind them
    NUMBERS = 1  # arguments of uc_reg_read_batch
    PLACES = 2
    COUNT = 3
    READ_BATCH = 4  # addresses of functions
    MEM_READ = 5
    NEXT = 6  # where the next record goes
    RECORDS = 7  # how many there are, since the recording began
    NEXT_STORE = 8
    LAST_STORE = 9  # no store may be written from here on
    LOST = 10  # stores that had no room


RECORD_TEXT: Final = """
        push    rbx
        mov     rbx, [rcx + 168]            ; RECORD_BLOCK
        mov     rax, [rbx]                  ; FRAME
        mov     [rax + 128], rsi
        mov     rsi, [rbx + 8]              ; NUMBERS
        mov     rdx, [rbx + 16]             ; PLACES
        mov     rcx, [rbx + 24]             ; COUNT
        call    qword ptr [rbx + 32]        ; READ_BATCH
        mov     rsi, [rbx]                  ; FRAME
        lea     rdi, [rsi + 560]
        mov     r8, [rbx + 48]              ; NEXT
        lea     r9, [r8 + 16]
        mov     qword ptr [r8], 0
        mov     qword ptr [r8 + 8], 0
        xor     r10d, r10d
    compare:
        mov     rax, [rsi + r10 * 8]
        cmp     rax, [rdi + r10 * 8]
        je      same
        mov     [rdi + r10 * 8], rax
        mov     [r9], rax
        add     r9, 8
        bts     qword ptr [r8], r10
    same:
        inc     r10d
        cmp     r10d, 70
        jb      compare
        mov     [rbx + 48], r9              ; NEXT
        inc     qword ptr [rbx + 56]        ; RECORDS
        pop     rbx
        ret
"""
RECORD: Final = bytes.fromhex(
    "53488b99a8000000488b034889b080000000488b7308488b5310488b4b18ff5320488b33488dbe300200004c"
    "8b43304d8d481049c7000000000049c74008000000004531d24a8b04d64a3b04d7740f4a8904d74989014983"
    "c1084d0fab1041ffc24183fa4672de4c894b3048ff43385bc3"
)

# Before each store: RDI = engine, ESI = kind, RDX = address, ECX = size, R9 = record block.
STORE_TEXT: Final = """
        mov     rax, [r9 + 64]              ; NEXT_STORE
        cmp     rax, [r9 + 72]              ; LAST_STORE
        jae     lost
        mov     ecx, ecx
        mov     r8, [r9 + 56]               ; RECORDS
        mov     [rax], r8
        mov     [rax + 8], rdx
        mov     [rax + 16], rcx
        add     qword ptr [r9 + 64], 32     ; NEXT_STORE
        mov     rsi, rdx
        lea     rdx, [rax + 24]
        jmp     qword ptr [r9 + 40]         ; MEM_READ
    lost:
        inc     qword ptr [r9 + 80]         ; LOST
        ret
"""
STORE_CODE: Final = bytes.fromhex(
    "498b4140493b4148732189c94d8b41384c8900488950084889481049834140204889d6488d501841ff612849"
    "ff4150c3"
)
