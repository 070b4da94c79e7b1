"""The ELF file: read by pyelftools, and by objdump and gdb where they are."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from elftools.elf.elffile import ELFFile

from asm.assemble import Source, Target, assemble
from asm.elf import executable

if TYPE_CHECKING:
    from pathlib import Path

    from asm.image import Image

TEXT = """\
TEXT ·f(SB), 4, $8-0
	MOVQ ·x(SB), AX
	CALL runtime·gogo(SB)
	RET
TEXT ·g(SB), 4, $0
	RET
DATA ·x(SB)/8, $7
GLOBL ·x(SB), 16, $8
GLOBL ·y(SB), 16, $100
"""
EXTERNS = {"runtime.gogo": 0x401000}


@pytest.fixture(scope="module")
def image() -> Image:
    return assemble(
        [Source("f.s", TEXT)],
        Target(),
        text_address=0x480000,
        data_address=0x500000,
        externs=EXTERNS,
    )


@pytest.fixture
def data(image: Image) -> bytes:
    return executable(image, 0x480000, EXTERNS)


def test_segments_lie_where_the_image_has_them(image: Image, data: bytes) -> None:
    elf = ELFFile(io.BytesIO(data))
    assert (elf["e_type"], elf["e_machine"], elf["e_entry"]) == ("ET_EXEC", "EM_X86_64", 0x480000)
    loaded = {s["p_vaddr"]: s for s in elf.iter_segments("PT_LOAD")}
    assert set(loaded) == {s.address for s in image.segments}
    for segment in image.segments:
        header = loaded[segment.address]
        assert header.data() == segment.data
        assert bool(header["p_flags"] & 2) == segment.writable
        assert bool(header["p_flags"] & 1) == segment.executable
        assert (header["p_offset"] - header["p_vaddr"]) % 4096 == 0


def test_every_function_and_datum_has_a_symbol(image: Image, data: bytes) -> None:
    symtab = ELFFile(io.BytesIO(data)).get_section_by_name(".symtab")
    found = {
        s.name: (s["st_value"], s["st_size"], s["st_info"]["type"]) for s in symtab.iter_symbols()
    }
    for function in image.functions:
        assert found[function.name] == (function.address, function.size, "STT_FUNC")
    for symbol in image.data:
        assert found[symbol.name] == (symbol.address, symbol.size, "STT_OBJECT")
    assert found["runtime.gogo"] == (0x401000, 0, "STT_NOTYPE")
    (extern,) = symtab.get_symbol_by_name("runtime.gogo")
    assert extern["st_shndx"] == "SHN_ABS"


def test_the_line_table_has_each_instruction(image: Image, data: bytes) -> None:
    dwarf = ELFFile(io.BytesIO(data)).get_dwarf_info()
    (unit,) = dwarf.iter_CUs()
    program = dwarf.line_program_for_CU(unit)
    assert program is not None
    files = [entry.name.decode() for entry in program["file_entry"]]
    rows = {}
    for entry in program.get_entries():
        if entry.state is not None and not entry.state.end_sequence:
            rows[entry.state.address] = (files[entry.state.file - 1], entry.state.line)
    assert rows == {
        i.address: (i.position.file, i.position.line)
        for f in image.functions
        for i in f.instructions
    }


@pytest.mark.skipif(shutil.which("objdump") is None, reason="objdump is not installed")
def test_objdump_shows_the_same_instructions_at_their_lines(
    image: Image, data: bytes, tmp_path: Path
) -> None:
    (tmp_path / "f.elf").write_bytes(data)
    shown = subprocess.run(
        ["objdump", "-dl", "f.elf"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert shown.stderr == ""
    found: dict[int, tuple[str, int]] = {}
    line = 0
    for text in shown.stdout.splitlines():
        if match := re.match(r".*f\.s:(\d+)", text):
            line = int(match[1])
        elif match := re.match(r" *([0-9a-f]+):\t((?:[0-9a-f]{2} )+)", text):
            found[int(match[1], 16)] = (match[2].replace(" ", ""), line)
    for function in image.functions:
        for i in function.instructions:
            at, rest = i.address, i.data.hex()
            while rest:  # objdump breaks lines at seven bytes
                assert rest.startswith(found[at][0])
                assert found[at][1] == i.position.line
                at, rest = at + len(found[at][0]) // 2, rest[len(found[at][0]) :]


@pytest.mark.skipif(shutil.which("gdb") is None, reason="gdb is not installed")
def test_gdb_finds_functions_and_lines(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "f.elf").write_bytes(data)
    (tmp_path / "f.s").write_text(TEXT)
    shown = subprocess.run(
        ["gdb", "-nx", "-batch", "-ex", "info line *0x480009", "-ex", "break main.g", "f.elf"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert 'Line 2 of "f.s" starts at address 0x480008 <main.f+8>' in shown.stdout
    assert "file f.s, line 6." in shown.stdout
