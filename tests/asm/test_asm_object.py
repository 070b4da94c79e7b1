"""Objects: what a file does not define is left to a linker, with relocations of the AMD64 psABI.

pyelftools reads them; where GNU ld is, it links them to the bytes that we link ourselves.
"""

from __future__ import annotations

import io
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from elftools.elf.elffile import ELFFile

from asm import go_listing, relink
from asm.assemble import AsmError, Source, Target, assemble
from asm.elf import relocatable

if TYPE_CHECKING:
    from pathlib import Path

    from asm.image import Image

TEXT_ADDRESS, DATA_ADDRESS = 0x480000, 0x500000
ONE = """\
TEXT ·f(SB), 4, $8-0
	MOVQ ·x(SB), AX
	CMPB ·far+3(SB), $1
	CALL runtime·gogo(SB)
	CALL ·g(SB)
	CALL own<>(SB)
	MOVQ $table<>(SB), BX
	JMP ·h(SB)
TEXT ·g(SB), 4, $0
	RET
TEXT own<>(SB), 4, $0
	MOVSD $1.5, X0
	RET
DATA ·x(SB)/8, $7
GLOBL ·x(SB), 16, $8
DATA table<>+0(SB)/8, $·g(SB)
DATA table<>+8(SB)/8, $·h+5(SB)
DATA table<>+16(SB)/8, $·x+1(SB)
GLOBL table<>(SB), 24, $24
"""
OTHER = """\
TEXT ·h(SB), 4, $0
	CALL ·f(SB)
	RET
TEXT runtime·gogo(SB), 4, $0
	RET
GLOBL ·far(SB), 16, $64
"""
# What readelf calls them, as (type, symbol, addend): the addend of a 4-byte field counts from the
# field to the end of the instruction, which CMPB's immediate puts a byte farther.
WANTED = {
    ("R_X86_64_PC32", "main.x", -4),
    ("R_X86_64_PC32", "main.far", 3 - 5),
    ("R_X86_64_PLT32", "runtime.gogo", -4),
    ("R_X86_64_PC32", "table", -4),
    ("R_X86_64_PLT32", "main.h", -4),
    ("R_X86_64_PC32", "$f64.3ff8000000000000", -4),
    ("R_X86_64_64", "main.g", 0),
    ("R_X86_64_64", "main.h", 5),
    ("R_X86_64_64", "main.x", 1),
}
NAMES = {1: "R_X86_64_64", 2: "R_X86_64_PC32", 4: "R_X86_64_PLT32"}


def image(*texts: str, undefined: bool = True) -> Image:
    return assemble(
        [Source(f"{n}.s", text) for n, text in enumerate(texts)],
        Target(),
        text_address=TEXT_ADDRESS,
        data_address=DATA_ADDRESS,
        undefined=undefined,
    )


def relocations(data: bytes, *sections: str) -> list[tuple[str, str, int]]:
    elf = ELFFile(io.BytesIO(data))
    symtab = elf.get_section_by_name(".symtab")
    return [
        (NAMES[r["r_info_type"]], symtab.get_symbol(r["r_info_sym"]).name, r["r_addend"])
        for name in sections
        for r in elf.get_section_by_name(name).iter_relocations()
    ]


def test_an_object_has_a_relocation_for_whatever_lies_in_another_section_or_file() -> None:
    data = relocatable(image(ONE))
    found = relocations(data, ".rela.text", ".rela.rodata")
    assert set(found) == WANTED
    assert len(found) == len(WANTED)


def test_fields_left_open_are_zero_and_the_rest_is_linked_code() -> None:
    open_, whole = image(ONE), image(ONE, OTHER, undefined=False)
    fields = {r.address + n for r in open_.undefined for n in range(r.type.size)}
    for segment in open_.segments:
        other = next(s for s in whole.segments if s.name == segment.name)
        for at, byte in enumerate(segment.data):
            address = segment.address + at
            assert byte == (0 if address in fields else other.data[at]), hex(address)


