"""The hooks that a Unicorn engine calls while it runs, and the control block that they share.

They count instructions, stop the engine on exact boundaries and answer its TLB. On x86-64 hosts
with the System V calling convention that allow memory which is both writable and executable,
they are machine code (CODE hook: RDI = engine, RSI = address, EDX = size, RCX = user data) and
Python is never called on the way. Elsewhere the same rules run as Python functions, with the same
results, some hundred times slower. The bytes below are what `make generate` assembles from the text
above each (pushcall.check.mkhooks); starting needs no assembler, and this package imports none.

A byte of *marks* for every byte of executable memory says what is special about an instruction
that starts there. A mark is looked up before each instruction, so it costs nothing to have many.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import sys
from ctypes import CFUNCTYPE, POINTER, c_bool, c_int, c_uint32, c_uint64, c_void_p
from enum import IntEnum, IntFlag
from typing import TYPE_CHECKING, Any, Final

from emulator.memory import PRIVATE
from emulator.unicorn_raw import Register, TlbEntry, function_address

if TYPE_CHECKING:
    from collections.abc import Callable


class Mark(IntFlag):
    """What the marks of an address say. Memory that nobody touched reads 0: not examined."""

    GATE = 1
    WATCH = 2
    BREAK = 4
    REFUSED = 8
    FENCE = 16  # the engine must not execute it; the bytes say why
    REPEAT = 32  # a string instruction with REP
    ALONE = (
        64  # needs an exact count, or ends in an exception behind it: not run as part of a block
    )
    EXAMINED = 128


ARMED: Final = 0xBF  # marks that leave the fast path; EXAMINED counts when it is absent
DISARMED: Final = ARMED & ~(Mark.WATCH | Mark.BREAK)
STOPPING: Final = Mark.GATE | Mark.WATCH | Mark.BREAK | Mark.REFUSED | Mark.FENCE


class Reason(IntEnum):
    """Why a hook stopped the engine."""

    NONE = 0
    COUNT = 1
    MARK = 2
    SYSCALL = 3
    INTERRUPT = 4
    LOST = 5  # executing where no marks are kept: cannot be
    RAISED = 6  # a Python callback failed
    BLOCK = 7  # before a block that must be executed by single instructions
    GUARD = 8  # in a block, before an instruction that Unicorn would not execute exactly now


class Field(IntEnum):
    """Indices of the control block's 64-bit words; the machine code has them times 8."""

    LEFT = 0  # instructions that may still be executed
    RIP = 1  # where a CODE hook stopped
    REASON = 2
    MASK = 3  # ARMED or DISARMED
    PREVIOUS = 4  # the last instruction that was let through
    BASE = 5  # the executable range used last: start, size, address of the marks minus start
    SIZE = 6
    DELTA = 7
    EMU_STOP = 8  # addresses of functions
    REG_READ = 9
    EXAMINE = 10
    RANGES = 11  # address of the table of executable ranges (start, size, delta), size 0 at the end
    PAGES = 12  # address of the table of mapped ranges (start, size, protection), likewise
    SCRATCH = 13
    NUMBER = 14  # of the exception
    PAGE = 15  # the last page that the TLB asked for, and for which access
    ACCESS = 16
    MARKS = 17  # of the instruction that a CODE hook stopped at
    TABLE = 18  # address of the table of blocks
    BLOCK = 19  # address of the entry of the block that was let through last, 0 at first
    RECORD = 20  # address of what is called before each counted instruction, or 0
    RECORD_BLOCK = 21  # and of what it works on


