"""Records boundaries as frames, and links those of equal PC: Python does nothing for each.

The machine code is entered from the CODE hook of emulator.hooks with its arguments (RDI = engine,
RSI = address, RCX = control block), for each instruction that is counted; the record block, whose
words `Word` names, says where everything lies. Only instructions of one range of code count as
boundaries. Of all boundaries an even share may be taken.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
from enum import IntEnum
from typing import TYPE_CHECKING, Final, Self

from emulator.frames import FRAME, POISONS, FrameList, Frames, poison
from emulator.hooks import CODE_HOOK, Field, host_address, machine_code_hooks
from emulator.register_batch import RegisterBatch
from emulator.registers import LAYOUT
from emulator.unicorn_raw import function_address

if TYPE_CHECKING:
    from emulator.counting_cpu import CountingCpu
    from emulator.memory import Memory

_NOWHERE: Final = 2**64 - 1
_ROW: Final = 16  # bytes of the table: head of the list, number of frames


class Word(IntEnum):
    """Indices of the record block's 64-bit words; the machine code has them times 8."""

    BLOCK = 0  # address of the present registers
    NUMBERS = 1  # arguments of uc_reg_read_batch
    PLACES = 2
    COUNT = 3
    READ_BATCH = 4  # address of the function
    NEXT = 5  # where the next frame goes
    TABLE = 6  # address of a row for each byte of the code
    CODE = 7  # guest address of the code
    CODE_SIZE = 8
    INDEX = 9  # boundaries so far
    LISTS = 10  # where the address of the next list's first frame goes
    LOWEST = 11  # RSP of a frame that is linked: from here
    HIGH = 12  # to the end of the stack
    DELTA = 13  # host address minus guest address of the stack
    ODD = 14  # where the address of the next frame goes that is not linked
    POISON = 15  # or its complement
    SHARE = 16  # so many
    OF = 17  # of so many boundaries are taken
    SUM = 18
    EXTENDED = 19  # address of the image of what AVX adds, or 0


FRAME_TEXT: Final = """
        push    rbx
        mov     rbx, [rcx + 168]            ; RECORD_BLOCK
        mov     rax, rsi
        sub     rax, [rbx + 56]             ; CODE
        cmp     rax, [rbx + 64]             ; CODE_SIZE
        jae     out
        inc     qword ptr [rbx + 72]        ; INDEX
        mov     rdx, [rbx + 144]            ; SUM
        add     rdx, [rbx + 128]            ; SHARE
        mov     [rbx + 144], rdx            ; SUM
        sub     rdx, [rbx + 136]            ; OF
        jb      out
        mov     [rbx + 144], rdx            ; SUM
        push    rax
        push    rsi
        mov     rsi, [rbx + 8]              ; NUMBERS
        mov     rdx, [rbx + 16]             ; PLACES
        mov     rcx, [rbx + 24]             ; COUNT
        call    qword ptr [rbx + 32]        ; READ_BATCH
        pop     r8
        pop     r9
        mov     rsi, [rbx]                  ; BLOCK
        mov     [rsi + 128], r8
        mov     r10, [rsi + 32]
        mov     rdx, [rbx + 40]             ; NEXT
        mov     rdi, rdx
        mov     ecx, 70
        rep     movsq
        mov     rax, [rbx + 72]             ; INDEX
        dec     rax
        mov     [rdx + 584], rax
        mov     rcx, [rbx + 152]            ; EXTENDED
        mov     [rdx + 592], rcx
        mov     r8, [rbx + 120]             ; POISON
        mov     rcx, 0x9e3779b97f4a7c15     ; GOLDEN
        imul    rcx, rax
        test    rcx, rcx
        jns     search
        not     r8
    search:
        movq    xmm0, r8
        punpcklqdq xmm0, xmm0
        pxor    xmm2, xmm2
        xor     eax, eax
    fours:
        movdqu  xmm1, [rdx + rax]
        pcmpeqd xmm1, xmm0
        por     xmm2, xmm1
        add     eax, 16
        cmp     eax, 128
        jne     others
        mov     eax, 304
    others:
        cmp     eax, 560
        jne     fours
        pmovmskb eax, xmm2
        test    eax, eax
        jz      unlike
        inc     r8d
        movzx   r8d, r8b
        mov     rax, 0x0101010101010101
        imul    r8, rax
        jmp     search
    unlike:
        mov     [rdx + 576], r8
        cmp     r10, [rbx + 88]             ; LOWEST
        jb      odd
        mov     rcx, [rbx + 96]             ; HIGH
        sub     rcx, r10
        jbe     odd
        shr     rcx, 3
        cmp     rcx, 62
        jbe     window
        mov     ecx, 62
    window:
        mov     [rdx + 568], rcx
        lea     rdi, [rdx + 608]
        mov     rsi, r10
        add     rsi, [rbx + 104]            ; DELTA
        rep     movsq
        shl     r9, 4
        add     r9, [rbx + 48]              ; TABLE
        mov     rax, [r9]
        mov     [rdx + 560], rax
        mov     [r9], rdx
        inc     qword ptr [r9 + 8]
        test    rax, rax
        jnz     done
        mov     rax, [rbx + 80]             ; LISTS
        mov     [rax], rdx
        add     qword ptr [rbx + 80], 8     ; LISTS
    done:
        add     qword ptr [rbx + 40], 1104  ; NEXT
    out:
        pop     rbx
        ret
    odd:
        mov     qword ptr [rdx + 560], 0
        mov     qword ptr [rdx + 568], 0
        mov     rax, [rbx + 112]            ; ODD
        mov     [rax], rdx
        add     qword ptr [rbx + 112], 8    ; ODD
        jmp     done
"""
FRAME_CODE: Final = bytes.fromhex(
    "53488b99a80000004889f0482b4338483b43400f835501000048ff4348488b93900000004803938000000048"
    "899390000000482b93880000000f822f010000488993900000005056488b7308488b5310488b4b18ff532041"
    "584159488b334c8986800000004c8b5620488b53284889d7b946000000f348a5488b434848ffc84889824802"
    "0000488b8b9800000048898a500200004c8b437848b9157c4a7fb979379e480fafc84885c9790349f7d06649"
    "0f6ec0660f6cc0660fefd231c0f30f6f0c02660f76c8660febd183c0103d800000007505b8300100003d3002"
    "000075dd660fd7c285c0741741ffc0450fb6c048b801010101010101014c0fafc0ebaf4c8982400200004c3b"
    "53587264488b4b604c29d1765b48c1e9034883f93e7605b93e00000048898a38020000488dba600200004c89"
    "d648037368f348a549c1e1044c034b30498b014889823002000049891149ff41084885c0750c488b43504889"
    "10488343500848814328500400005bc348c782300200000000000048c7823802000000000000488b43704889"
    "104883437008ebd2"
)

