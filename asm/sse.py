"""Opcodes of MMX, SSE to SSE4, AES, SHA and PCLMUL (Intel's manual, volume 2), as data.

Each row is a mandatory prefix, an opcode map and `name=opcode[:bits of the memory operand]`;
without bits the memory operand has 128.
"""

from __future__ import annotations

from typing import NamedTuple


class Opcode(NamedTuple):
    """A mandatory prefix (0, 0x66, 0xF2, 0xF3), the escape bytes and the opcode."""

    prefix: int
    escape: bytes
    opcode: int


_0F, _0F38, _0F3A = b"\x0f", b"\x0f\x38", b"\x0f\x3a"

# xmm, xmm/m
_LOAD = (
    (0x00, _0F, """movups=10 movaps=28 movlps=12:64 movhps=16:64 unpcklps=14 unpckhps=15
     ucomiss=2e:32 comiss=2f:32 sqrtps=51 rsqrtps=52 rcpps=53 andps=54 andnps=55 orps=56 xorps=57
     addps=58 mulps=59 cvtps2pd=5a:64 cvtdq2ps=5b subps=5c minps=5d divps=5e maxps=5f"""),
    (0x66, _0F, """movupd=10 movapd=28 movlpd=12:64 movhpd=16:64 unpcklpd=14 unpckhpd=15
     ucomisd=2e:64 comisd=2f:64 sqrtpd=51 andpd=54 andnpd=55 orpd=56 xorpd=57 addpd=58 mulpd=59
     cvtpd2ps=5a cvtps2dq=5b subpd=5c minpd=5d divpd=5e maxpd=5f haddpd=7c hsubpd=7d addsubpd=d0
     punpcklbw=60 punpcklwd=61 punpckldq=62 packsswb=63 pcmpgtb=64 pcmpgtw=65 pcmpgtd=66 packuswb=67
     punpckhbw=68 punpckhwd=69 punpckhdq=6a packssdw=6b punpcklqdq=6c punpckhqdq=6d movdqa=6f
     pcmpeqb=74 pcmpeqw=75 pcmpeqd=76 psrlw=d1 psrld=d2 psrlq=d3 paddq=d4 pmullw=d5 psubusb=d8
     psubusw=d9 pminub=da pand=db paddusb=dc paddusw=dd pmaxub=de pandn=df pavgb=e0 psraw=e1
     psrad=e2 pavgw=e3 pmulhuw=e4 pmulhw=e5 cvttpd2dq=e6 psubsb=e8 psubsw=e9 pminsw=ea por=eb
     paddsb=ec paddsw=ed pmaxsw=ee pxor=ef psllw=f1 pslld=f2 psllq=f3 pmuludq=f4 pmaddwd=f5
     psadbw=f6 psubb=f8 psubw=f9 psubd=fa psubq=fb paddb=fc paddw=fd paddd=fe"""),
    (0xF3, _0F, """movss=10:32 movsldup=12 movshdup=16 sqrtss=51:32 rsqrtss=52:32 rcpss=53:32
     addss=58:32 mulss=59:32 cvtss2sd=5a:32 cvttps2dq=5b subss=5c:32 minss=5d:32 divss=5e:32
     maxss=5f:32 movdqu=6f cvtdq2pd=e6:64"""),
    (0xF2, _0F, """movsd=10:64 movddup=12:64 sqrtsd=51:64 addsd=58:64 mulsd=59:64 cvtsd2ss=5a:64
     subsd=5c:64 minsd=5d:64 divsd=5e:64 maxsd=5f:64 haddps=7c hsubps=7d addsubps=d0 cvtpd2dq=e6
     lddqu=f0"""),
    (0x66, _0F38, """pshufb=00 phaddw=01 phaddd=02 phaddsw=03 pmaddubsw=04 phsubw=05 phsubd=06
     phsubsw=07 psignb=08 psignw=09 psignd=0a pmulhrsw=0b pabsb=1c pabsw=1d pabsd=1e ptest=17
     pmovsxbw=20:64 pmovsxbd=21:32 pmovsxbq=22:16 pmovsxwd=23:64 pmovsxwq=24:32 pmovsxdq=25:64
     pmuldq=28 pcmpeqq=29 movntdqa=2a packusdw=2b pmovzxbw=30:64 pmovzxbd=31:32 pmovzxbq=32:16
     pmovzxwd=33:64 pmovzxwq=34:32 pmovzxdq=35:64 pcmpgtq=37 pminsb=38 pminsd=39 pminuw=3a
     pminud=3b pmaxsb=3c pmaxsd=3d pmaxuw=3e pmaxud=3f pmulld=40 phminposuw=41 aesimc=db aesenc=dc
     aesenclast=dd aesdec=de aesdeclast=df"""),
    (0x00, _0F38, "sha1nexte=c8 sha1msg1=c9 sha1msg2=ca sha256msg1=cc sha256msg2=cd"),
)  # fmt: skip
# xmm/m, xmm
_STORE = (
    (0x00, _0F, "movups=11 movaps=29 movlps=13:64 movhps=17:64 movntps=2b"),
    (0x66, _0F, "movupd=11 movapd=29 movlpd=13:64 movhpd=17:64 movntpd=2b movdqa=7f movntdq=e7"),
    (0xF3, _0F, "movss=11:32 movdqu=7f"),
    (0xF2, _0F, "movsd=11:64"),
)
# xmm, xmm/m, imm8
_LOAD_IMM = (
    (0x00, _0F, "cmpps=c2 shufps=c6"),
    (0x66, _0F, "pshufd=70 cmppd=c2 shufpd=c6"),
    (0xF3, _0F, "pshufhw=70 cmpss=c2:32"),
    (0xF2, _0F, "pshuflw=70 cmpsd=c2:64"),
    (0x66, _0F3A, """roundps=08 roundpd=09 roundss=0a:32 roundsd=0b:64 blendps=0c blendpd=0d
     pblendw=0e palignr=0f insertps=21:32 dpps=40 dppd=41 mpsadbw=42 pclmulqdq=44 pcmpestrm=60
     pcmpestri=61 pcmpistrm=62 pcmpistri=63 aeskeygenassist=df"""),
    (0x00, _0F3A, "sha1rnds4=cc"),
)  # fmt: skip
# xmm, xmm: what has no memory form under this name
_REGISTERS = ((0x00, _0F, "movhlps=12 movlhps=16"), (0x66, _0F, "maskmovdqu=f7"))
# xmm, imm8 with an extension in ModRM.reg: the opcode, a slash, the extension
_SHIFT_IMM = {
    "psrlw": (0x71, 2), "psraw": (0x71, 4), "psllw": (0x71, 6), "psrld": (0x72, 2),
    "psrad": (0x72, 4), "pslld": (0x72, 6), "psrlq": (0x73, 2), "psrldq": (0x73, 3),
    "psllq": (0x73, 6), "pslldq": (0x73, 7),
}  # fmt: skip