# Before each instruction. A REP string instruction comes by once more after its last iteration,
# with RCX = 0, only to move on: no boundary of the processor, so it neither counts nor stops.
CODE_TEXT: Final = """
        mov     rax, rsi
        sub     rax, [rcx + 40]             ; BASE
        cmp     rax, [rcx + 48]             ; SIZE
        jae     search
    marks:
        mov     rax, [rcx + 56]             ; DELTA
        mov     al, [rax + rsi]
        xor     al, 0x80
        test    al, [rcx + 24]              ; MASK
        jnz     marked
    count:
        cmp     qword ptr [rcx], 0          ; LEFT
        je      spent
        dec     qword ptr [rcx]
        mov     [rcx + 32], rsi             ; PREVIOUS
        cmp     qword ptr [rcx + 160], 0    ; RECORD
        jne     record
        ret
    record:
        jmp     qword ptr [rcx + 160]       ; RECORD
    spent:
        mov     byte ptr [rcx + 16], 1      ; REASON = COUNT
        mov     [rcx + 8], rsi              ; RIP
        jmp     qword ptr [rcx + 64]        ; EMU_STOP
    marked:
        test    al, 0x80
        jz      examined
        push    rdi
        push    rsi
        push    rcx
        mov     rdi, rsi
        mov     esi, edx
        call    qword ptr [rcx + 80]        ; EXAMINE
        pop     rcx
        pop     rsi
        pop     rdi
        test    al, [rcx + 24]              ; MASK
        jz      count
    examined:
        mov     [rcx + 136], al             ; MARKS
        test    al, 0x20                    ; REPEAT
        jz      stopping
        cmp     rsi, [rcx + 32]             ; PREVIOUS
        jne     stopping
        push    rdi
        push    rsi
        push    rcx
        lea     rdx, [rcx + 104]            ; SCRATCH
        mov     esi, 38                     ; RCX
        call    qword ptr [rcx + 72]        ; REG_READ
        pop     rcx
        pop     rsi
        pop     rdi
        cmp     qword ptr [rcx + 104], 0    ; SCRATCH
        je      done
    stopping:
        mov     al, [rcx + 136]             ; MARKS
        and     al, [rcx + 24]              ; MASK
        and     al, 0x1f                    ; STOPPING
        jz      count
        cmp     qword ptr [rcx], 0          ; LEFT
        je      spent
        mov     byte ptr [rcx + 16], 2      ; REASON = MARK
        mov     [rcx + 8], rsi              ; RIP
        jmp     qword ptr [rcx + 64]        ; EMU_STOP
    done:
        ret
    search:
        mov     rax, [rcx + 88]             ; RANGES
    range:
        mov     r8, [rax + 8]
        test    r8, r8
        jz      lost
        mov     r9, rsi
        sub     r9, [rax]
        cmp     r9, r8
        jb      found
        add     rax, 24
        jmp     range
    found:
        mov     [rcx + 48], r8              ; SIZE
        mov     r8, [rax]
        mov     [rcx + 40], r8              ; BASE
        mov     r8, [rax + 16]
        mov     [rcx + 56], r8              ; DELTA
        jmp     marks
    lost:
        mov     byte ptr [rcx + 16], 5      ; REASON = LOST
        mov     [rcx + 8], rsi              ; RIP
        jmp     qword ptr [rcx + 64]        ; EMU_STOP
"""
CODE: Final = bytes.fromhex(
    "4889f0482b4128483b41300f8396000000488b41388a04303480844118752948833900741848ff0948897120"
    "4883b9a0000000007501c3ffa1a0000000c641100148897108ff6140a88074135756514889f789d6ff515059"
    "5e5f84411874c0888188000000a820741f483b71207519575651488d5168be26000000ff5148595e5f488379"
    "6800741e8a8188000000224118241f748a4883390074a2c641100248897108ff6140c3488b41584c8b40084d"
    "85c074294989f14c2b084d39c172064883c018ebe64c8941304c8b004c8941284c8b40104c894138e934ffff"
    "ffc641100548897108ff6140"
)

# Before each block: RDI = engine, RSI = address, EDX = size, RCX = user data. The table of blocks
# is indexed by address; an entry is address, size and number of instructions. What is not in it is
# counted by the lengths of its instructions, which lie behind the marks of their range. A block
# with an unknown instruction, or a marked one, or more instructions than are left, is not let
# through. A fence that GUARD_TEXT watches is none: it has GUARDED beside its length.
BLOCK_TEXT: Final = """
        mov     eax, esi
        and     eax, 0x1fff
        shl     eax, 5
        add     rax, [rcx + 144]            ; TABLE
        cmp     [rax], rsi
        jne     search
        cmp     [rax + 8], edx
        jne     search
    known:
        mov     r8, [rcx]                   ; LEFT
        sub     r8, [rax + 16]
        jb      slow
        mov     [rcx], r8                   ; LEFT
        mov     [rcx + 152], rax            ; BLOCK
        ret
    slow:
        mov     byte ptr [rcx + 16], 7      ; REASON = BLOCK
        mov     [rcx + 8], rsi              ; RIP
        jmp     qword ptr [rcx + 64]        ; EMU_STOP
    search:
        mov     r11, [rcx + 88]             ; RANGES
    range:
        mov     r10, [r11 + 8]
        test    r10, r10
        jz      slow
        mov     r9, rsi
        sub     r9, [r11]
        cmp     r9, r10
        jb      found
        add     r11, 24
        jmp     range
    found:
        mov     edx, edx
        add     r9, rdx
        cmp     r9, r10
        ja      slow
        mov     r8, [r11 + 16]
        add     r8, rsi
        lea     r9, [r8 + r10]
        push    rdi
        push    rbx
        push    rbp
        xor     r10d, r10d
        xor     r11d, r11d
        xor     ebx, ebx
    next:
        movzx   edi, byte ptr [r9 + r10]
        test    edi, edi
        jz      unknown
        movzx   ebp, byte ptr [r8 + r10]
        test    bpl, 0x80
        jz      unknown
        test    dil, 0x10                   ; GUARDED
        jz      unguarded
        and     dil, 0xf
        and     bpl, 0xef                   ; without FENCE
    unguarded:
        or      r11d, ebp
        inc     ebx
        add     r10d, edi
        cmp     r10d, edx
        jb      next
        jne     unknown
        test    r11b, 0x7f
        jnz     unknown
        mov     [rax], rsi
        mov     [rax + 8], rdx
        mov     [rax + 16], rbx
        pop     rbp
        pop     rbx
        pop     rdi
        jmp     known
    unknown:
        pop     rbp
        pop     rbx
        pop     rdi
        jmp     slow
"""
BLOCK: Final = bytes.fromhex(
    "89f025ff1f0000c1e005480381900000004839307524395008751f4c8b014c2b4010720b4c89014889819800"
    "0000c3c641100748897108ff61404c8b59584d8b53084d85d274e84989f14d2b0b4d39d172064983c318ebe6"
    "89d24901d14d39d177cd4d8b43104901f04f8d0c105753554531d24531db31db430fb63c1185ff7441430fb6"
    "2c1040f6c580743640f6c71074084080e70f4080e5ef4109ebffc34101fa4139d272d1751941f6c37f751348"
    "893048895008488958105d5b5fe959ffffff5d5b5fe965ffffff"
)
GUARDED: Final = 16  # in a byte of lengths, which are below it: a fence that GUARD_TEXT watches
LENGTH: Final = 15

