"""What a copy of a program's code calls before every instruction (emulator.native.code_copy).

PROBE_TEXT records the boundary as a frame, as FRAME_TEXT does on Unicorn (emulator.frame_recorder),
and gives the guest its registers back. Its variables are words of a page at CONTROL, which can be
addressed without a register; it has a stack of its own there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from emulator.registers import LAYOUT

if TYPE_CHECKING:
    from collections.abc import Sequence

CONTROL: Final = 0x1FF0_0000  # below 2 GiB, so that it can be addressed without a register
BLOCK: Final = CONTROL + 0x200
STACK: Final = CONTROL + 0x1000
CODE: Final = 0x2000_0000

# Words of the control page.
TARGET, LEFT, START, CODE_SIZE, MAP, RECORD = 3, 5, 7, 8, 9, 12

_XMM: Final = tuple(f"XMM{n}" for n in range(16))
_GENERAL: Final = (
    "RAX", "RCX", "RDX", "RBX", "RBP", "RSI", "RDI", "R8", "R9", "R10", "R11", "R12", "R13",
)  # fmt: skip
_USED: Final = ("RAX", "RCX", "RDX", "RSI", "RDI", "R8", "R9", "R10")


def _each(registers: Sequence[str], *lines: str) -> str:
    """Lines for each register, {register} by name, {frame} and {block} its places in memory."""
    return "".join(
        f"        {line}\n".format(
            register=name.lower(), frame=LAYOUT[name][0], block=f"{BLOCK + LAYOUT[name][0]:#x}"
        )
        for name in registers
        for line in lines
    )


_SAVE: Final = _each(_GENERAL, "mov [r14 + {frame}], {register}")
_SAVE_VECTORS: Final = _each(_XMM, "movups [r14 + {frame}], {register}")
_LOAD: Final = _each(_USED, "mov {register}, [r14 + {frame}]")
_LOAD_VECTORS: Final = _each(_XMM[:11], "movups {register}, [r14 + {frame}]")
_STOP: Final = _each((*_GENERAL, "R14", "R15"), "mov [{block}], {register}")
_STOP_VECTORS: Final = _each(_XMM, "movups [{block}], {register}")
# The general registers by twos, in XMM0 to XMM7, as they lie in a frame.
_PAIRS: Final = "".join(
    f"        movq xmm{n}, {low}\n        movq xmm8, {high}\n        punpcklqdq xmm{n}, xmm8\n"
    for n, (low, high) in enumerate(
        (
            ("rax", "rcx"), ("rdx", "rbx"), ("qword ptr [0x1ff00000]", "rbp"), ("rsi", "rdi"),
            ("r8", "r9"), ("r10", "r11"), ("r12", "r13"),
            ("qword ptr [0x1ff00010]", "qword ptr [0x1ff00030]"),
        )
    )
)  # fmt: skip
# FS_BASE to ST7, as they were when the copy of the code was entered; MXCSR comes behind this.
_COPIES: Final = "".join(
    f"        movups xmm8, [{BLOCK + at:#x}]\n        movups [r14 + {at}], xmm8\n"
    for at in range(144, LAYOUT["XMM0"][0], 16)
)
# XMM9 has a bit set where four bytes are the poison's, which XMM8 holds.
_LIKE_GENERAL: Final = _each(
    _XMM[1:8], "movdqa xmm10, xmm8", "pcmpeqd xmm10, {register}", "por xmm9, xmm10"
)
_LIKE_VECTORS: Final = _each(
    _XMM, "movups xmm10, [r14 + {frame}]", "pcmpeqd xmm10, xmm8", "por xmm9, xmm10"
)

# enter: a boundary; [rsp] is where its instruction stands, [rsp + 8] its PC. leave: stops before
# it. dispatch: goes on where TARGET says.
PROBE_TEXT: Final = f"""
    enter:
        pushfq
        dec     qword ptr [0x1ff00028]      ; LEFT
        js      stop
        mov     [0x1ff00010], r14
        mov     [0x1ff00030], r15
        mov     r15, [0x1ff00060]           ; RECORD
        mov     r14, [r15 + 40]             ; NEXT
{_SAVE}\
{_SAVE_VECTORS}\
{_PAIRS}\
        pop     rdi
        mov     [r14 + 136], rdi
        mov     r8, [0x1ff00000]            ; RSP
        mov     r9, [0x1ff00010]
        mov     r10, [0x1ff00030]
        mov     rsi, [rsp + 8]              ; the PC
        mov     [r14 + 32], r8
        mov     [r14 + 112], r9
        mov     [r14 + 120], r10
        mov     [r14 + 128], rsi
{_COPIES}\
        stmxcsr [r14 + 160]
        mov     rax, [r15 + 72]             ; INDEX
        mov     [r14 + 584], rax
        mov     rcx, [r15 + 152]            ; EXTENDED
        mov     [r14 + 592], rcx
        mov     rcx, 0x9e3779b97f4a7c15     ; GOLDEN
        imul    rcx, rax
        inc     rax
        mov     [r15 + 72], rax             ; INDEX
        mov     rdx, [r15 + 120]            ; POISON
        sar     rcx, 63
        xor     rdx, rcx
    search:
        movq    xmm8, rdx
        punpcklqdq xmm8, xmm8
        movdqa  xmm9, xmm8
        pcmpeqd xmm9, xmm0
{_LIKE_GENERAL}\
{_LIKE_VECTORS}\
        pmovmskb eax, xmm9
        test    eax, eax
        jz      unlike
        inc     edx
        movzx   edx, dl
        mov     rax, 0x0101010101010101
        imul    rdx, rax
        jmp     search
    unlike:
        mov     [r14 + 576], rdx
        cmp     r8, [r15 + 88]              ; LOWEST
        jb      odd
        mov     rcx, [r15 + 96]             ; HIGH
        sub     rcx, r8
        jbe     odd
        shr     rcx, 3
        cmp     rcx, 62
        jbe     window
        mov     ecx, 62
    window:
        mov     [r14 + 568], rcx
        xor     eax, eax
        sub     rcx, 2
        jb      last
    twos:
        movups  xmm8, [r8 + rax]
        movups  [r14 + rax + 608], xmm8
        add     rax, 16
        sub     rcx, 2
        jae     twos
    last:
        test    cl, 1
        jz      link
        mov     rdx, [r8 + rax]
        mov     [r14 + rax + 608], rdx
    link:
        sub     rsi, [r15 + 56]             ; CODE
        shl     rsi, 4
        add     rsi, [r15 + 48]             ; TABLE
        mov     rax, [rsi]
        mov     [r14 + 560], rax
        mov     [rsi], r14
        inc     qword ptr [rsi + 8]
        test    rax, rax
        jnz     done
        mov     rax, [r15 + 80]             ; LISTS
        mov     [rax], r14
        add     qword ptr [r15 + 80], 8     ; LISTS
    done:
        add     qword ptr [r15 + 40], 1104  ; NEXT
        pop     qword ptr [0x1ff00008]      ; RESUME
        mov     rax, rdi
        and     rax, 0xfffffffffffff72a     ; all but the arithmetic flags
        cmp     rax, 0x202
        jne     all
        mov     rax, rdi
        mov     rcx, rdi
        shr     ecx, 11
        and     ecx, 1
        shl     eax, 8
        add     cl, 0x7f                    ; OF
        sahf
    loaded:
{_LOAD_VECTORS}\
{_LOAD}\
        mov     r15, [0x1ff00030]
        mov     r14, [0x1ff00010]
        mov     rsp, [0x1ff00000]           ; RSP
        jmp     qword ptr [0x1ff00008]      ; RESUME
    all:
        push    rdi
        popfq
        jmp     loaded
    odd:
        mov     qword ptr [r14 + 560], 0
        mov     qword ptr [r14 + 568], 0
        mov     rax, [r15 + 112]            ; ODD
        mov     [rax], r14
        add     qword ptr [r15 + 112], 8    ; ODD
        jmp     done
    stop:
{_STOP}\
        mov     rax, [0x1ff00000]           ; RSP
        mov     [0x1ff00220], rax
        pop     rax
        mov     [0x1ff00288], rax
{_STOP_VECTORS}\
        stmxcsr [0x1ff002a0]
        mov     rsi, [rsp + 8]
        mov     [0x1ff00280], rsi
        int3
    leave_:
        pushfq
        jmp     stop
    dispatch:
        mov     [0x1ff00020], rax
        mov     [0x1ff00000], rsp           ; RSP
        mov     rsp, 0x1ff01000
        pushfq
        mov     rax, [0x1ff00018]           ; TARGET
        sub     rax, [0x1ff00038]           ; START
        cmp     rax, [0x1ff00040]           ; SIZE
        jae     out
        shl     rax, 3
        add     rax, [0x1ff00048]           ; MAP
        mov     rax, [rax]
        test    rax, rax
        jz      out
        mov     [0x1ff00008], rax           ; RESUME
        popfq
        mov     rax, [0x1ff00020]
        mov     rsp, [0x1ff00000]           ; RSP
        jmp     qword ptr [0x1ff00008]      ; RESUME
    out:
        popfq
        mov     rax, [0x1ff00020]
        push    qword ptr [0x1ff00018]      ; TARGET
        call    leave_
