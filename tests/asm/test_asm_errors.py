"""Each kind of bad input gets one message with file, line, column and a caret; nothing else."""

from __future__ import annotations

import contextlib
import time
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from asm.assemble import AsmError, GoAsmH, Source, Target, assemble
from pushcall.snippet.program import read_source

if TYPE_CHECKING:
    from pathlib import Path


def errors(text: str, **target: object) -> list[str]:
    with pytest.raises(AsmError) as caught:
        assemble(
            [Source("bad.s", text)],
            Target(**target),  # type: ignore[arg-type]
            text_address=0x400000,
            data_address=0x500000,
        )
    return [str(d) for d in caught.value.diagnostics]


def error(statement: str, **target: object) -> str:
    found = errors(f"TEXT ·f(SB), 4, $16-8\n{statement}\nRET\n", **target)
    assert len(found) == 1, found
    return found[0]


def test_an_error_shows_the_place_the_line_and_a_caret_at_the_operand() -> None:
    assert error("\tMOVQ\tAX, 8(AXX)") == (
        "bad.s:2:13: expected a register, found AXX\n"
        "\tMOVQ\tAX, 8(AXX)\n"
        "\t    \t      ^~~\n"
        "did you mean AX?"
    )


@pytest.mark.parametrize(
    ("statement", "column", "words"),
    [
        ("MOVEQ AX, BX", 1, "unknown instruction MOVEQ"),
        ("MOVQ AX, BXX", 10, "BXX is neither a register nor an address"),
        ("MOVQ AL, BX", 6, "MOVQ does not take the register AL"),
        ("MOVQ AX", 1, "MOVQ takes two operands"),
        ("MOVQ AX, BX, CX", 1, "MOVQ takes two operands"),
        ("ADDQ AX, $1", 1, "ADDQ does not take these operands"),
        ("ADDQ (AX), (BX)", 1, "ADDQ does not take these operands"),
        ("ADDQ $0x80000000, AX", 6, "does not fit in 32 bits, sign-extended"),
        ("ADDB $256, AX", 6, "does not fit in 8 bits"),
        ("MOVB $300, AX", 6, "does not fit in 8 bits"),
        ("MOVQ $0x123456789, (AX)", 6, "does not fit in 32 bits, sign-extended"),
        ("MOVQ 0x123456789(AX), BX", 6, "does not fit in 32 bits"),
        ("MOVQ $18446744073709551616, AX", 7, "does not fit in 64 bits"),
        ("MOVQ $(1/0), AX", 9, "division by zero"),
        ("MOVQ $(1+2, AX", 1, ""),
        ("MOVQ 8(AX, BX", 1, ""),
        ("MOVQ (AX)(BX), CX", 11, "the index needs a scale"),
        ("MOVQ (AX)(BX*3), CX", 14, "scale must be 1, 2, 4 or 8"),
        ("MOVQ (AX)(SP*1), CX", 6, "SP cannot be an index"),
        ("MOVQ (AX)(X1*1), CX", 6, "X1 cannot be part of an address"),
        ("MOVQ 8(FP), CX", 8, "FP needs a name"),
        ("MOVQ 8(SB), CX", 8, "SB needs a name"),
        ("MOVQ x+8(AX), CX", 6, "x is not defined: no header has it as a macro"),
        ("MOVQ x+8(YZ), CX", 10, "expected (SB), (FP) or (SP)"),
        ("POPL AX", 1, "unknown instruction POPL"),
        ("MOVQ $AX, BX", 7, "$ does not go with a register"),
        ("MOVQ, AX", 5, "expected an operand before this"),
        ("MOVQ AX,", 8, "expected an operand after this"),
        ("JMP nowhere", 5, "no label nowhere"),
        ("JMP 9(PC)", 5, "leaves main.f"),
        ("JEQ missing(SB)", 5, "JEQ cannot go there"),
        ("CALL missing(SB)", 6, "undefined symbol missing"),
        ("MOVQ ·fn(SB), AX", 6, "undefined symbol main.fn"),
        ("SHLQ BX, AX", 6, "takes its count as an immediate or in CX"),
        ("SHLQ $256, AX", 6, "out of range"),
        ("MOVB AH, R8", 1, "do not go with a register that needs REX"),
        ("MOVQ $1.5, AX", 6, "takes no floating-point constant"),
        ('MOVQ $"text", AX', 6, "takes no string"),
        ("MOVQ.Z AX, BX", 1, "MOVQ takes no suffix"),
        ("VADDPD.Z X1, X2, X3", 1, "zeroing needs a mask register"),
        ("VADDPD.XYZ X1, X2, X3", 1, "unknown suffix .XYZ"),
        ("VADDPD Z1, Y2, Z3", 1, "VADDPD does not take these operands"),
        ("VADDPD Z1, Z2, K0, Z3", 16, "K0 cannot be a mask"),
        ("VPGATHERDQ Y1, (AX)(X1*1), Y3", 1, "needs distinct registers"),
        ("PCDATA $0", 1, "PCDATA takes $table, $value"),
        ("PCALIGN $3", 9, "power of two"),
        ("BYTE AX", 1, "BYTE takes one constant"),
        ("LOCK AX", 6, "LOCK takes no operand"),
        ("UD1", 1, "UD1 does not take these operands"),
        ("8(AX)", 1, "expected an instruction"),
        ("JMP", 1, "JMP takes one operand"),
        ("RET $8", 5, "RET takes nothing or symbol(SB)"),
        ("RET AX", 5, "RET takes nothing or symbol(SB)"),
        ("NOP AX, BX", 9, "NOP takes nothing, a register or an address"),
        ("NOP AL", 5, "NOP takes nothing, a register or an address"),
        ("NOP.Z AX", 1, "NOP takes no suffix"),
        ("SHA1RNDS4 $4, X1, X2", 11, "SHA1RNDS4 selects $0 to $3"),
        ("XABORT $-1", 8, "XABORT takes 0 to 255"),
        ("MOVQ M1, X1", 1, "MOVQ does not take these operands"),
        ("MOVSD $1e400, X1", 8, "1e400 is not a 64-bit floating-point number"),
        ("IMUL3Q $8, 8(FS), AX", 12, "loses the segment"),
        ("MOVQ é, AX", 6, ""),
        ("MOVQ @, AX", 6, ""),
        ("PUSHQ AX", 1, "unbalanced"),
    ],
)
def test_bad_statement(statement: str, column: int, words: str) -> None:
    message = error(statement)
    place = "bad.s:3:1" if "unbalanced" in words else f"bad.s:2:{column}"
    if words:
        assert message.startswith(f"{place}: "), message
    assert words in message.splitlines()[0]


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("MOVEQ AX, BX", "did you mean MOVQ?"),
        ("MOVQ AX, (R16)", "did you mean R15?"),
        ("loop: JMP lop", "did you mean loop?"),
        ("CALL ·ff(SB)", "did you mean main.f?"),
        ("VADPD X1, X2, X3", "did you mean VADDPD?"),
    ],
)
def test_a_near_miss_is_suggested(text: str, note: str) -> None:
    assert error(text).splitlines()[-1] == note


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("MOVQ AX, BX\n", "MOVQ stands before any TEXT"),
        ("label:\n", "stands before any TEXT"),
        ("TEXT ·f(SB), NOSPLIT, $0\nRET\n", "unknown flag NOSPLIT"),
        ("TEXT ·f(SB), 4\nRET\n", "the frame size must be"),
        ("TEXT ·f(SB)\nRET\n", "TEXT takes"),
        ("TEXT ·f, 4, $0\nRET\n", "neither a register nor an address"),
        ("TEXT f(FP), 4, $0\nRET\n", "TEXT needs a symbol"),
        ("TEXT ·f(SB), 4, $x\nRET\n", "the frame size must be a number"),
        ("TEXT ·f(SB), 4, $7\nRET\n", "not a multiple of 8"),
        ("TEXT ·f(SB), 4, $0\nRET\nTEXT ·f(SB), 4, $0\nRET\n", "main.f is already defined"),
        ("TEXT ·f(SB), 4, $0\na: RET\na: RET\n", "label a is already defined"),
        ("DATA x(SB)/8, $1\n", "which no GLOBL declares"),
        ("DATA x(SB), $1\nGLOBL x(SB), $8\n", "DATA needs a width"),
        ("DATA x(SB)/3, $1\nGLOBL x(SB), $8\n", "cannot be 3 bytes wide"),
        ("DATA x(SB)/8, AX\nGLOBL x(SB), $8\n", "must be an immediate"),
        ("DATA x+8(SB)/8, $1\nGLOBL x(SB), $8\n", "beyond the 8 bytes"),
        ('DATA x(SB)/2, $"abc"\nGLOBL x(SB), $8\n', "3 bytes do not fit in 2"),
        ("DATA x(SB)/8, $y(SB)\nGLOBL x(SB), $8\n", "undefined symbol y"),
        ("GLOBL x(SB), $8\nGLOBL x(SB), $8\n", "already defined"),
        ("GLOBL x(SB), $-1\n", "size must be"),
        ('#include "nothing.h"\n', "no file nothing.h"),
        ("#ifdef A\n", "without #endif"),
        ("#endif\n", "#endif without"),
        ("#else\n", "#else without"),
        ("#elif A\n", "unknown directive"),
        ("#undef A\n", "not defined"),
        ("#define A 1\n#define A 2\n", "already defined"),
        ("#define A(x, x) 1\n", "second parameter"),
        ("#define A(x) MOVQ x, AX\nTEXT ·f(SB), 4, $0\nA(1, 2)\nRET\n", "takes 1 arguments"),
        ("#define A(x) x\nTEXT ·f(SB), 4, $0\nA(1\nRET\n", "not closed"),
        ("#define A A\nTEXT ·f(SB), 4, $0\nA\nRET\n", "nested too deeply"),
        ('TEXT ·f(SB), 4, $0\nMOVQ $"abc, AX\nRET\n', "string is not closed"),
        ("/* no end\n", "comment is not closed"),
        ("GLOBL a(SB), $0x20000000\nGLOBL b(SB), $8\n", "data of more than 256 MiB"),
        ("TEXT ·f(SB), 4, $0\nMOVQ $1" + ">>1" * 3000 + ", AX\n", "too deeply"),
        ("TEXT ·f(SB), 4, $0\nJCXZQ far\n" + "MOVQ 100(AX), AX\n" * 40 + "far: RET\n", "127 bytes"),
        ("TEXT ·f(SB), 4, $0\nMOVQ $" + "(" * 1000 + "1" + ")" * 1000 + ", AX\n", "too deeply"),
    ],
)
def test_bad_file(text: str, words: str) -> None:
    found = errors(text)
    assert any(words in message for message in found), found
    assert all(message.startswith("bad.s:") for message in found)