# In a block, before a CMPXCHG of 32 bits: RDI = engine, RCX = user data. Unicorn would clear the
# upper half of RAX; where there is one, single instructions take over.
GUARD_TEXT: Final = """
        push    rdi
        push    rsi
        push    rcx
        lea     rdx, [rcx + 104]            ; SCRATCH
        mov     esi, 35                     ; RAX
        call    qword ptr [rcx + 72]        ; REG_READ
        pop     rcx
        pop     rsi
        pop     rdi
        cmp     dword ptr [rcx + 108], 0    ; the upper half of SCRATCH
        jne     stop
        ret
    stop:
        mov     byte ptr [rcx + 16], 8      ; REASON = GUARD
        jmp     qword ptr [rcx + 64]        ; EMU_STOP
"""
GUARD: Final = bytes.fromhex("575651488d5168be23000000ff5148595e5f83796c007501c3c6411008ff6140")
BLOCK_ENTRIES: Final = 8192
BLOCK_ENTRY: Final = 32  # bytes

# At a SYSCALL: RDI = engine, RSI = user data.
SYSCALL_TEXT: Final = """
        mov     byte ptr [rsi + 16], 3      ; REASON = SYSCALL
        jmp     qword ptr [rsi + 64]        ; EMU_STOP
"""
SYSCALL: Final = bytes.fromhex("c6461003ff6640")

# At an exception: RDI = engine, ESI = number, RDX = user data.
INTR_TEXT: Final = """
        mov     [rdx + 112], esi            ; NUMBER
        mov     byte ptr [rdx + 16], 4      ; REASON = INTERRUPT
        jmp     qword ptr [rdx + 64]        ; EMU_STOP
"""
INTR: Final = bytes.fromhex("897270c6421004ff6240")

# When a page is first accessed: RDI = engine, RSI = page, EDX = access, RCX = answer, R8 = user
# data. Pages are where they are; what is not executable says so, or each store would be slow.
TLB_FILL_TEXT: Final = """
        mov     [r8 + 120], rsi             ; PAGE
        mov     [r8 + 128], edx             ; ACCESS
        mov     rax, [r8 + 96]              ; PAGES
    range:
        mov     r9, [rax + 8]
        test    r9, r9
        jz      missing
        mov     r10, rsi
        sub     r10, [rax]
        cmp     r10, r9
        jb      found
        add     rax, 24
        jmp     range
    found:
        mov     [rcx], rsi
        mov     r9, [rax + 16]
        mov     [rcx + 8], r9d
        mov     eax, 1
        ret
    missing:
        xor     eax, eax
        ret
"""
TLB_FILL: Final = bytes.fromhex(
    "4989707841899080000000498b40604c8b48084d85c974224989f24c2b104d39ca72064883c018ebe6488931"
    "4c8b481044894908b801000000c331c0c3"
)


CODES: Final = {
    "CODE": CODE, "BLOCK": BLOCK, "GUARD": GUARD, "SYSCALL": SYSCALL, "INTR": INTR, "TLB": TLB_FILL,
}  # fmt: skip