"""
PROBE: Final = bytes.fromhex(
    "9c48ff0c252800f01f0f88c30500004c8934251000f01f4c893c253000f01f4c8b3c256000f01f4d8b772849"
    "890649894e084989561049895e1849896e284989763049897e384d8946404d894e484d8956504d895e584d89"
    "66604d896e68410f118630010000410f118e40010000410f119650010000410f119e60010000410f11a67001"
    "0000410f11ae80010000410f11b690010000410f11bea0010000450f1186b0010000450f118ec0010000450f"
    "1196d0010000450f119ee0010000450f11a6f0010000450f11ae00020000450f11b610020000450f11be2002"
    "000066480f6ec0664c0f6ec166410f6cc066480f6eca664c0f6ec366410f6cc8f30f7e14250000f01f664c0f"
    "6ec566410f6cd066480f6ede664c0f6ec766410f6cd866490f6ee0664d0f6ec166410f6ce066490f6eea664d"
    "0f6ec366410f6ce866490f6ef4664d0f6ec566410f6cf0f30f7e3c251000f01ff3440f7e04253000f01f6641"
    "0f6cf85f4989be880000004c8b04250000f01f4c8b0c251000f01f4c8b14253000f01f488b7424084d894620"
    "4d894e704d8956784989b680000000440f1004259002f01f450f118690000000440f100425a002f01f450f11"
    "86a0000000440f100425b002f01f450f1186b0000000440f100425c002f01f450f1186c0000000440f100425"
    "d002f01f450f1186d0000000440f100425e002f01f450f1186e0000000440f100425f002f01f450f1186f000"
    "0000440f1004250003f01f450f118600010000440f1004251003f01f450f118610010000440f1004252003f0"
    "1f450f118620010000410fae9ea0000000498b474849898648020000498b8f9800000049898e5002000048b9"
    "157c4a7fb979379e480fafc848ffc049894748498b577848c1f93f4831ca664c0f6ec266450f6cc066450f6f"
    "c866440f76c866450f6fd066440f76d166450febca66450f6fd066440f76d266450febca66450f6fd066440f"
    "76d366450febca66450f6fd066440f76d466450febca66450f6fd066440f76d566450febca66450f6fd06644"
    "0f76d666450febca66450f6fd066440f76d766450febca450f10963001000066450f76d066450febca450f10"
    "964001000066450f76d066450febca450f10965001000066450f76d066450febca450f10966001000066450f"
    "76d066450febca450f10967001000066450f76d066450febca450f10968001000066450f76d066450febca45"
    "0f10969001000066450f76d066450febca450f1096a001000066450f76d066450febca450f1096b001000066"
    "450f76d066450febca450f1096c001000066450f76d066450febca450f1096d001000066450f76d066450feb"
    "ca450f1096e001000066450f76d066450febca450f1096f001000066450f76d066450febca450f1096000200"
    "0066450f76d066450febca450f10961002000066450f76d066450febca450f10962002000066450f76d06645"
    "0febca66410fd7c185c07418ffc20fb6d248b80101010101010101480fafd0e942feffff498996400200004d"
    "3b47580f8256010000498b4f604c29c10f864901000048c1e9034883f93e7605b93e00000049898e38020000"
    "31c04883e9027218450f100400450f118406600200004883c0104883e90273e8f6c101740c498b1400498994"
    "0660020000492b773848c1e60449037730488b06498986300200004c893648ff46084885c0750c498b47504c"
    "8930498347500849814728500400008f04250800f01f4889f848252af7ffff483d020200000f85a900000048"
    "89f84889f9c1e90b83e101c1e00880c17f9e410f108630010000410f108e40010000410f109650010000410f"
    "109e60010000410f10a670010000410f10ae80010000410f10b690010000410f10bea0010000450f1086b001"
    "0000450f108ec0010000450f1096d0010000498b06498b4e08498b5610498b7630498b7e384d8b46404d8b4e"
    "484d8b56504c8b3c253000f01f4c8b34251000f01f488b24250000f01fff24250800f01f579de963ffffff49"
    "c786300200000000000049c7863802000000000000498b47704c89304983477008e905ffffff488904250002"
    "f01f48890c250802f01f488914251002f01f48891c251802f01f48892c252802f01f488934253002f01f4889"
    "3c253802f01f4c8904254002f01f4c890c254802f01f4c8914255002f01f4c891c255802f01f4c8924256002"
    "f01f4c892c256802f01f4c8934257002f01f4c893c257802f01f488b04250000f01f488904252002f01f5848"
    "8904258802f01f0f1104253003f01f0f110c254003f01f0f1114255003f01f0f111c256003f01f0f11242570"
    "03f01f0f112c258003f01f0f1134259003f01f0f113c25a003f01f440f110425b003f01f440f110c25c003f0"
    "1f440f111425d003f01f440f111c25e003f01f440f112425f003f01f440f112c250004f01f440f1134251004"
    "f01f440f113c252004f01f0fae1c25a002f01f488b742408488934258002f01fcc9ce9cbfeffff4889042520"
    "00f01f488924250000f01f48c7c40010f01f9c488b04251800f01f482b04253800f01f483b04254000f01f73"
    "3448c1e003480304254800f01f488b004885c07420488904250800f01f9d488b04252000f01f488b24250000"
    "f01fff24250800f01f9d488b04252000f01fff34251800f01fe87fffffff"
)
ENTER: Final = 0
STOP: Final = PROBE.index(b"\xcc\x9c\xe9")  # INT3, and behind it PUSHFQ and JMP of leave
LEAVE: Final = STOP + 1
DISPATCH: Final = LEAVE + 6