def test_a_near_miss_of_a_name_that_a_header_defines_is_suggested() -> None:
    header = GoAsmH("a table", lambda: "#define g_stackguard0 16\n#define const_xRegs 3\n")
    for operand, name in (
        ("g_stackguard(R14)", "g_stackguard0"),
        ("$const_xReg", "const_xRegs"),
        ("(g_stackgard0+8)(R14)", "g_stackguard0"),
    ):
        found = errors(
            f'#include "go_asm.h"\nTEXT ·f(SB), 4, $0\n\tMOVQ {operand}, AX\n\tRET\n',
            go_asm_h=header,
        )
        assert found[0].endswith(f"did you mean {name}?")


@pytest.mark.parametrize(
    ("statement", "name", "near"),
    [
        ("MOVQ $const_foo, AX", "const_foo", None),
        ("MOVQ $const_xReg, AX", "const_xReg", "const_xRegs"),
        ("MOVQ g_stackgard0(R14), AX", "g_stackgard0", "g_stackguard0"),
        ("MOVQ (g_nothing+8)(R14), AX", "g_nothing", None),
        ("MOVQ $(const_bar+1), AX", "const_bar", None),
        ("SUBQ $g__siz, SP", "g__siz", "g__size"),
    ],
)
def test_an_unknown_name_of_go_asm_h_says_which_versions_table_lacks_it(
    statement: str, name: str, near: str | None
) -> None:
    table = "#define g_stackguard0 16\n#define const_xRegs 3\n#define g__size 400\n"
    header = GoAsmH("the table of Go 1.24", lambda: table)
    text = f'#include "go_asm.h"\nTEXT ·f(SB), 4, $0\n\t{statement}\n\tRET\n'
    lines = errors(text, go_asm_h=header, go=(1, 24))[0].splitlines()
    assert lines[0].endswith(f": {name}: not in the table of Go 1.24")
    assert lines[3:] == ([f"did you mean {near}?"] if near else [])
    # Without the header it is a name like any other.
    assert "table" not in errors(text.replace("#include", "//"), go_asm_h=header)[0]


