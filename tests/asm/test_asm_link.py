"""Symbols, data and references of several files (cmd/asm's DATA and GLOBL, cmd/link's layout)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from asm.assemble import Source, Target, assemble
from asm.image import TextFlag
from asm.listing import listing

if TYPE_CHECKING:
    from asm.image import Image, Segment

TEXT = 0x401000
DATA = 0x500000


def image(*texts: str, go: tuple[int, int] = (1, 22), **externs: int) -> Image:
    return assemble(
        [Source(f"{n}.s", text) for n, text in enumerate(texts)],
        Target(go=go, package="main"),
        text_address=TEXT,
        data_address=DATA,
        externs={name.replace("_", "."): value for name, value in externs.items()},
    )


def segment(of: Image, name: str) -> Segment:
    return next(s for s in of.segments if s.name == name)


def word(of: Image, symbol: str, offset: int = 0) -> int:
    found = of.address(symbol)
    assert found is not None
    for s in of.segments:
        if s.address <= found < s.address + len(s.data):
            at = found - s.address + offset
            return int.from_bytes(s.data[at : at + 8], "little")
    raise AssertionError(symbol)


def test_functions_are_aligned_to_16_and_the_gap_is_int3() -> None:
    linked = image("TEXT ·a(SB), 4, $0\n\tRET\nTEXT ·b(SB), 4, $0\n\tRET\n")
    assert [f.address for f in linked.functions] == [TEXT, TEXT + 16]
    assert segment(linked, ".text").data == b"\xc3" + b"\xcc" * 15 + b"\xc3"


def test_pcalign_raises_the_alignment_of_its_function() -> None:
    linked = image("TEXT ·a(SB), 4, $0\n\tRET\nTEXT ·b(SB), 4, $0\n\tCDQ\n\tPCALIGN $64\n\tRET\n")
    function = linked.functions[1]
    assert function.address % 64 == 0
    assert function.size == 65
    assert function.instructions[1].source == "PCALIGN $64"


def test_calls_and_addresses_reach_across_files_and_to_externs() -> None:
    linked = image(
        "TEXT ·a(SB), 4, $0\n\tCALL ·b(SB)\n\tCALL runtime·gate(SB)\n\tRET\n",
        "TEXT ·b(SB), 516, $0\n\tLEAQ ·a+3(SB), AX\n\tMOVQ $runtime·gate(SB), BX\n\tRET\n",
        runtime_gate=0x700000,
    )
    calls = [i for i in linked.functions[0].instructions if i.source.startswith("CALL")]
    targets = [i.end + struct.unpack("<i", i.data[-4:])[0] for i in calls]
    assert targets == [linked.address("main.b"), 0x700000]
    loads = linked.functions[1].instructions[:2]
    targets = [i.end + struct.unpack("<i", i.data[-4:])[0] for i in loads]
    assert targets == [TEXT + 3, 0x700000]


def test_a_reference_before_an_immediate_counts_from_the_end_of_the_instruction() -> None:
    linked = image(
        "TEXT ·a(SB), 4, $0\n\tCMPQ d<>(SB), $7\n\tMOVL $9, d<>+4(SB)\n\tRET\nGLOBL d<>(SB), $8\n"
    )
    compare, move, _ = linked.functions[0].instructions
    assert compare.end + struct.unpack("<i", compare.data[3:7])[0] == linked.address("d")
    address = linked.address("d")
    assert address is not None
    assert move.end + struct.unpack("<i", move.data[2:6])[0] == address + 4


def test_static_symbols_belong_to_their_file() -> None:
    one = (
        "TEXT ·a(SB), 4, $0\n\tMOVQ v<>(SB), AX\n\tRET\nDATA v<>(SB)/8, $1\nGLOBL v<>(SB), 8, $8\n"
    )
    two = one.replace("·a", "·b").replace("$1\n", "$2\n")
    linked = image(one, two)
    addresses = []
    for function in linked.functions:
        load = function.instructions[0]
        addresses.append(load.end + struct.unpack("<i", load.data[-4:])[0])
    assert addresses[0] != addresses[1]
    rodata = segment(linked, ".rodata")
    assert [rodata.data[a - rodata.address] for a in addresses] == [1, 2]


def test_data_is_laid_out_by_protection_each_on_its_own_pages() -> None:
    linked = image(
        "GLOBL r(SB), 8, $8\nGLOBL n(SB), 16, $8\nDATA n(SB)/8, $1\nGLOBL d(SB), $8\n"
        "DATA d(SB)/8, $2\nGLOBL b(SB), $100\nGLOBL nb(SB), 16, $8\n"
    )
    found = {s.name: s for s in linked.segments}
    assert list(found) == [".rodata", ".noptrdata", ".data", ".noptrbss", ".bss"]
    assert all(s.address % 4096 == 0 for s in linked.segments)
    assert {name for name, s in found.items() if s.writable} == set(found) - {".rodata"}
    assert not any(s.executable for s in linked.segments)
    assert next(s for s in linked.data if s.name == "n").flags is TextFlag.NOPTR


def test_values_of_data() -> None:
    linked = image(
        "TEXT ·f(SB), 4, $0\n\tRET\n"
        'DATA x+0(SB)/8, $·f+4(SB)\nDATA x+8(SB)/8, $"a\\x00\\n"\nDATA x+16(SB)/8, $1.5\n'
        "DATA x+24(SB)/4, $-1.5\nDATA x+28(SB)/4, $-2\nDATA x+32(SB)/1, $'A'\n"
        "DATA x+40(SB)/8, $(1<<40 | 3*5)\nDATA x+48(SB)/8, $runtime·gate(SB)\n"
        "GLOBL x(SB), 8, $56\n",
        runtime_gate=0x7123456789,
    )
    assert word(linked, "x") == TEXT + 4
    assert word(linked, "x", 8) == int.from_bytes(b"a\0\n".ljust(8, b"\0"), "little")
    assert struct.pack("<Q", word(linked, "x", 16)) == struct.pack("<d", 1.5)
    assert struct.pack("<Q", word(linked, "x", 24)) == struct.pack("<fi", -1.5, -2)
    assert word(linked, "x", 32) == 65
    assert word(linked, "x", 40) == 1 << 40 | 15
    assert word(linked, "x", 48) == 0x7123456789


def test_macros_conditions_and_headers() -> None:
    text = (
        '#include "textflag.h"\n#include "offsets.h"\n#define TWICE(r) \\\n\tADDQ r, r; \\\n'
        "\tADDQ r, r\n#ifdef go1_17\n#define G R14\n#else\n#define G CX\n#endif\n"
        "TEXT ·f(SB), NOSPLIT|NOFRAME, $0-0\n\tTWICE(AX)\n\tMOVQ (a+b*2)(G), AX // comment\n\tRET\n"
    )
    for go, register in (((1, 16), "rcx"), ((1, 17), "r14")):
        linked = assemble(
            [Source("m.s", text)],
            Target(go=go, headers={"offsets.h": "#define a 8\n#define b 0x10\n"}),
            text_address=TEXT,
            data_address=DATA,
        )
        code = [i.data.hex() for i in linked.functions[0].instructions]
        load = {"rcx": "488b4128", "r14": "498b4628"}[register]
        assert code == ["4801c0", "4801c0", load, "c3"]


def test_prefixes_and_raw_bytes_form_one_instruction() -> None:
    linked = image(
        "TEXT ·f(SB), 4, $0\n\tLOCK\n\tXADDQ AX, (BX)\n\tREP; MOVSQ\n"
        "\tBYTE $0x0f; BYTE $0x31\n\tBYTE $0x90; WORD $0x9090\n\tBYTE $0xf3\n\tMOVSB\n\tRET\n"
    )
    found = [(i.data.hex(), i.source) for i in linked.functions[0].instructions]
    assert found == [
        ("f0480fc103", "LOCK; XADDQ AX, (BX)"),
        ("f348a5", "REP; MOVSQ"),
        ("0f31", "BYTE $0x0f; BYTE $0x31"),
        ("90", "BYTE $0x90"),
        ("90", "WORD $0x9090"),
        ("90", "WORD $0x9090"),
        ("f3a4", "BYTE $0xf3; MOVSB"),
        ("c3", "RET"),
    ]


def test_n_pc_counts_statements_pseudo_ones_too() -> None:
    linked = image(
        "TEXT ·f(SB), 4, $0\n\tJMP 3(PC)\n\tPCDATA $1, $0\n\tINCQ AX\n\tINCQ BX\n"
        "\tJMP -1(PC)\n\tRET\n"
    )
    first, _, other, back, _ = linked.functions[0].instructions
    assert first.end + first.data[1] == other.address
    assert back.end + back.data[1] - 256 == other.address


def test_two_assemblies_of_one_text_are_equal() -> None:
    text = "TEXT ·f(SB), 0, $16\n\tCALL ·f(SB)\n\tRET\n"
    one, two = (
        assemble(
            [Source("s.s", text)],
            Target(),
            text_address=TEXT,
            data_address=DATA,
            externs={"runtime.morestack_noctxt": TEXT - 64},
        )
        for _ in range(2)
    )
    assert one == two


def test_the_listing_shows_address_bytes_and_source() -> None:
    linked = image("TEXT ·f(SB), 4, $0\n\tMOVQ $1, AX\n\tRET\nGLOBL v(SB), $8\n")
    assert listing(linked).splitlines() == [
        "main.f  ABI0  8 bytes  0.s:1:1",
        "0x00401000  48 c7 c0 01 00 00 00             MOVQ $1, AX",
        "0x00401007  c3                               RET",
        "",
        "0x00500000  v  8 bytes",
    ]