SSE_WIDTHS: dict[str, int] = {"movq2dq": 64}


def _read(rows: tuple[tuple[int, bytes, str], ...]) -> dict[str, Opcode]:
    table: dict[str, Opcode] = {}
    for prefix, escape, text in rows:
        for word in text.split():
            name, _, rest = word.partition("=")
            opcode, _, width = rest.partition(":")
            table[name] = Opcode(prefix, escape, int(opcode, 16))
            SSE_WIDTHS[name] = int(width or 128)
    return table


LOAD = _read(_LOAD)
STORE = _read(_STORE)
LOAD_IMM = _read(_LOAD_IMM)
REGISTERS_ONLY = _read(_REGISTERS)
SHIFT_IMM = {name: Opcode(0x66, _0F, op) for name, (op, _) in _SHIFT_IMM.items()}
SHIFT_EXTENSION = {name: extension for name, (_, extension) in _SHIFT_IMM.items()}
SSE_WIDTHS |= {"psrldq": 128, "pslldq": 128}

# The same opcodes without 66 work on MMX registers.
_MMX_NAMES = """punpcklbw punpcklwd punpckldq packsswb pcmpgtb pcmpgtw pcmpgtd packuswb punpckhbw
 punpckhwd punpckhdq packssdw pcmpeqb pcmpeqw pcmpeqd psrlw psrld psrlq pmullw pand paddusb paddusw
 pandn pavgb psraw psrad pavgw pmulhuw pmulhw por paddsb paddsw pxor psllw pslld psllq pmuludq
 pmaddwd paddb paddw paddd phaddd"""
MMX = frozenset(_MMX_NAMES.split())
# Registers other than xmm in these: GPR destination or source.
CONVERT = {
    "cvtsi2sd": Opcode(0xF2, _0F, 0x2A),
    "cvtsi2ss": Opcode(0xF3, _0F, 0x2A),
    "cvttsd2si": Opcode(0xF2, _0F, 0x2C),
    "cvttss2si": Opcode(0xF3, _0F, 0x2C),
    "cvtsd2si": Opcode(0xF2, _0F, 0x2D),
    "cvtss2si": Opcode(0xF3, _0F, 0x2D),
    "movmskps": Opcode(0x00, _0F, 0x50),
    "movmskpd": Opcode(0x66, _0F, 0x50),
    "pmovmskb": Opcode(0x66, _0F, 0xD7),
}
INSERT = {
    "pinsrb": Opcode(0x66, _0F3A, 0x20),
    "pinsrw": Opcode(0x66, _0F, 0xC4),
    "pinsrd": Opcode(0x66, _0F3A, 0x22),
    "pinsrq": Opcode(0x66, _0F3A, 0x22),
}
EXTRACT = {
    "pextrb": Opcode(0x66, _0F3A, 0x14),
    "pextrw": Opcode(0x66, _0F3A, 0x15),
    "pextrd": Opcode(0x66, _0F3A, 0x16),
    "pextrq": Opcode(0x66, _0F3A, 0x16),
    "extractps": Opcode(0x66, _0F3A, 0x17),
}
