"""The symbols of a listing as an image: placed anew, with the references between them.

What the listing does not hold cannot be executed. A function of it gets a UD2 in its place, so
that a call ends there, under its name; data of it gets an address that nothing is mapped at.
"""

from __future__ import annotations

import bisect
import re
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from asm import image as linked
from asm.go_listing import Listed, Relocation
from asm.image import (
    Function,
    Image,
    Instruction,
    PcTable,
    PcValue,
    Position,
    RelocationType,
    Segment,
    Symbol,
    TextFlag,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from asm.go_listing import Line, Listing

PAGE = 4096
ALIGNMENT = 32
TLS_OFFSET = -8  # of g from FS on Linux
HIGHEST = 0x7000_0000
MAX_SPAN = 1 << 24
MAX_DATA = 1 << 28
NOT_COVERED = -1  # the value of a table where it says nothing
_UD2 = b"\x0f\x0b"
_STUB = 16
_PADDING = b"\xcc"
_CONSTANT = re.compile(r"\$[fi](?:32\.(?P<four>[0-9a-f]{8})|64\.(?P<eight>[0-9a-f]{16}))")
_SYMBOL = re.compile(r"\s(?P<name>\S.*?)(?P<offset>[+-](?:0x[0-9a-f]+|\d+))?\(SB\)")


class _Piece(NamedTuple):
    """A machine instruction of a function; `field` is its 4-byte field relative to RIP, or -1."""

    at: int
    size: int
    field: int = -1
    branch: bool = False
    tls: int = -1  # its 4-byte field that counts from FS


@dataclass
class _Code:
    listed: Listed
    pieces: list[_Piece] = field(default_factory=list)
    address: int = 0


@cache
def _capstone() -> Any:
    import capstone  # its import costs more than a small assembly

    engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    engine.detail = True
    return capstone, engine


def link(
    listing: Listing,
    *,
    text_address: int,
    data_address: int,
    externs: Mapping[str, int],
    anew: bool = False,
    undefined: bool = False,
) -> Image:
    """The image of a listing.

    An objdump's functions stay at their addresses if all of those lie from `text_address` up.

    Args:
        listing: what was read.
        text_address: where code may begin.
        data_address: where data goes, or behind the code if that reaches so far.
        externs: addresses of symbols that are defined elsewhere, by linker name.
        anew: place an objdump's functions like any others.
        undefined: leaves what nothing defines to the image's relocations, in place of the
            stand-ins.

    Raises:
        AsmError: a reference cannot be resolved, or means what is not modelled.
    """
    return _Relinker(listing, externs, anew=anew, undefined=undefined).image(
        text_address, data_address
    )


class _Relinker:
    def __init__(
        self, listing: Listing, externs: Mapping[str, int], *, anew: bool, undefined: bool
    ) -> None:
        self.anew = anew
        self.listing = listing
        self.undefined = undefined
        self.relocations: list[linked.Relocation] = []
        self.externs = externs
        self.codes: list[_Code] = []
        self.by_key: dict[str, list[_Code]] = {}
        self.data = {d.key: d for d in listing.data}
        # What references name, by where it is: in the listing's data, nowhere, or a stub.
        self.needed: dict[str, int] = {}
        self.absent: dict[str, int] = {}
        self.stubs: dict[str, int] = {}
        self.named_at: dict[str, int] = {}
        for listed in listing.functions:
            same = self.by_key.setdefault(listed.key, [])
            twin = next((c for c in same if c.listed.abi == listed.abi), None)
            if twin is not None:
                if listing.linked or twin.listed.data != listed.data:
                    raise listing.error(listed.line, f"{listed.name} is listed twice")
                continue
            code = _Code(listed, _decode(listed))
            same.append(code)
            self.codes.append(code)
        if listing.linked:
            for code in self.codes:
                code.listed.relocations = [*self._said_by_addresses(code)]

    def image(self, text_address: int, data_address: int) -> Image:
        for code in self.codes:
            branches = {p.field for p in code.pieces if p.branch}
            for relocation in code.listed.relocations:
                self._need(relocation, branch=relocation.at in branches)
        end = self._place(text_address)
        segments = self._place_data(max(data_address, end + -end % PAGE))
        functions = [self._function(code) for code in self.codes]
        source = self.listing.source
        for name, address in self.stubs.items():
            position = Position(source.name, self.named_at[name])
            functions.append(_stub(name, address, position))
        functions.sort(key=lambda f: f.address)
        placed = [(n, a, self.data[n].size) for n, a in self.needed.items()]
        placed += [(n, a, 0) for n, a in self.absent.items()]
        symbols = [Symbol(n, a, s, TextFlag.NONE) for n, a, s in sorted(placed, key=lambda p: p[1])]
        return Image(
            tuple(functions),
            tuple(symbols),
            (_text_segment(functions), *segments),
            {source.name: tuple(source.text.split("\n"))},
            tuple(sorted(self.relocations, key=lambda r: r.address)),
        )

    def _said_by_addresses(self, code: _Code) -> Iterator[Relocation]:
        """What linked code refers to outside of its function, as relocations."""
        listed = code.listed
        assert listed.address is not None
        for piece in code.pieces:
            if piece.field < 0:
                continue
            end = piece.at + piece.size
            field_bytes = bytes(listed.data[piece.field : piece.field + 4])
            target = listed.address + end + int.from_bytes(field_bytes, "little", signed=True)
            if listed.address <= target < listed.address + listed.size:
                continue
            holder = next((c.listed for c in self.codes if _holds(c.listed, target)), None)
            if holder is not None:
                assert holder.address is not None
                name, offset = holder.key, target - holder.address
            else:
                name, offset = _named(_line_at(listed, piece.at).text)
                name = name or f"{target:#x}"
            yield Relocation(
                piece.field, 4, "", name, offset - (end - piece.field - 4), listed.line
            )

    def _need(self, relocation: Relocation, *, branch: bool) -> None:
        """Sees to it that the symbol of a reference will have an address."""
        name = relocation.name
        known = name in self.needed or name in self.absent or name in self.stubs
        if relocation.size == 0 or not name or name == "TLS" or known or self._extern(name):
            return
        codes = self.by_key.get(name, [])
        if len(codes) > 1:
            raise self.listing.error(
                relocation.line,
                f"{name} is listed with two ABIs, and the listing does not say which is meant",
            )
        if codes:
            return
        datum = self.data.get(name)
        if datum is None and (constant := _CONSTANT.fullmatch(name)):
            # Go names such a symbol after its value.
            value = bytes.fromhex(constant["four"] or constant["eight"])[::-1]
            datum = Listed(name, relocation.line, "SRODATA", len(value), bytearray(value), key=name)
            self.data[name] = datum
        if datum is not None and all(r.size in {0, 8} for r in datum.relocations):
            self.needed[name] = 0
            for inner in datum.relocations:
                self._need(inner, branch=False)
        elif self.undefined:
            return
        elif branch:
            self.stubs[name] = 0
            self.named_at[name] = relocation.line
        else:
            # Type descriptors end here, too: their offsets count from a linker's section.
            self.absent[name] = 0

    def _extern(self, name: str) -> int | None:
        return self.externs.get(name.removesuffix(".abi0").removesuffix(".abiinternal"))

    def _address(self, name: str) -> int | None:
        codes = self.by_key.get(name)
        if codes:
            return codes[0].address
        for table in (self.needed, self.absent, self.stubs):
            if name in table:
                return table[name]
        return self._extern(name)

    def _relocated(self, at: int, kind: RelocationType, name: str, addend: int) -> int | None:
        """The address of what a field refers to, which is noted."""
        target = self._address(name)
        self.relocations.append(linked.Relocation(at, kind, name, addend, target))
        return target

    # Addresses

    def _place(self, text_address: int) -> int:
        """Gives functions and stubs their addresses; returns where the code ends."""
        known = [c.listed.address for c in self.codes if c.listed.address is not None]
        stay = not self.anew and len(known) == len(self.codes) and text_address <= min(known)
        stay = stay and max(known) < HIGHEST and max(known) - min(known) < MAX_SPAN
        at = text_address
        for code in self.codes:
            at += -at % ALIGNMENT
            code.address = (code.listed.address if stay else None) or at
            at = max(at, code.address + code.listed.size)
        ordered = sorted(self.codes, key=lambda c: c.address)
        for one, other in pairwise(ordered):
            if one.address + one.listed.size > other.address:
                raise self.listing.error(
                    other.listed.line, f"{other.listed.name} lies within {one.listed.name}"
                )
        at += -at % _STUB
        for name in self.stubs:
            self.stubs[name] = at
            at += _STUB
        for number, name in enumerate(self.absent):
            self.absent[name] = HIGHEST + number * PAGE
        return at

    def _place_data(self, start: int) -> list[Segment]:
        segments: list[Segment] = []
        at = start
        groups: dict[tuple[str, bool], list[Listed]] = {}
        for name in self.needed:
            datum = self.data[name]
            segment = (".rodata", False) if "RODATA" in datum.kind else (".data", True)
            groups.setdefault(segment, []).append(datum)
        for group in groups.values():
            at += -at % PAGE
            for datum in group:
                at += -at % ALIGNMENT
                self.needed[datum.key] = at
                at += datum.size
            if at - start > MAX_DATA:
                raise self.listing.error(group[-1].line, f"data of more than {MAX_DATA >> 20} MiB")
        for (name, writable), group in sorted(groups.items()):
            first = self.needed[group[0].key]
            content = bytearray()
            for datum in group:
                content += bytes(self.needed[datum.key] - first - len(content))
                content += self._datum(datum)
            segments.append(Segment(name, first, bytes(content), writable, executable=False))
        return segments

    def _datum(self, datum: Listed) -> bytes:
        data = bytearray(datum.data)
        for relocation in datum.relocations:
            if relocation.size == 8:
                at = self.needed[datum.key] + relocation.at
                kind = RelocationType.R_X86_64_64
                target = self._relocated(at, kind, relocation.name, relocation.add)
                value = 0 if target is None else target + relocation.add
                data[relocation.at : relocation.at + 8] = (value % (1 << 64)).to_bytes(8, "little")
        return bytes(data)

    # Functions

    def _patched(self, code: _Code) -> bytes:
        data = bytearray(code.listed.data)
        relative = {p.field: p.branch for p in code.pieces if p.field >= 0}
        tls = {p.tls for p in code.pieces if p.tls >= 0}
        for relocation in code.listed.relocations:
            if relocation.size == 0:
                continue  # a mark for the linker's dead code elimination
            if relocation.size == 4 and relocation.at in relative:
                at = code.address + relocation.at
                kind = RelocationType.R_X86_64_PC32
                if relative[relocation.at]:
                    kind = RelocationType.R_X86_64_PLT32
                target = self._relocated(at, kind, relocation.name, relocation.add - 4)
                value = 0 if target is None else target + relocation.add - 4 - at
            elif relocation.size == 4 and relocation.at in tls:
                value = TLS_OFFSET + relocation.add
            else:
                raise self.listing.error(
                    relocation.line,
                    f"a relocation {relocation.kind} of {relocation.size} bytes is not modelled",
                )
            if not -(1 << 31) <= value < 1 << 31:
                raise self.listing.error(
                    relocation.line, f"{relocation.name} is more than 2 GiB away"
                )
            data[relocation.at : relocation.at + 4] = value.to_bytes(4, "little", signed=True)
        return bytes(data)

    def _function(self, code: _Code) -> Function:
        listed, address, data = code.listed, code.address, self._patched(code)
        instructions = []
        for piece in code.pieces:
            text, position = _text_of(listed, piece)
            part = data[piece.at : piece.at + piece.size]
            instructions.append(Instruction(address + piece.at, part, text, position))
        return Function(
            listed.name,
            address,
            address + listed.size,
            listed.flags,
            listed.abi,
            listed.frame,
            listed.args,
            tuple(instructions),
            listed.lines[0].position,
            _pcdata(listed, address),
        )


def _holds(listed: Listed, target: int) -> bool:
    return listed.address is not None and 0 <= target - listed.address < listed.size


def _decode(listed: Listed) -> list[_Piece]:
    """The machine instructions: Capstone's, and the listing's where Capstone knows none."""
    module, engine = _capstone()
    data = bytes(listed.data)
    pieces: list[_Piece] = []
    at = 0
    while at < len(data):
        for insn in engine.disasm(data[at:], at):
            pieces.append(_piece(module, insn))
            at += insn.size
        if at < len(data):
            following = next((line.at for line in listed.lines if line.at > at), len(data))
            pieces.append(_Piece(at, following - at))
            at = following
    return pieces


def _piece(module: Any, insn: Any) -> _Piece:
    at, size = insn.address, insn.size
    if module.CS_GRP_BRANCH_RELATIVE in insn.groups:
        if insn.imm_size == 4:
            return _Piece(at, size, at + insn.imm_offset, branch=True)
        return _Piece(at, size)
    for operand in insn.operands:
        if operand.type == module.x86.X86_OP_MEM and insn.disp_size == 4:
            if operand.mem.base == module.x86.X86_REG_RIP:
                return _Piece(at, size, at + insn.disp_offset)
            if operand.mem.segment == module.x86.X86_REG_FS:
                return _Piece(at, size, tls=at + insn.disp_offset)
    return _Piece(at, size)


def _line_at(listed: Listed, at: int) -> Line:
    """The line that covers an offset: the last of those that begin at or before it."""
    index = bisect.bisect_right(listed.lines, at, key=lambda line: line.at) - 1
    return listed.lines[max(index, 0)]


def _text_of(listed: Listed, piece: _Piece) -> tuple[str, Position]:
    """What the listing says of an instruction; a prefix has a line of its own."""
    first = bisect.bisect_left(listed.lines, piece.at, key=lambda line: line.at)
    last = bisect.bisect_left(listed.lines, piece.at + piece.size, key=lambda line: line.at)
    # Lines without bytes (a NOP of the compiler) share the offset of the next.
    lines = {line.at: line for line in listed.lines[first:last]}
    if not lines:
        line = _line_at(listed, piece.at)
        return line.text, line.position
    return "; ".join(line.text for line in lines.values()), next(iter(lines.values())).position


def _named(text: str) -> tuple[str, int]:
    """The symbol and offset in the text of a disassembled line."""
    match = _SYMBOL.search(text) if "(SB)" in text else None
    if match is None:
        return "", 0
    name = match["name"].split(", ")[-1] if match["name"].count("(") == 0 else match["name"]
    return name, int(match["offset"] or "0", 0)


def _pcdata(listed: Listed, address: int) -> dict[int, PcTable]:
    """The PCDATA tables: a value holds from its statement to the next of the same table."""
    tables: dict[int, PcTable] = {}
    for table in sorted({number for _, number, _ in listed.pcdata}):
        said = [(at, value) for at, number, value in listed.pcdata if number == table]
        ends = [*(at for at, _ in said[1:]), listed.size]
        ranges = [
            PcValue(address + at, address + end, value)
            for (at, value), end in zip(said, ends, strict=True)
            if end > at and value != NOT_COVERED
        ]
        if ranges:
            tables[table] = PcTable(tuple(ranges))
    return tables


def _stub(name: str, address: int, position: Position) -> Function:
    text = f"UD2 // {name} is not in the listing"
    instruction = Instruction(address, _UD2, text, position, inserted=True)
    flags = TextFlag.NOSPLIT | TextFlag.NOFRAME
    end = address + len(_UD2)
    return Function(name, address, end, flags, "ABI0", 0, None, (instruction,), position)


def _text_segment(functions: list[Function]) -> Segment:
    start = functions[0].address & -PAGE
    out = bytearray()
    for function in functions:
        out += _PADDING * (function.address - start - len(out))
        out += b"".join(i.data for i in function.instructions)
    return Segment(".text", start, bytes(out), writable=False, executable=True)
