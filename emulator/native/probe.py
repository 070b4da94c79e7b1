"""What a copy of a program's code calls before every instruction (emulator.native.code_copy).

PROBE_TEXT records the boundary as a frame, as FRAME_TEXT does on Unicorn (emulator.frame_recorder),
and gives the guest its registers back. Its variables are words of a page at CONTROL, which can be
addressed without a register; it has a stack of its own there.
"""

from __future__ import annotations

from typing import Final

CONTROL: Final = 0x1FF0_0000  # below 2 GiB, so that it can be addressed without a register
BLOCK: Final = CONTROL + 0x200
STACK: Final = CONTROL + 0x1000
CODE: Final = 0x2000_0000

# Words of the control page.
TARGET, LEFT, START, CODE_SIZE, MAP, RECORD = 3, 5, 7, 8, 9, 12

# enter: a boundary; [rsp] is where its instruction stands, [rsp + 8] its PC. leave: stops before
# it. dispatch: goes on where TARGET says.
PROBE_TEXT: Final = """
    enter:
        pushfq
        dec     qword ptr [0x1ff00028]      ; LEFT
        js      stop
        mov     [0x1ff00010], r14
        mov     [0x1ff00030], r15
        mov     r15, [0x1ff00060]           ; RECORD
        mov     r14, [r15 + 40]             ; NEXT
        mov     [r14], rax
        mov     [r14 + 8], rcx
        mov     [r14 + 16], rdx
        mov     [r14 + 24], rbx
        mov     [r14 + 40], rbp
        mov     [r14 + 48], rsi
        mov     [r14 + 56], rdi
        mov     [r14 + 64], r8
        mov     [r14 + 72], r9
        mov     [r14 + 80], r10
        mov     [r14 + 88], r11
        mov     [r14 + 96], r12
        mov     [r14 + 104], r13
        movups  [r14 + 304], xmm0
        movups  [r14 + 320], xmm1
        movups  [r14 + 336], xmm2
        movups  [r14 + 352], xmm3
        movups  [r14 + 368], xmm4
        movups  [r14 + 384], xmm5
        movups  [r14 + 400], xmm6
        movups  [r14 + 416], xmm7
        movups  [r14 + 432], xmm8
        movups  [r14 + 448], xmm9
        movups  [r14 + 464], xmm10
        movups  [r14 + 480], xmm11
        movups  [r14 + 496], xmm12
        movups  [r14 + 512], xmm13
        movups  [r14 + 528], xmm14
        movups  [r14 + 544], xmm15
        movq    xmm0, rax
        movq    xmm8, rcx
        punpcklqdq xmm0, xmm8
        movq    xmm1, rdx
        movq    xmm8, rbx
        punpcklqdq xmm1, xmm8
        movq    xmm2, qword ptr [0x1ff00000]
        movq    xmm8, rbp
        punpcklqdq xmm2, xmm8
        movq    xmm3, rsi
        movq    xmm8, rdi
        punpcklqdq xmm3, xmm8
        movq    xmm4, r8
        movq    xmm8, r9
        punpcklqdq xmm4, xmm8
        movq    xmm5, r10
        movq    xmm8, r11
        punpcklqdq xmm5, xmm8
        movq    xmm6, r12
        movq    xmm8, r13
        punpcklqdq xmm6, xmm8
        movq    xmm7, qword ptr [0x1ff00010]
        movq    xmm8, qword ptr [0x1ff00030]
        punpcklqdq xmm7, xmm8
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
        movups  xmm8, [0x1ff00290]
        movups  [r14 + 144], xmm8
        movups  xmm8, [0x1ff002a0]
        movups  [r14 + 160], xmm8
        movups  xmm8, [0x1ff002b0]
        movups  [r14 + 176], xmm8
        movups  xmm8, [0x1ff002c0]
        movups  [r14 + 192], xmm8
        movups  xmm8, [0x1ff002d0]
        movups  [r14 + 208], xmm8
        movups  xmm8, [0x1ff002e0]
        movups  [r14 + 224], xmm8
        movups  xmm8, [0x1ff002f0]
        movups  [r14 + 240], xmm8
        movups  xmm8, [0x1ff00300]
        movups  [r14 + 256], xmm8
        movups  xmm8, [0x1ff00310]
        movups  [r14 + 272], xmm8
        movups  xmm8, [0x1ff00320]
        movups  [r14 + 288], xmm8
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
        movdqa  xmm10, xmm8
        pcmpeqd xmm10, xmm1
        por     xmm9, xmm10
        movdqa  xmm10, xmm8
        pcmpeqd xmm10, xmm2
        por     xmm9, xmm10
        movdqa  xmm10, xmm8
        pcmpeqd xmm10, xmm3
        por     xmm9, xmm10
        movdqa  xmm10, xmm8
        pcmpeqd xmm10, xmm4
        por     xmm9, xmm10
        movdqa  xmm10, xmm8
        pcmpeqd xmm10, xmm5
        por     xmm9, xmm10
        movdqa  xmm10, xmm8
        pcmpeqd xmm10, xmm6
        por     xmm9, xmm10
        movdqa  xmm10, xmm8
        pcmpeqd xmm10, xmm7
        por     xmm9, xmm10
        movups  xmm10, [r14 + 304]
        pcmpeqd xmm10, xmm8
        por     xmm9, xmm10
        movups  xmm10, [r14 + 320]
        pcmpeqd xmm10, xmm8
        por     xmm9, xmm10
        movups  xmm10, [r14 + 336]
        pcmpeqd xmm10, xmm8
        por     xmm9, xmm10
        movups  xmm10, [r14 + 352]
        pcmpeqd xmm10, xmm8
        por     xmm9, xmm10
        movups  xmm10, [r14 + 368]
        pcmpeqd xmm10, xmm8
        por     xmm9, xmm10
        movups  xmm10, [r14 + 384]
        pcmpeqd xmm10, xmm8
        por     xmm9, xmm10
        movups  xmm10, [r14 + 400]
        pcmpeqd xmm10, xmm8
        por     xmm9, xmm10
        movups  xmm10, [r14 + 416]
        pcmpeqd xmm10, xmm8
        por     xmm9, xmm10
        movups  xmm10, [r14 + 432]
        pcmpeqd xmm10, xmm8
        por     xmm9, xmm10
        movups  xmm10, [r14 + 448]
        pcmpeqd xmm10, xmm8
        por     xmm9, xmm10
        movups  xmm10, [r14 + 464]
        pcmpeqd xmm10, xmm8
        por     xmm9, xmm10
        movups  xmm10, [r14 + 480]
        pcmpeqd xmm10, xmm8
        por     xmm9, xmm10
        movups  xmm10, [r14 + 496]
        pcmpeqd xmm10, xmm8
        por     xmm9, xmm10
        movups  xmm10, [r14 + 512]
        pcmpeqd xmm10, xmm8
        por     xmm9, xmm10
        movups  xmm10, [r14 + 528]
        pcmpeqd xmm10, xmm8
        por     xmm9, xmm10
        movups  xmm10, [r14 + 544]
        pcmpeqd xmm10, xmm8
        por     xmm9, xmm10
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
        movups  xmm0, [r14 + 304]
        movups  xmm1, [r14 + 320]
        movups  xmm2, [r14 + 336]
        movups  xmm3, [r14 + 352]
        movups  xmm4, [r14 + 368]
        movups  xmm5, [r14 + 384]
        movups  xmm6, [r14 + 400]
        movups  xmm7, [r14 + 416]
        movups  xmm8, [r14 + 432]
        movups  xmm9, [r14 + 448]
        movups  xmm10, [r14 + 464]
        mov     rax, [r14]
        mov     rcx, [r14 + 8]
        mov     rdx, [r14 + 16]
        mov     rsi, [r14 + 48]
        mov     rdi, [r14 + 56]
        mov     r8, [r14 + 64]
        mov     r9, [r14 + 72]
        mov     r10, [r14 + 80]
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
        mov     [0x1ff00200], rax
        mov     [0x1ff00208], rcx
        mov     [0x1ff00210], rdx
        mov     [0x1ff00218], rbx
        mov     [0x1ff00228], rbp
        mov     [0x1ff00230], rsi
        mov     [0x1ff00238], rdi
        mov     [0x1ff00240], r8
        mov     [0x1ff00248], r9
        mov     [0x1ff00250], r10
        mov     [0x1ff00258], r11
        mov     [0x1ff00260], r12
        mov     [0x1ff00268], r13
        mov     [0x1ff00270], r14
        mov     [0x1ff00278], r15
        mov     rax, [0x1ff00000]           ; RSP
        mov     [0x1ff00220], rax
        pop     rax
        mov     [0x1ff00288], rax
        movups  [0x1ff00330], xmm0
        movups  [0x1ff00340], xmm1
        movups  [0x1ff00350], xmm2
        movups  [0x1ff00360], xmm3
        movups  [0x1ff00370], xmm4
        movups  [0x1ff00380], xmm5
        movups  [0x1ff00390], xmm6
        movups  [0x1ff003a0], xmm7
        movups  [0x1ff003b0], xmm8
        movups  [0x1ff003c0], xmm9
        movups  [0x1ff003d0], xmm10
        movups  [0x1ff003e0], xmm11
        movups  [0x1ff003f0], xmm12
        movups  [0x1ff00400], xmm13
        movups  [0x1ff00410], xmm14
        movups  [0x1ff00420], xmm15
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