def test_undefined_symbols_are_undefined_and_static_ones_local() -> None:
    symtab = ELFFile(io.BytesIO(relocatable(image(ONE)))).get_section_by_name(".symtab")
    found = {
        s.name: (s["st_info"]["bind"], s["st_shndx"] == "SHN_UNDEF") for s in symtab.iter_symbols()
    }
    for name in ("main.far", "main.h", "runtime.gogo"):
        assert found[name] == ("STB_GLOBAL", True)
    for name in ("own", "table"):
        assert found[name] == ("STB_LOCAL", False)
    assert found["main.f"] == ("STB_GLOBAL", False)
    assert found["$f64.3ff8000000000000"] == ("STB_WEAK", False)  # DUPOK in every object
    locals_ = [s["st_info"]["bind"] == "STB_LOCAL" for s in symtab.iter_symbols()]
    assert symtab["sh_info"] == locals_.index(False) == sum(locals_)


def test_a_static_symbol_that_is_nowhere_is_an_error() -> None:
    with pytest.raises(AsmError, match="undefined symbol nowhere<>"):
        image("TEXT ·f(SB), 4, $0\n\tCALL nowhere<>(SB)\n\tRET\n")


def test_the_two_abis_of_a_name_are_told_apart_as_gos_linker_does() -> None:
    text = "TEXT ·f<ABIInternal>(SB), 4, $0\n\tRET\nTEXT ·f(SB), 4, $0\n\tRET\n"
    symtab = ELFFile(io.BytesIO(relocatable(image(text)))).get_section_by_name(".symtab")
    assert {"main.f", "main.f.abi0"} <= {s.name for s in symtab.iter_symbols()}


@pytest.mark.skipif(shutil.which("ld") is None, reason="GNU ld is not installed")
def test_gnu_ld_links_objects_to_the_bytes_that_we_link(tmp_path: Path) -> None:
    for name, text in (("one", ONE), ("other", OTHER)):
        (tmp_path / f"{name}.o").write_bytes(relocatable(image(text)))
    whole = image(ONE, OTHER, undefined=False)
    addresses = {s.name: s.address for s in whole.segments}
    script = "".join(f"{n} {a:#x} : {{ *({n}) }}\n" for n, a in addresses.items())
    (tmp_path / "script").write_text(f"SECTIONS {{ {script} }}\n")
    subprocess.run(
        ["ld", "-T", "script", "-e", "main.f", "-o", "out", "one.o", "other.o"],
        cwd=tmp_path,
        check=True,
    )
    with (tmp_path / "out").open("rb") as file:
        elf = ELFFile(file)
        for segment in whole.segments:
            linked = elf.get_section_by_name(segment.name).data()
            code = [f for f in whole.functions if segment.executable]
            if not code:
                assert linked[: len(segment.data)] == segment.data, segment.name
            for function in code:
                at = function.address - segment.address
                assert linked[at : at + function.size] == segment.data[at : at + function.size]


@pytest.mark.skipif(shutil.which("objdump") is None, reason="objdump is not installed")
def test_objdump_shows_relocations_and_lines(tmp_path: Path) -> None:
    (tmp_path / "f.o").write_bytes(relocatable(image(ONE)))
    shown = subprocess.run(
        ["objdump", "-drl", "f.o"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert shown.stderr == ""
    assert "R_X86_64_PLT32\truntime.gogo-0x4" in shown.stdout
    assert "R_X86_64_PC32\tmain.far-0x2" in shown.stdout
    assert "0.s:4" in shown.stdout


def test_an_object_of_a_listing_leaves_open_what_is_not_listed() -> None:
    text = (
        "main.f STEXT nosplit size=6 args=0x0 locals=0x0 funcid=0x0\n"
        "\t0x0000 00000 (f.go:3)\tTEXT\tmain.f(SB), NOSPLIT|ABIInternal, $0-0\n"
        "\t0x0000 00000 (f.go:4)\tCALL\tmain.g(SB)\n"
        "\t0x0005 00005 (f.go:5)\tRET\n"
        "\t0x0000 e8 00 00 00 00 c3  ......\n"
        "\trel 1+4 t=R_CALL main.g+0\n"
    )
    listing = go_listing.read(Source("S", text))
    assert listing is not None
    linked = relink.link(
        listing,
        text_address=TEXT_ADDRESS,
        data_address=DATA_ADDRESS,
        externs={},
        undefined=True,
    )
    assert [f.name for f in linked.functions] == ["main.f"]
    assert relocations(relocatable(linked), ".rela.text") == [("R_X86_64_PLT32", "main.g", -4)]
