"""The Go version that a binary says it was built by (debug/buildinfo, cmd/link's .go.buildinfo).

The blob begins with a 14-byte magic, the size of a pointer and flags. From 1.18 on the version
stands behind it, at byte 32, as a length (uvarint) and its bytes; before, a pointer to a Go
string header stands at byte 16. Where the blob was cut out, the program still has the string in
runtime.buildVersion, which runtime.schedinit looks at.
"""

from __future__ import annotations

import itertools
import re
import struct
from typing import TYPE_CHECKING, Final

from emulator.disassembly import disassemble
from emulator.elf import ElfError
from runtime_model.version import GoVersion

if TYPE_CHECKING:
    from emulator.elf import Elf

_MAGIC: Final = b"\xff Go buildinf:"
_FLAG_BIG_ENDIAN: Final = 1
_FLAG_INLINE: Final = 2
_LONGEST: Final = 1024
_LONGEST_SCHEDINIT: Final = 1 << 14
_RIP_RELATIVE: Final = re.compile(r"\[rip ([+-]) (0x[0-9a-f]+|\d+)\]")
_VERSION: Final = re.compile(rb"(?:go\d+\.\d+|devel .*go\d+\.\d+)[ -~]*")


def build_version(elf: Elf) -> str | None:
    """runtime.Version() of the binary, such as "go1.22.10"; None where nothing says it."""
    section = elf.sections.get(".go.buildinfo")
    places = [section.address] if section is not None and section.address else []
    for address in itertools.chain(places, elf.find(_MAGIC, 16)):
        try:
            found = _version_at(elf, address)
        except ElfError:
            continue
        if found:
            return found
    return None


def version_in_schedinit(elf: Elf, entry: int, end: int) -> str | None:
    """runtime.buildVersion, found as a string that runtime.schedinit, at [entry, end), refers to.

    It compares the string's length with 0, or loads it, relative to RIP.
    """
    code = bytes(elf.view(entry, min(end - entry, _LONGEST_SCHEDINIT)))
    for each in disassemble(code, entry):
        operand = _RIP_RELATIVE.search(each.text)
        if operand is None:
            continue
        place = each.address + each.size + int(operand[1] + operand[2], 0)
        for header in (place, place - 8):
            try:
                pointer, length = struct.unpack("<QQ", elf.view(header, 16))
                text = bytes(elf.view(pointer, length)) if length <= _LONGEST else b""
            except ElfError:
                continue
            if _VERSION.fullmatch(text):
                return text.decode()
    return None


def _version_at(elf: Elf, address: int) -> str | None:
    head = elf.view(address, 32)
    if bytes(head[:14]) != _MAGIC or head[15] & _FLAG_BIG_ENDIAN:
        return None
    if head[15] & _FLAG_INLINE:
        rest = elf.rest(address + 32)
        length, used = _uvarint(rest)
        text = bytes(rest[used : used + length])
    else:
        header = struct.unpack_from("<Q", head, 16)[0]
        pointer, length = struct.unpack("<QQ", elf.view(header, 16))
        text = bytes(elf.view(pointer, length)) if length <= _LONGEST else b""
    if not 0 < length <= _LONGEST or len(text) != length:
        return None
    return text.decode("utf-8", "replace")


def _uvarint(data: memoryview) -> tuple[int, int]:
    value = 0
    for position, byte in enumerate(data[:5]):
        value |= (byte & 0x7F) << 7 * position
        if byte < 0x80:
            return value, position + 1
    return 0, 0


def named_version(text: str) -> GoVersion | None:
    """The first Go version named in "go1.22.10", "go1.19.8 (Debian)" or "devel go1.28-1a2b3c".

    Without a patch number it is the first of its minor version, or a candidate for that.
    """
    found = re.search(r"\bgo(\d{1,3})\.(\d{1,3})(?:\.(\d{1,3}))?", text)
    return GoVersion(int(found[1]), int(found[2]), int(found[3] or 0)) if found else None