@pytest.mark.parametrize("word", ["MOVSD", "NOPL", "NOPW"])
def test_what_intel_has_without_operands_and_go_has_not_is_refused(word: str) -> None:
    # go tool asm 1.27: "invalid instruction" for each.
    assert f"{word} needs operands" in error(word)


def test_a_file_that_includes_itself_ends() -> None:
    found = errors('#include "again.h"\n', headers={"again.h": '#include "again.h"\n'})
    assert "nested too deeply" in found[0]


def test_macros_that_explode_are_stopped() -> None:
    doubling = "".join(f"#define A{n} A{n + 1} A{n + 1}\n" for n in range(60))
    assert "expand to too much" in errors(f"{doubling}TEXT ·f(SB), 4, $0\nA0\nRET\n")[0]


def test_all_errors_of_a_file_are_reported_in_the_order_of_its_lines() -> None:
    found = errors(
        "TEXT ·f(SB), 4, $0\n\tMOVEQ AX, BX\n\tADDQ AX, $1\n\tJMP away\n\tCALL ·g(SB)\n\tRET\n"
    )
    assert [message.split(":")[1] for message in found] == ["2", "3", "4"]
    # An undefined symbol is reported when all statements are understood.
    assert "main.g" in errors("TEXT ·f(SB), 4, $0\nCALL ·g(SB)\nCALL ·h(SB)\nRET\n")[0]