_RIP: Final = LAYOUT["RIP"][0]
_ROWS: Final = struct.Struct("<QQ")


class FrameRecorder:
    """Records what a processor executes within `[code, code + size)`, as a context.

    `stack` is the range of addresses from which windows are copied; a boundary whose RSP is not
    within, or less than `room` bytes above its start, is recorded without one and not linked; nor
    is one at which AVX registers are in use, if `frames` has no room for their image.
    `share` says how many of how many boundaries are taken. The buffer must be emptied by `take`
    before `frames.count` boundaries have been recorded.
    """

    def __init__(
        self,
        cpu: CountingCpu,
        frames: Frames,
        code: tuple[int, int],
        stack: tuple[int, int],
        room: int,
        share: tuple[int, int] = (1, 1),
    ) -> None:
        self.frames = frames
        self._cpu = cpu
        self._batch = RegisterBatch()
        self._memory: Memory = cpu.memory
        self.code = code
        sizes = (8 * len(Word), code[1] * _ROW, 8 * frames.count, 8 * frames.count)
        self._hosts = [mmap.mmap(-1, size) for size in sizes]
        words, table, lists, odd = (memoryview(host) for host in self._hosts)
        self._table = table
        self.words, self._lists, self._odd = words.cast("Q"), lists.cast("Q"), odd.cast("Q")
        low, high = stack
        block = self.words
        block[Word.BLOCK] = host_address(self._batch.block)
        block[Word.NUMBERS], block[Word.PLACES], block[Word.COUNT] = self._batch.arguments
        block[Word.READ_BATCH] = function_address("uc_reg_read_batch")
        block[Word.TABLE] = host_address(self._table)
        block[Word.CODE], block[Word.CODE_SIZE] = code
        block[Word.LOWEST], block[Word.HIGH] = low + room, high
        self._lowest = low + room
        view, offset = self._memory.locate(low, 1)
        block[Word.DELTA] = (host_address(view) + offset - low) % 2**64
        block[Word.POISON] = int.from_bytes(bytes([POISONS[0]]) * 8, "little")
        block[Word.SHARE], block[Word.OF] = share
        self._state = b""
        self._empty()
        machine = machine_code_hooks({"FRAME": FRAME_CODE}) if cpu.counting != "python" else None
        if machine is not None:
            self._kept: object = machine[0]
            self._entry = machine[1]["FRAME"]
        else:
            callback = CODE_HOOK(self._on_instruction)
            self._kept = callback
            self._entry = ctypes.cast(callback, ctypes.c_void_p).value or 0

    def _empty(self) -> None:
        block = self.words
        block[Word.NEXT] = self.frames.base
        block[Word.LISTS] = host_address(self._lists.cast("B"))
        block[Word.ODD] = host_address(self._odd.cast("B"))

    def __enter__(self) -> Self:
        self._cpu.record(self)
        words = self._cpu.control.words
        words[Field.RECORD_BLOCK] = host_address(self.words.cast("B"))
        words[Field.RECORD] = self._entry
        return self

    def __exit__(self, *_: object) -> None:
        self._cpu.control.words[Field.RECORD] = 0
        self._cpu.record(None)

    def begin(self, index: int, taken: int) -> None:
        """Says which boundary comes next, and how many were taken before it."""
        self.words[Word.INDEX] = index
        self.words[Word.SUM] = index * self.words[Word.SHARE] - taken * self.words[Word.OF]

    @property
    def index(self) -> int:
        """The next boundary's number."""
        return self.words[Word.INDEX]

    def take(self) -> tuple[list[FrameList], list[int]]:
        """What was recorded: lists by PC, and the frames that are not linked. The room is free."""
        block, table, frames = self.words, self._table, self.frames
        lists = []
        for i in range((block[Word.LISTS] - host_address(self._lists.cast("B"))) // 8):
            tail = self._lists[i]
            pc = frames.pc(tail)
            row = (pc - block[Word.CODE]) * _ROW
            head, count = _ROWS.unpack_from(table, row)
            _ROWS.pack_into(table, row, 0, 0)
            lists.append(FrameList(pc, head, tail, count))
        odd = self._odd[: (block[Word.ODD] - host_address(self._odd.cast("B"))) // 8].tolist()
        self._empty()
        return lists, odd

    def hosts(self) -> list[mmap.mmap]:
        """All memory that FRAME_TEXT writes to."""
        return [*self._hosts, self.frames.host]

    def release(self) -> None:
        """What was taken is of no use any more."""
        if self.frames.images is not None:
            self.frames.images.clear()
            self.note_extended(self._state)

    # What a processor asks of what records it.

    @property
    def room(self) -> int:
        """How many instructions may be executed before `take` must be called."""
        return self.frames.count - (self.words[Word.NEXT] - self.frames.base) // FRAME

    def collect(self) -> None:
        """The processor has no room left to record in."""
        raise RuntimeError("more boundaries were recorded than there are frames for")

    def drop(self) -> None:
        """The last instruction did not come to its end."""
        self.drop_at(self._cpu.control.words[Field.PREVIOUS])

    def drop_at(self, pc: int) -> None:
        """The last instruction, at this PC, did not come to its end."""
        block, frames = self.words, self.frames
        if pc - block[Word.CODE] not in range(block[Word.CODE_SIZE]):
            return
        block[Word.INDEX] -= 1
        place = block[Word.NEXT] - FRAME
        taken = place >= frames.base and frames.index(place) == block[Word.INDEX]
        block[Word.SUM] += (block[Word.OF] if taken else 0) - block[Word.SHARE]
        if not taken:
            return
        block[Word.NEXT] = place
        row = (frames.pc(place) - block[Word.CODE]) * _ROW
        head, count = _ROWS.unpack_from(self._table, row)
        if head != place:
            block[Word.ODD] -= 8
            return
        following = frames.next(place)
        _ROWS.pack_into(self._table, row, following, count - 1)
        if not following:
            block[Word.LISTS] -= 8

    def note(self, engine: int, address: int) -> None:
        """Records an instruction that Python is about to execute."""
        self._on_instruction(engine, address, 0, 0)

    def note_extended(self, state: bytes) -> None:
        """Without an image of what AVX adds a frame is not linked."""
        images = self.frames.images
        self._state = state
        image = images.place(state) if images is not None else None if state else 0
        self.words[Word.LOWEST] = _NOWHERE if image is None else self._lowest
        self.words[Word.EXTENDED] = image or 0

    def note_store(self, address: int, size: int) -> None:
        """Stores are not recorded."""

    def _on_instruction(self, engine: int, address: int, _size: int, _data: int) -> None:
        """What FRAME_TEXT does."""
        block, frames = self.words, self.frames
        offset = address - block[Word.CODE]
        if not 0 <= offset < block[Word.CODE_SIZE]:
            return
        index = block[Word.INDEX]
        block[Word.INDEX] += 1
        block[Word.SUM] += block[Word.SHARE]
        if block[Word.SUM] < block[Word.OF]:
            return
        block[Word.SUM] -= block[Word.OF]
        self._batch.read(engine)
        registers = self._batch.block
        struct.pack_into("<Q", registers, _RIP, address)
        place = block[Word.NEXT]
        block[Word.NEXT] += FRAME
        rsp = int.from_bytes(registers[32:40], "little")
        linked = block[Word.LOWEST] <= rsp < block[Word.HIGH]
        window = self._memory.read(rsp, (block[Word.HIGH] - rsp) & -8) if linked else b""
        content = bytes(registers)
        slot = (place - frames.base) // FRAME
        extended = block[Word.EXTENDED]
        frames.put(slot, index, content, window, poison(index, content), extended)
        if not linked:
            self._odd[(block[Word.ODD] - host_address(self._odd.cast("B"))) // 8] = place
            block[Word.ODD] += 8
            return
        head, count = _ROWS.unpack_from(self._table, offset * _ROW)
        frames.link(place, head)
        _ROWS.pack_into(self._table, offset * _ROW, place, count + 1)
        if not head:
            self._lists[(block[Word.LISTS] - host_address(self._lists.cast("B"))) // 8] = place
            block[Word.LISTS] += 8