class Control:
    """The control block: `words` indexed by Field, at host address `address`."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, mmap.PAGESIZE, flags=PRIVATE)
        self.words = memoryview(self.memory).cast("Q")
        self.address = host_address(memoryview(self.memory))
        self.words[Field.EMU_STOP] = function_address("uc_emu_stop")
        self.words[Field.REG_READ] = function_address("uc_reg_read")


def host_address(view: memoryview) -> int:
    """Where the buffer of a writable view lies in this process."""
    return ctypes.addressof(ctypes.c_char.from_buffer(view))


def machine_code_hooks(codes: dict[str, bytes]) -> tuple[mmap.mmap, dict[str, int]] | None:
    """Memory that holds machine code, and where each piece lies; None where that is impossible."""
    if sys.platform == "win32" or platform.machine() not in ("x86_64", "AMD64", "amd64"):
        return None
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    except OSError:
        return None
    base = host_address(memoryview(page))
    addresses = {}
    for name, code in codes.items():
        addresses[name] = base + page.tell()
        page.write(code.ljust(len(code) + -len(code) % 16, b"\xcc"))
    return page, addresses


CODE_HOOK = CFUNCTYPE(None, c_void_p, c_uint64, c_uint32, c_void_p)
_SYSCALL_HOOK = CFUNCTYPE(None, c_void_p, c_void_p)
_INTR_HOOK = CFUNCTYPE(None, c_void_p, c_uint32, c_void_p)
_TLB_HOOK = CFUNCTYPE(c_bool, c_void_p, c_uint64, c_int, POINTER(TlbEntry), c_void_p)


class PythonHooks:
    """The same rules as Python functions. The tables are read where the machine code reads them."""

    def __init__(self, control: Control, examine: Callable[[int, int], int]) -> None:
        words = control.words
        stop = ctypes.CFUNCTYPE(c_int, c_void_p)(words[Field.EMU_STOP])
        reg_read = ctypes.CFUNCTYPE(c_int, c_void_p, c_int, c_void_p)(words[Field.REG_READ])

        def lookup(table: int, address: int) -> int | None:
            row = (c_uint64 * 3).from_address(table)
            while row[1]:
                if 0 <= address - row[0] < row[1]:
                    return int(row[2])
                table += 24
                row = (c_uint64 * 3).from_address(table)
            return None

        def ends(engine: int, address: int, reason: Reason) -> None:
            words[Field.REASON] = reason
            words[Field.RIP] = address
            stop(engine)

        def on_code(engine: int, address: int, size: int, data: int) -> None:
            delta = lookup(words[Field.RANGES], address)
            if delta is None:
                ends(engine, address, Reason.LOST)
                return
            marks = ctypes.c_uint8.from_address((delta + address) % 2**64).value
            if not marks & Mark.EXAMINED:
                marks = examine(address, size)
            if marks & Mark.REPEAT and words[Field.PREVIOUS] == address:
                value = c_uint64()
                reg_read(engine, Register.RCX, ctypes.byref(value))
                if value.value == 0:
                    return
            stopping = marks & words[Field.MASK] & STOPPING
            if words[Field.LEFT] == 0:
                ends(engine, address, Reason.COUNT)
            elif stopping:
                words[Field.MARKS] = marks
                ends(engine, address, Reason.MARK)
            else:
                words[Field.LEFT] -= 1
                words[Field.PREVIOUS] = address
                if words[Field.RECORD]:
                    CODE_HOOK(words[Field.RECORD])(engine, address, size, data)

        def on_syscall(engine: int, _data: int) -> None:
            words[Field.REASON] = Reason.SYSCALL
            stop(engine)

        def on_interrupt(engine: int, number: int, _data: int) -> None:
            words[Field.NUMBER] = number
            words[Field.REASON] = Reason.INTERRUPT
            stop(engine)

        def on_tlb_fill(_engine: int, page: int, access: int, answer: Any, _data: int) -> bool:
            words[Field.PAGE] = page
            words[Field.ACCESS] = access
            protection = lookup(words[Field.PAGES], page)
            if protection is None:
                return False
            answer[0].paddr = page
            answer[0].perms = protection
            return True

        self._callbacks = {
            "CODE": CODE_HOOK(on_code),
            "SYSCALL": _SYSCALL_HOOK(on_syscall),
            "INTR": _INTR_HOOK(on_interrupt),
            "TLB": _TLB_HOOK(on_tlb_fill),
        }
        self.addresses = {
            name: ctypes.cast(callback, c_void_p).value or 0
            for name, callback in self._callbacks.items()
        }