def test_an_error_in_a_macro_names_the_definition() -> None:
    message = errors("#define BAD(r) MOVEQ r, AX\nTEXT ·f(SB), 4, $0\n\tBAD(CX)\n\tRET\n")[0]
    assert message.startswith("bad.s:3:2: unknown instruction MOVEQ\n\tBAD(CX)\n\t^~~~~~~\n")
    assert message.endswith("in a macro defined at bad.s:1:16")


def test_a_hopeless_file_gets_at_most_a_hundred_messages() -> None:
    assert len(errors("TEXT ·f(SB), 4, $0\n" + "NONSENSE AX\n" * 5000)) == 100


@pytest.mark.parametrize(
    "text",
    [
        "#define A \\\n" * 20_000,
        "TEXT ·f(SB), 4, $0\n" + "JMP 1(PC)\n" * 5_000 + "RET\n",
        "TEXT ·f(SB), 0, $8\n" + "JEQ end\nRET\n" * 3_000 + "end: RET\n",
        "TEXT ·f(SB), 4, $0\n" + "BYTE $0x66\n" * 10_000 + "RET\n",
        "TEXT ·f(SB), 4, $0\nMOVQ $0x" + "1" * 100_000 + ", AX\nRET\n",
        "TEXT ·f(SB), 4, $0\nMOVQ $" + "9" * 100_000 + ", AX\nRET\n",
        "a: " * 30_000,
        '"' + '\\"' * 30_000,
    ],
    ids=[
        "continuations",
        "jumps",
        "returns",
        "bytes",
        "hexadecimal",
        "decimal",
        "labels",
        "quotes",
    ],
)
def test_large_inputs_do_not_take_quadratic_time(text: str) -> None:
    start = time.perf_counter()
    with contextlib.suppress(AsmError):
        assemble([Source("big.s", text)], Target(), text_address=0, data_address=1 << 20)
    # The quadratic ways took minutes: this is no measurement of speed.
    assert time.perf_counter() - start < 20


def test_control_characters_of_a_line_do_not_reach_the_terminal() -> None:
    (message, *_) = errors("TEXT ·f(SB), 4, $0\n\tMOVQ $1\x1b[2J, AX\n\tRET\n")
    assert "\x1b" not in message
    assert "\tMOVQ $1\ufffd[2J, AX\n" in message


@pytest.mark.parametrize(
    "statement",
    [
        # A vector index is of the address, not of the immediate; registers 16 to 31 are EVEX's.
        "VSCATTERPF0DPD K2, $-128",
        "RORXL (AX)(Y1*1), BX, CX",
        "PSLLDQ $0, X16",
    ],
)
def test_operands_that_no_form_takes_are_refused(statement: str) -> None:
    assert "does not take these operands" in error(statement)


def test_one_macro_cannot_fill_the_memory_before_it_is_stopped() -> None:
    # A thousand times ten thousand tokens, by a single invocation.
    text = f"#define A(x) {'x ' * 1000}\nA({'1 ' * 10_000})\n"
    tracemalloc.start()
    assert "expand to too much" in errors(text)[0]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40 << 20


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    # go tool asm 1.22.10 takes both files.
    (tmp_path / "mark.h").write_text("#define N 1\n", encoding="utf-8-sig")
    main = tmp_path / "main.s"
    text = '#include "mark.h"\nTEXT \u00b7f(SB), 4, $0\n\tMOVL $N, AX\n'
    main.write_text(text, encoding="utf-8-sig")
    found = assemble([read_source(main)], Target(), text_address=0x400000, data_address=0x500000)
    assert found.segments[0].data.hex() == "b801000000"
