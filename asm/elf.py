"""An image as an ELF file that objdump and gdb read (the System V ABI, gABI and AMD64 supplement).

A static executable has each segment at its address; what the code refers to elsewhere (the
runtime) is no part of the file, its symbols are absolute. An object has the same sections with
relocations for whatever lies in another section or another file. Symbols stand in .symtab,
source lines in .debug_line.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from asm import dwarf
from asm.image import RelocationType, TextFlag

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from asm.image import Function, Image, Relocation, Symbol

PAGE = 4096
MAX_ALIGNMENT = 32  # of data, as Go's linker aligns it
_EHDR, _PHDR, _SHDR = 64, 56, 64
ET_REL, ET_EXEC, EM_X86_64 = 1, 2, 62
PT_LOAD, PT_GNU_STACK = 1, 0x6474E551
PF_X, PF_W, PF_R = 1, 2, 4
SHT_PROGBITS, SHT_SYMTAB, SHT_STRTAB, SHT_RELA = 1, 2, 3, 4
SHF_WRITE, SHF_ALLOC, SHF_EXECINSTR, SHF_INFO_LINK = 1, 2, 4, 0x40
SHN_UNDEF, SHN_ABS = 0, 0xFFF1
STB_LOCAL, STB_GLOBAL, STB_WEAK = 0, 1, 2
STT_NOTYPE, STT_OBJECT, STT_FUNC, STT_SECTION, STT_FILE = 0, 1, 2, 3, 4
R_X86_64_64, R_X86_64_32 = 1, 10


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
        image: what was assembled; it must have code, and nothing undefined.
        entry: the address that e_entry names.
        externs: addresses of symbols that the image refers to and does not hold.
    """
    sections = [_Section("", 0), *_segments(image)]
    symbols = [*_file_symbols(image), *_defined(image, sections)]
    known = {s.name for s in symbols}
    symbols += [
        _Symbol(name, address, 0, STT_NOTYPE, SHN_ABS)
        for name, address in sorted((externs or {}).items())
        if name not in known
    ]
    base = {s.name: s.address for s in sections}
    for name, content in dwarf.sections(image).items():
        for fixup in content.fixups:
            value = base.get(fixup.section, 0) + fixup.value
            end = fixup.offset + fixup.size
            content.data[fixup.offset : end] = value.to_bytes(fixup.size, "little")
        sections.append(_Section(name, SHT_PROGBITS, data=bytes(content.data)))
    return _file([*sections, *_symbol_table(symbols, len(sections))], ET_EXEC, entry)


def relocatable(image: Image) -> bytes:
    """The bytes of an object: what the image does not hold is an undefined symbol."""
    sections = [_Section("", 0), *_segments(image)]
    debugging = dwarf.sections(image)
    sections += [_Section(n, SHT_PROGBITS, data=bytes(c.data)) for n, c in debugging.items()]
    own = [
        _Symbol("", s.address, 0, STT_SECTION, n, STB_LOCAL) for n, s in enumerate(sections[1:], 1)
    ]
    symbols = [*_file_symbols(image), *own, *_defined(image, sections)]
    symbols.sort(key=lambda s: s.binding != STB_LOCAL)  # those come first
    of_section = {s.section: n for n, s in enumerate(symbols) if s.type == STT_SECTION}
    entries: dict[int, list[bytes]] = {}
    for relocation, symbol in _left_open(image, sections, symbols):
        number = _section_at(sections, relocation.address)
        section, size = sections[number], relocation.type.size
        at = relocation.address - section.address
        section.data = section.data[:at] + bytes(size) + section.data[at + size :]
        entry = _rela(at, symbol, relocation.type.value, relocation.addend)
        entries.setdefault(number, []).append(entry)
    numbers = {s.name: n for n, s in enumerate(sections)}
    for name, content in debugging.items():
        for fixup in content.fixups:
            if fixup.section in numbers:
                kind = R_X86_64_64 if fixup.size == 8 else R_X86_64_32
                symbol = of_section[numbers[fixup.section]]
                entry = _rela(fixup.offset, symbol, kind, fixup.value)
                entries.setdefault(numbers[name], []).append(entry)
    symbols = [
        s._replace(value=s.value - sections[s.section].address) if s.section < SHN_ABS else s
        for s in symbols
    ]
    code = max((f.alignment for f in image.functions), default=1)
    for section in sections:
        if section.flags & SHF_ALLOC:
            section.alignment = code if section.flags & SHF_EXECINSTR else MAX_ALIGNMENT
        section.address = 0
    symtab = len(sections) + len(entries) + 1
    sections += [
        _Section(
            f".rela{sections[number].name}", SHT_RELA, SHF_INFO_LINK, data=b"".join(rela),
            link=symtab, info=number, alignment=8, entry_size=24,
        )
        for number, rela in entries.items()
    ]  # fmt: skip
    sections.append(_Section(".note.GNU-stack", SHT_PROGBITS))
    return _file([*sections, *_symbol_table(symbols, symtab)], ET_REL, 0)


