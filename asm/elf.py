"""An image as an ELF file that objdump and gdb read (the System V ABI, gABI and AMD64 supplement).

A static executable: an image is linked, each segment at its address. Symbols stand in .symtab,
source lines in .debug_line (DWARF 4, section 6.2) with the one compilation unit that gdb wants
to see in .debug_info. What the code refers to elsewhere (the runtime) is no part of the file;
its symbols are absolute.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from asm.image import Image

PAGE = 4096
_EHDR, _PHDR, _SHDR = 64, 56, 64
ET_EXEC, EM_X86_64 = 2, 62
PT_LOAD, PT_GNU_STACK = 1, 0x6474E551
PF_X, PF_W, PF_R = 1, 2, 4
SHT_PROGBITS, SHT_SYMTAB, SHT_STRTAB = 1, 2, 3
SHF_WRITE, SHF_ALLOC, SHF_EXECINSTR = 1, 2, 4
SHN_ABS = 0xFFF1
STB_LOCAL, STB_GLOBAL = 0, 1
STT_NOTYPE, STT_OBJECT, STT_FUNC, STT_FILE = 0, 1, 2, 4

DW_TAG_compile_unit = 0x11
DW_AT_name, DW_AT_stmt_list, DW_AT_low_pc, DW_AT_high_pc = 0x03, 0x10, 0x11, 0x12
DW_AT_language, DW_AT_comp_dir, DW_AT_producer = 0x13, 0x1B, 0x25
DW_FORM_addr, DW_FORM_data2, DW_FORM_data8, DW_FORM_string = 0x01, 0x05, 0x07, 0x08
DW_FORM_sec_offset = 0x17
DW_LANG_Mips_Assembler = 0x8001
DW_LNS_copy, DW_LNS_advance_pc, DW_LNS_advance_line, DW_LNS_set_file = 1, 2, 3, 4
DW_LNE_end_sequence, DW_LNE_set_address = 1, 2
# Of the standard opcodes 1 to 12, how many operands each has (6.2.4).
_OPERANDS = bytes((0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1))


@dataclass
class _Section:
    name: str
    type: int
    flags: int = 0
    address: int = 0
    data: bytes = b""
    link: int = 0
    info: int = 0
    alignment: int = 1
    entry_size: int = 0
    offset: int = 0


class _Symbol(NamedTuple):
    name: str
    value: int
    size: int
    type: int
    section: int
    binding: int = STB_GLOBAL


def executable(image: Image, entry: int, externs: Mapping[str, int] | None = None) -> bytes:
    """The bytes of an executable.

    Args:
        image: what was assembled; it must have code.
        entry: the address that e_entry names.
        externs: addresses of symbols that the image refers to and does not hold.
    """
    sections = [_Section("", 0)]
    for segment in image.segments:
        flags = SHF_ALLOC | (SHF_WRITE if segment.writable else 0)
        flags |= SHF_EXECINSTR if segment.executable else 0
        sections.append(
            _Section(
                segment.name, SHT_PROGBITS, flags, segment.address, segment.data, alignment=PAGE
            )
        )
    loaded = len(sections) - 1
    names, table, local = _symbols(image, sections, externs or {})
    sections += [
        _Section(".debug_abbrev", SHT_PROGBITS, data=_abbreviations()),
        _Section(".debug_info", SHT_PROGBITS, data=_unit(image)),
        _Section(".debug_line", SHT_PROGBITS, data=_lines(image)),
    ]
    symtab = len(sections)
    sections += [
        _Section(
            ".symtab", SHT_SYMTAB, data=table, link=symtab + 1, info=local, alignment=8,
            entry_size=24,
        ),
        _Section(".strtab", SHT_STRTAB, data=names),
    ]  # fmt: skip
    section_names, offsets = _strings([s.name for s in sections] + [".shstrtab"])
    sections.append(_Section(".shstrtab", SHT_STRTAB, data=section_names))
    return _file(sections, offsets, loaded, entry)


def _file(sections: list[_Section], names: list[int], loaded: int, entry: int) -> bytes:
    headers = loaded + 1
    out = bytearray(_EHDR + headers * _PHDR)
    for section in sections[1:]:
        if section.flags & SHF_ALLOC:
            # A page in the file for a page in memory.
            out += bytes((section.address - len(out)) % PAGE)
        else:
            out += bytes(-len(out) % section.alignment)
        section.offset = len(out)
        out += section.data
    out += bytes(-len(out) % 8)
    at = len(out)
    for section, name in zip(sections, names, strict=True):
        out += struct.pack(
            "<IIQQQQIIQQ", name, section.type, section.flags, section.address, section.offset,
            len(section.data), section.link, section.info,
            section.alignment if section.type else 0, section.entry_size,
        )  # fmt: skip
    ident = b"\x7fELF" + bytes((2, 1, 1)) + bytes(9)  # 64 bits, little-endian, version 1
    struct.pack_into(
        "<16sHHIQQQIHHHHHH", out, 0, ident, ET_EXEC, EM_X86_64, 1, entry, _EHDR, at, 0,
        _EHDR, _PHDR, headers, _SHDR, len(sections), len(sections) - 1,
    )  # fmt: skip
    segments = [
        (PT_LOAD, _protection(s), s.offset, s.address, len(s.data), PAGE)
        for s in sections[1 : loaded + 1]
    ]
    segments.append((PT_GNU_STACK, PF_R | PF_W, 0, 0, 0, 16))
    for number, (kind, flags, offset, address, size, alignment) in enumerate(segments):
        struct.pack_into(
            "<IIQQQQQQ", out, _EHDR + number * _PHDR, kind, flags, offset, address, address, size,
            size, alignment,
        )  # fmt: skip
    return bytes(out)


def _protection(section: _Section) -> int:
    flags = PF_R | (PF_W if section.flags & SHF_WRITE else 0)
    return flags | (PF_X if section.flags & SHF_EXECINSTR else 0)


def _strings(texts: Sequence[str]) -> tuple[bytes, list[int]]:
    """A string table and the offset of each text in it."""
    out = bytearray(b"\0")
    offsets = []
    for text in texts:
        if not text:
            offsets.append(0)
            continue
        offsets.append(len(out))
        out += text.encode() + b"\0"
    return bytes(out), offsets


def _symbols(
    image: Image, sections: list[_Section], externs: Mapping[str, int]
) -> tuple[bytes, bytes, int]:
    """The string table, the symbol table, and the number of local symbols."""

    def section_of(address: int) -> int:
        for number, section in enumerate(sections):
            if section.flags and section.address <= address < section.address + len(section.data):
                return number
        return SHN_ABS

    symbols = [_Symbol("", 0, 0, STT_NOTYPE, 0, STB_LOCAL)]
    symbols += [_Symbol(n, 0, 0, STT_FILE, SHN_ABS, STB_LOCAL) for n in image.lines]
    local = len(symbols)
    symbols += [
        _Symbol(f.name, f.address, f.size, STT_FUNC, section_of(f.address)) for f in image.functions
    ]
    symbols += [
        _Symbol(d.name, d.address, d.size, STT_OBJECT, section_of(d.address)) for d in image.data
    ]
    known = {s.name for s in symbols}
    symbols += [
        _Symbol(name, address, 0, STT_NOTYPE, SHN_ABS)
        for name, address in sorted(externs.items())
        if name not in known
    ]
    names, offsets = _strings([s.name for s in symbols])
    table = b"".join(
        struct.pack("<IBBHQQ", offset, s.binding << 4 | s.type, 0, s.section, s.value, s.size)
        for offset, s in zip(offsets, symbols, strict=True)
    )
    return names, table, local


# DWARF


def _uleb(value: int) -> bytes:
    out = bytearray()
    while True:
        byte, value = value & 0x7F, value >> 7
        out.append(byte | (0x80 if value else 0))
        if not value:
            return bytes(out)


def _sleb(value: int) -> bytes:
    out = bytearray()
    while True:
        byte, value = value & 0x7F, value >> 7
        done = value == (-1 if byte & 0x40 else 0)
        out.append(byte | (0 if done else 0x80))
        if done:
            return bytes(out)


def _abbreviations() -> bytes:
    attributes = (
        (DW_AT_name, DW_FORM_string), (DW_AT_comp_dir, DW_FORM_string),
        (DW_AT_producer, DW_FORM_string), (DW_AT_language, DW_FORM_data2),
        (DW_AT_stmt_list, DW_FORM_sec_offset), (DW_AT_low_pc, DW_FORM_addr),
        (DW_AT_high_pc, DW_FORM_data8), (0, 0),
    )  # fmt: skip
    pairs = b"".join(_uleb(name) + _uleb(form) for name, form in attributes)
    return b"\x01" + _uleb(DW_TAG_compile_unit) + b"\0" + pairs + b"\0"


def _unit(image: Image) -> bytes:
    """One compilation unit over all code (7.5.1)."""
    start = min((f.address for f in image.functions), default=0)
    end = max((f.end for f in image.functions), default=0)
    name = next(iter(image.lines), "")
    body = b"\x01" + name.encode() + b"\0.\0pushcall\0"
    body += struct.pack("<HIQQ", DW_LANG_Mips_Assembler, 0, start, end - start)
    header = struct.pack("<HIB", 4, 0, 8)
    return struct.pack("<I", len(header) + len(body)) + header + body


def _lines(image: Image) -> bytes:
    """The line table: a sequence for each function, a row for each instruction (6.2)."""
    files: dict[str, int] = {}
    program = bytearray()
    for function in image.functions:
        if not function.instructions:
            continue
        program += b"\0" + _uleb(9) + bytes((DW_LNE_set_address,))
        program += struct.pack("<Q", function.address)
        address, line, file = function.address, 1, 1
        for instruction in function.instructions:
            position = instruction.position
            number = files.setdefault(position.file, len(files) + 1)
            program += bytes((DW_LNS_advance_pc,)) + _uleb(instruction.address - address)
            if number != file:
                program += bytes((DW_LNS_set_file,)) + _uleb(number)
            program += bytes((DW_LNS_advance_line,)) + _sleb(position.line - line)
            program.append(DW_LNS_copy)
            address, line, file = instruction.address, position.line, number
        program += bytes((DW_LNS_advance_pc,)) + _uleb(function.end - address)
        program += b"\0\x01" + bytes((DW_LNE_end_sequence,))
    # Instructions of one byte, one operation each; is_stmt; no special opcode is used.
    header = struct.pack("<BBBbBB", 1, 1, 1, -5, 14, 13) + _OPERANDS
    header += b"\0"  # directories
    header += b"".join(name.encode() + b"\0\0\0\0" for name in files) + b"\0"
    content = struct.pack("<HI", 4, len(header)) + header + bytes(program)
    return struct.pack("<I", len(content)) + content
