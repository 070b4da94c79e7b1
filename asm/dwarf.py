"""The line table of an image, and the one compilation unit that gdb wants beside it (DWARF 4).

Section numbers are those of the DWARF 4 standard. Where an address or the offset of another
section stands in the bytes, a fixup says so: in an object file a linker fills it in.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from asm.image import Image

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
_ATTRIBUTES = (
    (DW_AT_name, DW_FORM_string), (DW_AT_comp_dir, DW_FORM_string),
    (DW_AT_producer, DW_FORM_string), (DW_AT_language, DW_FORM_data2),
    (DW_AT_stmt_list, DW_FORM_sec_offset), (DW_AT_low_pc, DW_FORM_addr),
    (DW_AT_high_pc, DW_FORM_data8), (0, 0),
)  # fmt: skip


class Fixup(NamedTuple):
    """A field of `size` bytes that holds where `value` bytes into a section are."""

    offset: int
    size: int
    section: str
    value: int


@dataclass
class Section:
    """The content of a section with no address in it yet."""

    data: bytearray = field(default_factory=bytearray)
    fixups: list[Fixup] = field(default_factory=list)

    def refer(self, size: int, section: str, value: int) -> None:
        """Adds a field that refers to a section."""
        self.fixups.append(Fixup(len(self.data), size, section, value))
        self.data += bytes(size)


def sections(image: Image) -> dict[str, Section]:
    """.debug_abbrev, .debug_info and .debug_line; addresses count from the start of .text."""
    return {
        ".debug_abbrev": Section(bytearray(_abbreviations())),
        ".debug_info": _unit(image),
        ".debug_line": _lines(image),
    }


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
    pairs = b"".join(_uleb(name) + _uleb(form) for name, form in _ATTRIBUTES)
    return b"\x01" + _uleb(DW_TAG_compile_unit) + b"\0" + pairs + b"\0"


def _unit(image: Image) -> Section:
    """One compilation unit over all code (7.5.1)."""
    size = max((f.end for f in image.functions), default=0) - _text(image)
    name = next(iter(image.lines), "")
    out = Section(bytearray(struct.pack("<IH", 0, 4)))
    out.refer(4, ".debug_abbrev", 0)
    out.data += b"\x08\x01" + name.encode() + b"\0.\0pushcall\0"
    out.data += struct.pack("<H", DW_LANG_Mips_Assembler)
    out.refer(4, ".debug_line", 0)
    out.refer(8, ".text", 0)
    out.data += struct.pack("<Q", size)
    struct.pack_into("<I", out.data, 0, len(out.data) - 4)
    return out


def _text(image: Image) -> int:
    return next((s.address for s in image.segments if s.executable), 0)


def _lines(image: Image) -> Section:
    """The line table: a sequence for each function, a row for each instruction (6.2)."""
    files: dict[str, int] = {}
    program = Section()
    for function in image.functions:
        if not function.instructions:
            continue
        program.data += b"\0" + _uleb(9) + bytes((DW_LNE_set_address,))
        program.refer(8, ".text", function.address - _text(image))
        address, line, file = function.address, 1, 1
        for instruction in function.instructions:
            position = instruction.position
            number = files.setdefault(position.file, len(files) + 1)
            program.data += bytes((DW_LNS_advance_pc,)) + _uleb(instruction.address - address)
            if number != file:
                program.data += bytes((DW_LNS_set_file,)) + _uleb(number)
            program.data += bytes((DW_LNS_advance_line,)) + _sleb(position.line - line)
            program.data.append(DW_LNS_copy)
            address, line, file = instruction.address, position.line, number
        program.data += bytes((DW_LNS_advance_pc,)) + _uleb(function.end - address)
        program.data += b"\0\x01" + bytes((DW_LNE_end_sequence,))
    # Instructions of one byte, one operation each; is_stmt; no special opcode is used.
    header = struct.pack("<BBBbBB", 1, 1, 1, -5, 14, 13) + _OPERANDS
    header += b"\0"  # directories
    header += b"".join(name.encode() + b"\0\0\0\0" for name in files) + b"\0"
    head = struct.pack("<IHI", 6 + len(header) + len(program.data), 4, len(header)) + header
    fixups = [f._replace(offset=len(head) + f.offset) for f in program.fixups]
    return Section(bytearray(head) + program.data, fixups)
