"""Writes small Go executables, as cmd/link/internal/ld/pcln.go lays out their tables.

No toolchain is needed: functions are given with their code and tables, and come out as an ELF
file with a function table of any of the four formats, moduledata and build information.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from runtime_model import layout

TEXT = 0x401000
RODATA = 0x440000
DATA = 0x480000
MAGIC = {"1.2": 0xFFFFFFFB, "1.16": 0xFFFFFFFA, "1.18": 0xFFFFFFF0, "1.20": 0xFFFFFFF1}
ASM_FLAG = 4


def format_of(version: tuple[int, int]) -> str:
    return next(
        name
        for name, first in (("1.20", 20), ("1.18", 18), ("1.16", 16), ("1.2", 2))
        if version[1] >= first
    )


@dataclass
class Function:
    """A function: `tables` are PCDATA tables by number, as (end, value) runs; lines likewise."""

    name: str
    code: bytes
    tables: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    inlined: list[tuple[str, int]] = field(default_factory=list)  # (name, parentPc)
    lines: list[tuple[int, int]] = field(default_factory=list)
    locals: str = "map"  # "map", "none", or "no_pointers" (NO_LOCAL_POINTERS)
    depth: int = 0  # of SP below its value at entry, everywhere
    flag: int = 0
    file: int = 0  # index in FILES

    @property
    def size(self) -> int:
        return len(self.code)


FILES = ("/src/main.go", "/src/asm_amd64.s")
# reflectcall's call32 is in every program; its map is &no_pointers_stackmap.
CALL32 = Function("runtime.call32", b"\xc3", locals="no_pointers", flag=ASM_FLAG)


def uvarint(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def pc_table(runs: list[tuple[int, int]]) -> bytes:
    """A PC-value table: zigzag deltas of the values from -1, deltas of the PCs, a zero."""
    out, value, pc = b"", -1, 0
    for end, new in runs:
        delta = new - value
        out += uvarint(delta << 1 if delta >= 0 else (-delta << 1) - 1) + uvarint(end - pc)
        value, pc = new, end
    return out + b"\0"


class Strings:
    """Zero-terminated strings at their offsets."""

    def __init__(self, first: bytes = b"") -> None:
        self.data = first

    def add(self, text: str) -> int:
        self.data += text.encode() + b"\0"
        return len(self.data) - len(text.encode()) - 1


@dataclass
class GoBinaryWriter:
    """One executable of `version`; bytes() is the file."""

    version: tuple[int, int]
    functions: list[Function]
    sections: bool = True
    buildinfo: bool = True
    gap: int = 16  # functions begin at multiples of this
    pie: bool = False  # pointers of moduledata stand in relocations alone (1.18 on)

    def __post_init__(self) -> None:
        self.format = format_of(self.version)
        self.functions = [*self.functions, CALL32]
        self.entries = []
        self.text = b""
        for function in self.functions:
            self.entries.append(TEXT + len(self.text))
            self.text += function.code + b"\xcc" * (-len(function.code) % self.gap)
        # Two stack maps (n=1, n=2: no_pointers_stackmap), then the inlining trees.
        self.gofunc = struct.pack("<IIII", 1, 0, 2, 0)
        self.gofunc_address = RODATA
        self.pclntab_address = 0

    def __bytes__(self) -> bytes:
        self.gofunc_address = RODATA
        self._write_table()  # once to know how long gofunc is, once with the addresses
        self.pclntab_address = RODATA + (len(self.gofunc) + 31) // 32 * 32
        self.gofunc = self.gofunc[:16]
        pclntab = self._write_table()
        rodata = self.gofunc.ljust(self.pclntab_address - RODATA, b"\0") + pclntab
        return self._elf(rodata, len(pclntab), self._data(len(pclntab)))

    def entry(self, name: str) -> int:
        return self.entries[[f.name for f in self.functions].index(name)]

    def _write_table(self) -> bytes:
        relative = self.format in ("1.18", "1.20")
        one_part = self.format == "1.2"
        word = "<II" if relative else "<QQ"
        count = len(self.functions)
        functab_size = struct.calcsize(word) * count + struct.calcsize(word) // 2
        header = 16 if one_part else 64 if self.format == "1.16" else 72
        # In format 1.2 all offsets count from the header; else from their own parts.
        first = header + functab_size + 4 if one_part else 0
        # The linker's first function is go:buildid: no other name is at offset 0, which means "".
        strings = Strings(b"\0" * first if one_part else b"go:buildid\0")
        names = [strings.add(f.name) for f in self.functions]
        inlined = [[strings.add(name) for name, _ in f.inlined] for f in self.functions]
        files = strings if one_part else Strings()
        file_offsets = [files.add(name) for name in FILES]
        if one_part:
            file_table = len(strings.data)
            strings.data += struct.pack("<III", len(FILES) + 1, *file_offsets)
        pctab = strings if one_part else Strings(b"\0")

        def table(runs: list[tuple[int, int]]) -> int:
            pctab.data += pc_table(runs)
            return len(pctab.data) - len(pc_table(runs))

        functions = b""
        functab = []
        start_of_functions = 0 if one_part else functab_size
        bodies = []
        for number, function in enumerate(self.functions):
            file_number = function.file + 1 if one_part else function.file
            pcsp = table([(function.size, function.depth)])
            pcfile = table([(function.size, file_number)])
            pcln = table(function.lines or [(function.size, 1 + number)])
            npcdata = max(function.tables, default=-1) + 1
            tables = [
                table(function.tables[i]) if i in function.tables else 0 for i in range(npcdata)
            ]
            tree = self._tree(function, inlined[number])
            bodies.append((pcsp, pcfile, pcln, tables, tree))
        if one_part:
            start_of_functions = len(strings.data) + (-len(strings.data) % 8)
        for number, (pcsp, pcfile, pcln, tables, tree) in enumerate(bodies):
            functions += b"\0" * (-(start_of_functions + len(functions)) % 8)
            entry = self.entries[number] - (TEXT if relative else 0)
            functab += [entry, start_of_functions + len(functions)]
            functions += self._func(entry, names[number], pcsp, pcfile, pcln, tables, number, tree)
        end = TEXT + len(self.text)
        end -= TEXT if relative else 0
        lookup = struct.pack(f"<{len(functab) + 1}{word[1]}", *functab, end)
        head = struct.pack("<I4BQ", MAGIC[self.format], 0, 0, 1, 8, count)
        if one_part:
            data = head + lookup + struct.pack("<I", file_table) + strings.data[first:]
            return data.ljust(start_of_functions, b"\0") + functions
        parts = [strings.data, struct.pack("<2I", *file_offsets), files.data, pctab.data]
        offsets, data = [], b""
        for part in parts:
            offsets.append(header + len(data))
            data += part + b"\0" * (-len(part) % 8)
        offsets.append(header + len(data))
        head += struct.pack("<Q", len(FILES))
        if relative:
            head += struct.pack("<Q", TEXT if self.version < (1, 26) else 0)
        return head + struct.pack("<5Q", *offsets) + data + lookup + functions

    def _tree(self, function: Function, names: list[int]) -> int | None:
        """Writes the inlining tree; its offset in gofunc."""
        if not function.inlined:
            return None
        at = len(self.gofunc)
        for name, (_, parent_pc) in zip(names, function.inlined, strict=True):
            if self.version >= (1, 20):
                self.gofunc += struct.pack("<B3xiii", 0, name, parent_pc, 1)
            else:
                self.gofunc += struct.pack("<hBxiiii", -1, 0, 0, 1, name, parent_pc)
        return at

    def _func(
        self,
        entry: int,
        name: int,
        pcsp: int,
        pcfile: int,
        pcln: int,
        tables: list[int],
        number: int,
        tree: int | None,
    ) -> bytes:
        function = self.functions[number]
        relative = self.format in ("1.18", "1.20")
        maps = {"map": 0, "none": None, "no_pointers": 8}[function.locals]
        inline_tree = 4 if self.format == "1.2" else 3
        data: list[int | None] = [None, maps, *[None] * (inline_tree - 2), tree]
        head = struct.pack("<I" if relative else "<Q", entry)
        head += struct.pack("<iiIIIII", name, 0, 0, pcsp, pcfile, pcln, len(tables))
        if self.format != "1.2":
            head += struct.pack("<I", 0)
        if self.format == "1.20":
            head += struct.pack("<i", 1)
        flag = function.flag if relative else 0
        head += struct.pack("<BBxB", 0, flag, len(data)) + struct.pack(f"<{len(tables)}I", *tables)
        if relative:
            return head + b"".join(
                struct.pack("<I", 0xFFFFFFFF if each is None else each) for each in data
            )
        head += b"\0" * (-len(head) % 8)
        return head + b"".join(
            struct.pack("<Q", 0 if each is None else self.gofunc_address + each) for each in data
        )

    def _data(self, table_size: int) -> bytes:
        where = layout.load(self.version)
        module = bytearray(where.size("moduledata"))

        relocations = b""

        def put(name: str, *words: int) -> None:
            nonlocal relocations
            offset = where.offset("moduledata", name)
            if self.pie and words[0]:
                relocations += struct.pack("<QQq", DATA + 128 + offset, 8, words[0])
                words = 0, *words[1:]
            struct.pack_into(f"<{len(words)}Q", module, offset, *words)

        if self.format != "1.2":
            put("pcHeader", self.pclntab_address)
            names = self.pclntab_address + (64 if self.format == "1.16" else 72)
            put("funcnametab", names, 1, 1)
        put("text", TEXT)
        put("etext", TEXT + len(self.text))
        put("textsectmap", 0, 1, 1)
        if where.has("moduledata", "gofunc"):
            put("gofunc", self.gofunc_address)
        put("pclntable", self.pclntab_address, table_size, table_size)
        text = "go{}.{}.1".format(*self.version).encode()
        info = b"\xff Go buildinf:\x08"
        if self.version >= (1, 18):
            info += b"\x02" + b"\0" * 16 + uvarint(len(text)) + text
        else:
            header = DATA + 32
            info += b"\0" + struct.pack("<QQ", header, 0)
            info += struct.pack("<QQ", header + 16, len(text)) + text
        info = info if self.buildinfo else b""
        data = info.ljust(128, b"\0") + bytes(module)
        if self.pie:  # R_X86_64_RELATIVE entries, then DT_RELA, DT_RELASZ, DT_NULL
            data = data.ljust((len(data) + 15) // 16 * 16, b"\0")
            self.dynamic = DATA + len(data) + len(relocations)
            data += relocations
            data += struct.pack(
                "<6Q", 7, self.dynamic - len(relocations), 8, len(relocations), 0, 0
            )
        return data

    def _elf(self, rodata: bytes, table_size: int, data: bytes) -> bytes:
        parts = [(5, TEXT, self.text), (4, RODATA, rodata), (6, DATA, data)]
        body, headers, sections = b"", b"", []
        start = 0x1000
        for flags, address, content in parts:
            offset = start + len(body)
            headers += struct.pack(
                "<IIQQQQQQ", 1, flags, offset, address, address, len(content), len(content), 4096
            )
            sections.append((address, offset, len(content)))
            body += content.ljust((len(content) + 4095) // 4096 * 4096, b"\0")
        if self.pie:
            address, offset, size = sections[2]
            at = self.dynamic
            headers += struct.pack(
                "<IIQQQQQQ", 2, 6, offset + at - address, at, at, address + size - at, 48, 8
            )
        table, count = b"", 0
        if self.sections:
            names = b"\0.text\0.gopclntab\0.shstrtab\0"
            at = self.pclntab_address - RODATA
            headings = [
                (0, 0, 0, 0, 0),
                (names.index(b".text"), 1, *sections[0]),
                (names.index(b".gopcln"), 1, RODATA + at, sections[1][1] + at, table_size),
                (names.index(b".shstr"), 3, 0, start + len(body), len(names)),
            ]
            count = len(headings)
            body += names.ljust(64, b"\0")
            table = b"".join(
                struct.pack("<IIQQQQIIQQ", name, kind, 0, address, offset, size, 0, 0, 1, 0)
                for name, kind, address, offset, size in headings
            )
        head = b"\x7fELF\x02\x01\x01" + b"\0" * 9
        kind, places = (3, 4) if self.pie else (2, 3)
        head += struct.pack("<HHIQQQIHHHHHH", kind, 62, 1, TEXT, 64, start + len(body) if count
                            else 0, 0, 64, 56, places, 64, count, max(0, count - 1))  # fmt: skip
        return (head + headers).ljust(start, b"\0") + body + table
