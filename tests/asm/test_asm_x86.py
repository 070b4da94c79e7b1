"""Intel and AT&T text: the same instructions as Go's names give, or a refusal.

The bytes beside pairs of statements are GNU as 2.40's. Further expected values are machine code
that `go tool asm` made (recorded/instructions.json), printed by Capstone in both syntaxes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import capstone
import pytest

from asm.assemble import AsmError, Source, Target, assemble

if TYPE_CHECKING:
    from asm.image import Image

RECORDED = Path(__file__).parent / "recorded"
# Intel, AT&T, machine code.
STATEMENTS = (
    ("mov rax, 5", "movq $5, %rax", "48c7c005000000"),
    ("mov ecx, 0x80000000", "movl $0x80000000, %ecx", "b900000080"),
    ("mov r11, 0x123456789abcdef0", "movabsq $0x123456789abcdef0, %r11", "49bbf0debc9a78563412"),
    ("mov dword ptr [rax+rcx*4-8], 7", "movl $7, -8(%rax,%rcx,4)", "c74488f807000000"),
    ("mov al, fs:[rbx]", "movb %fs:(%rbx), %al", "648a03"),
    ("mov rcx, fs:[0]", "movq %fs:0, %rcx", "64488b0c2500000000"),
    ("add rax, qword ptr [rsp]", "addq (%rsp), %rax", "48030424"),
    ("cmp byte ptr [r13], 0x7f", "cmpb $0x7f, (%r13)", "41807d007f"),
    ("xadd [rsi], eax", "xaddl %eax, (%rsi)", "0fc106"),
    ("imul rax, rbx, 9", "imulq $9, %rbx, %rax", "486bc309"),
    ("shl rax, cl", "shlq %cl, %rax", "48d3e0"),
    ("sar dword ptr [rdi], 3", "sarl $3, (%rdi)", "c13f03"),
    ("shld rax, rbx, 3", "shldq $3, %rbx, %rax", "480fa4d803"),
    ("movzx eax, byte ptr [rax]", "movzbl (%rax), %eax", "0fb600"),
    ("movsx rax, cx", "movswq %cx, %rax", "480fbfc1"),
    ("movsxd rbx, eax", "movslq %eax, %rbx", "4863d8"),
    ("cdqe", "cltq", "4898"),
    ("cqo", "cqto", "4899"),
    ("cmovne rbx, rax", "cmovneq %rax, %rbx", "480f45d8"),
    ("setz byte ptr [rax]", "setz (%rax)", "0f9400"),
    ("push qword ptr [rax]", "pushq (%rax)", "ff30"),
    ("pop r12", "popq %r12", "415c"),
    ("jmp rax", "jmp *%rax", "ffe0"),
    ("call [rax+8]", "call *8(%rax)", "ff5008"),
    ("movsd xmm0, [rax]", "movsd (%rax), %xmm0", "f20f1000"),
    ("cvtsi2sd xmm0, qword ptr [rax]", "cvtsi2sdq (%rax), %xmm0", "f2480f2a00"),
    ("cvttsd2si rax, xmm1", "cvttsd2si %xmm1, %rax", "f2480f2cc1"),
    ("cmpltps xmm1, xmm2", "cmpltps %xmm2, %xmm1", "0fc2ca01"),
    ("movq rax, xmm1", "movq %xmm1, %rax", "66480f7ec8"),
    ("movdqu xmm9, [rip+d]", "movdqu d(%rip), %xmm9", "f3440f6f0d00000000"),
    ("vaddps ymm1, ymm2, ymm3", "vaddps %ymm3, %ymm2, %ymm1", "c5ec58cb"),
    (
        "vaddpd zmm1{k1}{z}, zmm2, [rax+64]",
        "vaddpd 64(%rax), %zmm2, %zmm1{%k1}{z}",
        "62f1edc9584801",
    ),
    (
        "vaddpd zmm1, zmm2, qword ptr [rax]{1to8}",
        "vaddpd (%rax){1to8}, %zmm2, %zmm1",
        "62f1ed585808",
    ),
    ("vaddpd zmm1, zmm2, zmm3, {rn-sae}", "vaddpd {rn-sae}, %zmm3, %zmm2, %zmm1", "62f1ed1858cb"),
    ("vcvtpd2ps xmm1, ymmword ptr [rax]", "vcvtpd2psy (%rax), %xmm1", "c5fd5a08"),
    ("andn eax, ebx, ecx", "andn %ecx, %ebx, %eax", "c4e260f2c1"),
    ("kmovw k1, eax", "kmovw %eax, %k1", "c5f892c8"),
    (
        "vpgatherdd xmm0, [rax+xmm1*4], xmm2",
        "vpgatherdd %xmm2, (%rax,%xmm1,4), %xmm0",
        "c4e269900488",
    ),
    ("fld qword ptr [rax]", "fldl (%rax)", "dd00"),
    ("rep movsb", "rep movsb", "f3a4"),
    ("lock dec dword ptr [rax]", "lock decl (%rax)", "f0ff08"),
    ("crc32 eax, byte ptr [rbx]", "crc32b (%rbx), %eax", "f20f38f003"),
    ("int3", "int3", "cc"),
    ("endbr64", "endbr64", "f30f1efa"),
)


def image(text: str, syntax: str) -> Image:
    return assemble(
        [Source("x.s", text)],
        Target(syntax=syntax),
        text_address=0x400000,
        data_address=0x500000,
        externs={"runtime.gogo": 0x401000},
    )


def code(text: str, syntax: str) -> bytes:
    return image(text, syntax).segments[0].data


def errors(text: str, syntax: str = "intel") -> list[str]:
    with pytest.raises(AsmError) as caught:
        image(text, syntax)
    return [str(d) for d in caught.value.diagnostics]


@pytest.mark.parametrize(("intel", "att", "expected"), STATEMENTS)
def test_bytes_equal_those_of_gnu_as(intel: str, att: str, expected: str) -> None:
    want = bytes.fromhex(expected)
    for text, syntax in ((intel, "intel"), (att, "att")):
        data = code(f"{text}\n.data\nd: .quad 1\n", syntax)
        if "rip" in text:  # as leaves the field to the linker
            data, want = data[:-4], bytes.fromhex(expected)[:-4]
        assert data == want, text


@pytest.mark.parametrize("syntax", ["intel", "att"])
def test_what_capstone_prints_is_read_back(syntax: str) -> None:
    engine: Any = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    if syntax == "att":
        engine.syntax = capstone.CS_OPT_SYNTAX_ATT
    functions = json.loads((RECORDED / "instructions.json").read_text())["1.13"]
    read = refused = 0
    for recorded in functions.values():
        data = bytes.fromhex(recorded.replace(".", "0"))
        for insn in engine.disasm(data, 0x400000):
            text = f"{insn.mnemonic} {insn.op_str}"
            try:
                again = code(text + "\n", syntax)
            except AsmError:
                refused += 1  # jumps to numbers, addresses relative to RIP without a name
                continue
            (found,) = engine.disasm(again, insn.address)
            assert f"{found.mnemonic} {found.op_str}" == text
            read += 1
    assert read > 6 * refused


# What Keystone 0.9.2 makes of these is another instruction, or the end of the process.
@pytest.mark.parametrize(
    ("text", "column", "words"),
    [
        ("mov rax, [rbx", 1, "expected ] at the end"),
        ("mov al, 300", 1, "does not fit in 8 bits"),
        ("push 0xf1234567", 1, "does not fit in 32 bits, sign-extended"),
        ("mov ah, r8b", 1, "do not go with a register that needs REX"),
        ("sysret", 1, "which size is meant differs"),
        ("mov rax, [x]", 10, "x as an absolute address: write [rip + x]"),
        ("mov rax, offset x", 10, "offset is not taken here"),
        ("mov rax, 010", 10, "octal to some assemblers, decimal to others"),
        ("mov eax, 1; ret", 11, "a semicolon ends a statement to some assemblers"),
        ("mov [rax], 5", 5, "the size of this is not said"),
        ("inc [rax]", 5, "the size of this is not said"),
        ("vcvtpd2ps xmm1, [rax]", 17, "the size of this is not said"),
        ("movzx eax, [rax]", 12, "the size of this is not said"),
        ("mov rax, ebx", 1, "does not take these operands"),
        ("mov rax, dword ptr [rbx]", 1, "does not take these operands"),
        ("mov rax, [rbx+rsp*2]", 10, "rsp cannot be an index"),
        ("mov rax, [rbx+rcx*3]", 10, "the scale must be 1, 2, 4 or 8"),
        ("mov rax, [ebx]", 10, "ebx cannot be part of an address here"),
        ("mov rax, [rbx+0x123456789]", 10, "does not fit in 32 bits"),
        ("mov rax, [rbx], 1", 1, "does not take these operands"),
        ("vaddpd zmm1{k0}, zmm2, zmm3", 12, "k0 cannot be a mask"),
        ("vaddpd zmm1{z}, zmm2, zmm3", 1, "zeroing needs a mask"),
        ("addps xmm1{k1}, xmm2", 1, "takes no mask"),
        ("moev rax, rbx", 1, "unknown instruction moev"),
        ("jmp nowhere", 5, "undefined symbol nowhere"),
        ("jne nowhere", 5, "no label nowhere"),
        ("jne 1b", 5, "no label 1 before this"),
        ("jne 5", 5, "goes to a label"),
        (".macro x", 1, "unknown directive .macro"),
        ("mov rax, é", 10, "unexpected character é"),
        ("bits 32", 1, "only 64 bits"),
        (".att_syntax", 1, "in a file that is read as Intel"),
    ],
)
def test_what_is_unclear_or_wrong_is_refused_at_its_place(
    text: str, column: int, words: str
) -> None:
    found = errors(text + "\n")
    assert len(found) == 1, found
    assert words in found[0]
    assert found[0].startswith(f"x.s:1:{column}: "), found[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mov $5, %rax, %rbx", "does not take these operands"),
        ("movl %rax, %ebx", "rax has not the 32 bits of the name"),
        ("mov $x, %rax", "taken by lea"),
        ("jmp (%rax)", "written with a *"),
        ("mov x, %rax", "takes no symbol"),
        ("fsubp %st, %st(1)", "mean different instructions"),
        ("movw %fs, (%rax), %rax", "rax has not the 16 bits of the name"),
        ("popw %fs", "only 64 bits"),
        ("movq %raxx, %rax", "no register %raxx"),
    ],
)
def test_att_refusals(text: str, words: str) -> None:
    found = errors(text + "\n", "att")
    assert words in found[0], found


def test_att_numbers_are_decimal() -> None:
    assert code("mov $10, %eax\n", "att") == code("mov eax, 0ah\n", "intel")


def test_labels_data_and_functions() -> None:
    text = """
    .globl main
    main:                   # a function
        xor eax, eax
    1:  inc eax
        cmp eax, [rip + limit]
        jne 1b
        call helper
    inner:
        lea rax, [rip + inner]
        jmp 2f
        .byte 0x90, 'A'
    2:  ret
        .align 16
    helper:
        call runtime.gogo
        jmp main
    .data
    limit: .long 10, -1
        .quad helper, inner + 1
    text db "ab\\n", 0
    """
    result = image(text, "intel")
    assert [f.name for f in result.functions] == ["main", "helper"]
    main, helper = result.functions
    assert helper.address == main.end  # one after the other, nothing between
    assert helper.address % 16 == 0
    inner = next(i for i in main.instructions if "rip + inner" in i.source)
    assert inner.data[-4:] == (-7).to_bytes(4, "little", signed=True)
    data = next(s for s in result.segments if s.writable).data
    assert data[:8] == bytes.fromhex("0a000000ffffffff")
    assert int.from_bytes(data[8:16], "little") == helper.address
    assert int.from_bytes(data[16:24], "little") == inner.address + 1
    assert data[24:28] == b"ab\n\0"
    call = helper.instructions[0]
    assert call.end + int.from_bytes(call.data[1:], "little", signed=True) == 0x401000
    jump = helper.instructions[1]
    assert jump.end + int.from_bytes(jump.data[1:], "little", signed=True) == main.address


def test_all_errors_of_a_file_are_reported() -> None:
    found = errors("moev rax, 1\nmov rax\nmov al, 300\n")
    assert [e.split(":")[1] for e in found] == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("syntax", "statement"),
    [
        ("intel", "mov cr0"),
        ("att", "mov %xmm1, (%rax), %dr1"),
        ("att", "shld %k1, d(%rip)"),
        ("intel", "vpmovm2b xmm1{k1}"),
        ("intel", "push fs, rax"),
    ],
)
def test_operands_of_another_number_or_kind_are_refused(syntax: str, statement: str) -> None:
    source = Source("bad.s", f"f: {statement}\n.data\nd: .quad 1\n")
    with pytest.raises(AsmError):
        assemble([source], Target(syntax=syntax), text_address=0x400000, data_address=0x500000)