def _left_open(
    image: Image, sections: list[_Section], symbols: list[_Symbol]
) -> Iterator[tuple[Relocation, int]]:
    """The relocations that a linker has to do, with their symbols; adds those undefined."""
    by_address = {s.value: n for n, s in enumerate(symbols) if s.type in {STT_FUNC, STT_OBJECT}}
    by_both = {(symbols[n].name, value): n for value, n in by_address.items()}
    undefined: dict[str, int] = {}
    for relocation in image.relocations:
        target = relocation.target
        held = SHN_UNDEF if target is None else _section_at(sections, target)
        if held == SHN_UNDEF:
            if relocation.symbol not in undefined:
                undefined[relocation.symbol] = len(symbols)
                symbols.append(_Symbol(relocation.symbol, 0, 0, STT_NOTYPE, SHN_UNDEF))
            yield relocation, undefined[relocation.symbol]
        elif relocation.type is RelocationType.R_X86_64_64 or held != _section_at(
            sections, relocation.address
        ):
            assert target is not None
            yield relocation, by_both.get((relocation.symbol, target), by_address[target])


def _rela(offset: int, symbol: int, kind: int, addend: int) -> bytes:
    return struct.pack("<QQq", offset, symbol << 32 | kind, addend)


def _segments(image: Image) -> Iterator[_Section]:
    for segment in image.segments:
        flags = SHF_ALLOC | (SHF_WRITE if segment.writable else 0)
        flags |= SHF_EXECINSTR if segment.executable else 0
        yield _Section(
            segment.name, SHT_PROGBITS, flags, segment.address, segment.data, alignment=PAGE
        )


def _section_at(sections: list[_Section], address: int) -> int:
    """The number of the section that an address lies in, or at the end of (an empty symbol)."""
    ends = SHN_UNDEF
    for number, section in enumerate(sections):
        if section.flags and section.address <= address <= section.address + len(section.data):
            if address < section.address + len(section.data):
                return number
            ends = number
    return ends


def _file_symbols(image: Image) -> list[_Symbol]:
    symbols = [_Symbol("", 0, 0, STT_NOTYPE, SHN_UNDEF, STB_LOCAL)]
    return symbols + [_Symbol(n, 0, 0, STT_FILE, SHN_ABS, STB_LOCAL) for n in image.lines]


def _defined(image: Image, sections: list[_Section]) -> Iterator[_Symbol]:
    internal = {f.name for f in image.functions if f.abi == "ABIInternal"}
    for function in image.functions:
        # As Go's linker tells two ABIs of one name apart (cmd/link, mangleABIName).
        suffix = ".abi0" if function.abi == "ABI0" and function.name in internal else ""
        yield _symbol(function, function.name + suffix, STT_FUNC, sections)
    for datum in image.data:
        yield _symbol(datum, datum.name, STT_OBJECT, sections)


def _symbol(held: Function | Symbol, name: str, kind: int, sections: list[_Section]) -> _Symbol:
    binding = STB_WEAK if TextFlag.DUPOK in held.flags else STB_GLOBAL
    binding = STB_LOCAL if held.static else binding
    section = _section_at(sections, held.address) or SHN_ABS
    return _Symbol(name, held.address, held.size, kind, section, binding)


def _symbol_table(symbols: list[_Symbol], at: int) -> list[_Section]:
    """.symtab, which is section number `at`, and .strtab."""
    symbols = sorted(symbols, key=lambda s: s.binding != STB_LOCAL)
    names, offsets = _strings([s.name for s in symbols])
    table = b"".join(
        struct.pack("<IBBHQQ", offset, s.binding << 4 | s.type, 0, s.section, s.value, s.size)
        for offset, s in zip(offsets, symbols, strict=True)
    )
    local = sum(s.binding == STB_LOCAL for s in symbols)
    return [
        _Section(
            ".symtab", SHT_SYMTAB, data=table, link=at + 1, info=local, alignment=8, entry_size=24
        ),
        _Section(".strtab", SHT_STRTAB, data=names),
    ]


def _file(sections: list[_Section], kind: int, entry: int) -> bytes:
    """The header, the sections' bytes and headers, and the segments of an executable."""
    section_names, names = _strings([s.name for s in sections] + [".shstrtab"])
    sections = [*sections, _Section(".shstrtab", SHT_STRTAB, data=section_names)]
    loaded = [s for s in sections if s.flags & SHF_ALLOC] if kind == ET_EXEC else []
    headers = len(loaded) + 1 if loaded else 0
    out = bytearray(_EHDR + headers * _PHDR)
    for section in sections[1:]:
        # A page in the file for a page in memory.
        out += bytes((section.address - len(out)) % section.alignment)
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
        "<16sHHIQQQIHHHHHH", out, 0, ident, kind, EM_X86_64, 1, entry, _EHDR if headers else 0,
        at, 0, _EHDR, _PHDR if headers else 0, headers, _SHDR, len(sections), len(sections) - 1,
    )  # fmt: skip
    segments = [(PT_LOAD, _protection(s), s.offset, s.address, len(s.data), PAGE) for s in loaded]
    if loaded:
        segments.append((PT_GNU_STACK, PF_R | PF_W, 0, 0, 0, 16))
    for number, (segment, flags, offset, address, size, alignment) in enumerate(segments):
        struct.pack_into(
            "<IIQQQQQQ", out, _EHDR + number * _PHDR, segment, flags, offset, address, address,
            size, size, alignment,
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
