"""Listings of go tool compile -S and go tool objdump, as Go 1.19, 1.22 and 1.27 printed them.

recorded/listings/main.go built with `go build -trimpath -gcflags=-S` (debugging information and
type descriptors left out) and `go tool objdump -s '^main\\.'`.
"""

from __future__ import annotations

import contextlib
import re
import time
from pathlib import Path

import pytest

from asm import go_listing, relink
from asm.assemble import AsmError, Source
from asm.image import Image, TextFlag

LISTINGS = Path(__file__).parent / "recorded/listings"
VERSIONS = ("1.19", "1.22", "1.27")
EXTERNS = {"runtime.morestack_noctxt": 0x401000}


def source(name: str) -> Source:
    return Source(f"{name}.txt", (LISTINGS / f"{name}.txt").read_text(encoding="utf-8"))


def link(text: Source, at: int = 0x480000) -> Image:
    listing = go_listing.read(text)
    assert listing is not None
    return relink.link(listing, text_address=at, data_address=0x600000, externs=EXTERNS)


def code(image: Image, name: str) -> bytes:
    function = image.function(name)
    assert function is not None
    data = b"".join(i.data for i in function.instructions)
    assert len(data) == function.size
    return data


def hex_column(text: str, name: str) -> bytes:
    """The bytes of a function as objdump prints them."""
    body = text.split(f"TEXT {name}(SB)")[1].split("TEXT ", maxsplit=1)[0]
    return b"".join(bytes.fromhex(h) for h in re.findall(r"0x[0-9a-f]+\t+([0-9a-f]+)\t", body))


@pytest.mark.parametrize("version", VERSIONS)
def test_both_tools_give_the_same_machine_code(version: str) -> None:
    compiled = link(source(f"compile_{version}"))
    dumped = link(source(f"objdump_{version}"))
    for name in ("main.sum", "main.spin"):  # they refer to nothing
        assert code(compiled, name) == code(dumped, name)
        assert code(dumped, name) == hex_column(source(f"objdump_{version}").text, name)
    for name in ("main.scale", "main.main"):
        assert len(code(compiled, name)) == len(code(dumped, name))


@pytest.mark.parametrize("version", VERSIONS)
def test_an_objdump_stays_at_its_addresses_or_moves_as_a_whole(version: str) -> None:
    text = source(f"objdump_{version}")
    first = re.search(r"TEXT main\.sum\(SB\).*\n.*?0x([0-9a-f]+)", text.text)
    assert first
    stayed = link(text, 0x400000)
    function = stayed.function("main.sum")
    assert function is not None
    assert function.address == int(first[1], 16)
    moved = link(text, 0x20000000)
    for name in ("main.sum", "main.spin"):
        assert code(moved, name) == code(stayed, name)
    add, total = moved.function("main.(*pair).add"), moved.function("main.sum")
    assert add is not None
    assert total is not None
    call = next(i for i in add.instructions if i.source == "CALL main.sum(SB)")
    assert call.end + int.from_bytes(call.data[1:], "little", signed=True) == total.address


@pytest.mark.parametrize("version", VERSIONS)
def test_relocations_reach_functions_data_and_the_runtime(version: str) -> None:
    image = link(source(f"compile_{version}"))

    def target(function: str, source: str) -> int:
        found = image.function(function)
        assert found is not None
        i = next(i for i in found.instructions if i.source.startswith(source))
        # All of these end with their field.
        return i.end + int.from_bytes(i.data[-4:], "little", signed=True)

    assert target("main.main", "CALL main.spin(SB)") == image.address("main.spin")
    assert target("main.scale", "MOVSD $f64.4002000000000000(SB), X0") == image.address(
        "$f64.4002000000000000"
    )
    assert target("main.main", "CALL runtime.morestack_noctxt(SB)") == 0x401000
    table = image.address("main.table")
    assert table is not None
    assert target("main.scale", "LEAQ main.table(SB)") == table
    segment = next(s for s in image.segments if s.address <= table < s.address + len(s.data))
    assert segment.writable
    values = segment.data[table - segment.address :][:24]
    assert values.hex() == "000000000000f83f00000000000004400000000000000c40"  # 1.5, 2.5, 3.5


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_not_listed_is_a_ud2_under_its_name(version: str) -> None:
    for tool in ("compile", "objdump"):
        image = link(source(f"{tool}_{version}"))
        name = "runtime.panicBounds" if version == "1.27" else "runtime.panicIndex"
        assert code(image, name) == b"\x0f\x0b"


@pytest.mark.parametrize("version", VERSIONS)
def test_pcdata_source_lines_flags_and_frames_are_kept(version: str) -> None:
    image = link(source(f"compile_{version}"))
    function = image.function("main.(*pair).add")
    assert function is not None
    table = function.pcdata[0]
    unsafe = [i.source for i in function.instructions if table.at(i.address) is not None]
    # The rule of obj6.go: from behind the compare to the JLS, and the call of morestack.
    assert [text.split()[0] for text in unsafe if text[:4] not in {"MOVQ", "NOP"}] == [
        "JLS",
        "CALL",
    ]
    assert function.abi == "ABIInternal"
    assert function.args_size == 16
    spin = image.function("main.spin")
    assert spin is not None
    assert TextFlag.NOSPLIT in spin.flags
    assert {i.position.line for i in spin.instructions} <= set(range(15, 21))
    assert {Path(i.position.file).name for i in spin.instructions} == {"main.go"}


def test_a_prefix_and_its_instruction_are_one() -> None:
    text = (
        "main.f STEXT nosplit size=6 args=0x0 locals=0x0\n"
        "\t0x0000 00000 (f.s:1)\tTEXT\tmain.f(SB), NOSPLIT, $0-0\n"
        "\t0x0000 00000 (f.s:2)\tLOCK\n"
        "\t0x0001 00001 (f.s:3)\tXADDQ\tAX, (BX)\n"
        "\t0x0005 00005 (f.s:4)\tRET\n"
        "\t0x0000 f0 48 0f c1 03 c3                                H.....\n"
    )
    image = link(Source("x", text))
    assert [(i.data.hex(), i.source) for i in image.functions[0].instructions] == [
        ("f0480fc103", "LOCK; XADDQ AX, (BX)"),
        ("c3", "RET"),
    ]


def test_go_assembly_is_no_listing() -> None:
    for text in (
        "",
        "TEXT ·f(SB), 4, $0\n\tRET\n",
        "// main.go:1 0x10 c3 RET\n",
        "# x\n#define A 1\n",
    ):
        assert go_listing.read(Source("x", text)) is None


@pytest.mark.parametrize(
    "text",
    [
        "a " * 50_000,
        "a " * 50_000 + "size=",
        "TEXT x(SB)" + " " * 50_000 + "x",
        "\t0x0000 00000 (f:1)\tTEXT\t" + "(SB), " * 30_000,
        "TEXT f(SB) x\n f:1 0x10 e800000000 CALL " + "a " * 30_000 + "\n",
    ],
    ids=["words", "size", "text", "flags", "name"],
)
def test_long_lines_do_not_take_quadratic_time(text: str) -> None:
    start = time.perf_counter()
    with contextlib.suppress(AsmError):
        listing = go_listing.read(Source("x", text))
        if listing is not None:
            relink.link(listing, text_address=0x400000, data_address=0x500000, externs={})
    # The quadratic ways took minutes: this is no measurement of speed.
    assert time.perf_counter() - start < 20


def test_lines_are_counted_as_editors_count_them() -> None:
    with pytest.raises(AsmError, match=r"^x:2:1: "):
        go_listing.read(Source("x", "# a\u2028b\x0bc\nmain.f STEXT size=1\n"))


HEAD = (
    "main.f STEXT nosplit size=2 args=0x0 locals=0x0\n"
    "\t0x0000 00000 (f.go:1)\tTEXT\tmain.f(SB), NOSPLIT, $0-0\n"
)
MOVL = (
    "main.f STEXT size=5 args=0x0\n\t0x0000 00000 (f.go:1)\tMOVL\t$1, AX\n"
    "\t0x0000 b8 00 00 00 00   .....\n"
)
RET = "\t0x0000 00000 (f.go:1)\tRET\n"
DUMPED = "TEXT main.f(SB) f.go\n  f.go:1\t\t0x480000\t\tc3\t\tRET\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (HEAD + RET + "\t0x0000 c3   .\n", "has 1 of the 2 bytes of main.f"),
        (HEAD + RET, "has 0 of the 2 bytes of main.f"),
        (HEAD + "\t0x0002 c3   .\n", "continues elsewhere"),
        (HEAD + "\t0x0000 c3 c3   .\n", "no statement of main.f"),
        (HEAD + "nonsense\n", "no line of a listing of go tool compile -S"),
        (HEAD + "\trel 1+4 t=R_CALL x+0\n", "beyond the 2 bytes"),
        ("\t0x0000 00000 (f.go:1)\tRET\n", "the line of the function"),
        ("  f.go:1\t\t0x480000\t\tc3\t\tRET\n", "the line of the function"),
        (DUMPED + "  f.go:1\t\t0x480003\t\tc3\t\tRET\n", "a gap in main.f"),
        (DUMPED + "what\n", "no line of a listing of go tool objdump"),
        (
            MOVL + "\trel 1+4 t=R_ADDR x+0\n",
            "a relocation R_ADDR of 4 bytes is not modelled",
        ),
    ],
)  # fmt: skip
def test_a_damaged_listing_is_refused_with_its_line(text: str, words: str) -> None:
    with pytest.raises(AsmError, match=re.escape(words)) as caught:
        link(Source("bad.txt", text))
    assert str(caught.value).startswith("bad.txt:")
