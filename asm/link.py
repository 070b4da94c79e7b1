"""Addresses and contents of everything: functions, data, references between them (cmd/link)."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from asm.image import (
    Function,
    Image,
    Instruction,
    Relocation,
    RelocationType,
    Segment,
    Symbol,
    TextFlag,
)
from asm.layout import shifted
from asm.operand import Kind, Name
from asm.source import Diagnostics, Fault, near_miss

if TYPE_CHECKING:
    from collections.abc import Mapping

    from asm.layout import Body
    from asm.operand import Data, Globl, Operand, Text
    from asm.source import Source

PAGE = 4096
MAX_DATA = 1 << 28
MAX_ALIGNMENT = 32  # of data symbols, as Go's linker aligns them
_PADDING = b"\xcc"  # INT3 between functions
# Read-only data first, then what is writable; each on pages of its own.
_SEGMENTS = (".rodata", ".noptrdata", ".data", ".noptrbss", ".bss")


@dataclass(slots=True, eq=False, repr=False)
class _Datum:
    """A data symbol on its way into a segment."""

    name: str
    file: int
    static: bool
    flags: TextFlag
    size: int
    globl: Globl | None
    data: list[Data] = field(default_factory=list)
    constant: bytes = b""
    address: int = 0

    @property
    def segment(self) -> str:
        filled = bool(self.data or self.constant)
        if TextFlag.RODATA in self.flags:
            return ".rodata"
        kind = "data" if filled else "bss"
        return f".noptr{kind}" if TextFlag.NOPTR in self.flags else f".{kind}"


@dataclass(slots=True, eq=False, repr=False)
class _Code:
    text: Text
    file: int
    flags: TextFlag
    body: Body
    address: int = 0


class Linker:
    """Collects what the files define and makes the image."""

    def __init__(
        self, diagnostics: Diagnostics, externs: Mapping[str, int], *, undefined: bool = False
    ) -> None:
        """`undefined`: a symbol that nothing defines is left to the image's relocations."""
        self._diagnostics = diagnostics
        self._externs = externs
        self._undefined = undefined
        self._relocations: list[Relocation] = []
        self._codes: list[_Code] = []
        self._data: dict[tuple[str, int], _Datum] = {}
        # A static symbol is known by its file, another by -1.
        self._addresses: dict[tuple[str, int], int] = {}
        self._by_abi: dict[tuple[str, str], int] = {}
        self._defined: dict[tuple[str, int, str], Text] = {}

    def constant(self, data: bytes) -> str:
        """The name of a read-only symbol that holds a floating-point constant."""
        name = f"$f{8 * len(data)}.{int.from_bytes(data, 'little'):0{2 * len(data)}x}"
        key = (name, -1)
        if key not in self._data:
            flags = TextFlag.RODATA | TextFlag.NOPTR | TextFlag.DUPOK
            self._data[key] = _Datum(name, -1, False, flags, len(data), None, constant=data)
        return name

    def add_function(self, text: Text, file: int, flags: TextFlag, body: Body) -> None:
        """Takes a function; a second of the same name and ABI is an error."""
        key = (text.name, file if text.static else -1, text.abi)
        first = self._defined.setdefault(key, text)
        if first is not text:
            note = f"the first is at {first.span.position}"
            self._diagnostics.add(Fault(text.span, f"{text.name} is already defined", note))
            return
        self._codes.append(_Code(text, file, flags, body))

    def add_globl(self, globl: Globl, file: int) -> None:
        """Takes a GLOBL."""
        key = (globl.name, file if globl.static else -1)
        known = self._data.get(key)
        if known is not None and known.globl is not None:
            if TextFlag.DUPOK not in globl.flags:
                self._diagnostics.add(Fault(globl.span, f"{globl.name} is already defined"))
            return
        if known is None:
            self._data[key] = _Datum(globl.name, file, globl.static, globl.flags, globl.size, globl)

    def add_data(self, data: Data, file: int) -> None:
        """Takes a DATA; its GLOBL may stand in any file."""
        key = (data.name, file if data.static else -1)
        datum = self._data.get(key)
        if datum is None:
            note = near_miss(data.name, (name for name, _ in self._data))
            self._diagnostics.add(
                Fault(data.span, f"DATA of {data.name}, which no GLOBL declares", note)
            )
            return
        if data.offset + data.width > datum.size:
            self._diagnostics.add(
                Fault(data.span, f"DATA beyond the {datum.size} bytes of {data.name}")
            )
            return
        datum.data.append(data)

    # Addresses

    def place(self, text_address: int, data_address: int) -> None:
        """Gives every symbol its address."""
        at = text_address
        for code in self._codes:
            at += -at % code.body.alignment
            code.address = at
            at += len(code.body.data)
            file = code.file if code.text.static else -1
            self._addresses.setdefault((code.text.name, file), code.address)
            self._by_abi[code.text.name, code.text.abi] = code.address
        at = data_address
        for segment in _SEGMENTS:
            at += -at % PAGE
            for datum in self._data.values():
                if datum.segment == segment:
                    at += -at % _alignment(datum.size)
                    datum.address = at
                    at += datum.size
                    file = datum.file if datum.static else -1
                    key = (datum.name, file)
                    if key in self._addresses and datum.globl is not None:
                        self._diagnostics.add(
                            Fault(datum.globl.span, f"{datum.name} is already a function")
                        )
                    self._addresses[key] = datum.address
                    if at - data_address > MAX_DATA and datum.globl is not None:
                        fault = Fault(datum.globl.span, f"data of more than {MAX_DATA >> 20} MiB")
                        self._diagnostics.add(fault)
                        self._diagnostics.raise_if_any()

    def _resolve(self, name: str, file: int, operand: Operand, *, static: bool) -> int | None:
        if static:
            address = self._addresses.get((name, file))
        else:
            address = self._by_abi.get((name, operand.abi), self._addresses.get((name, -1)))
            if address is None:
                address = self._externs.get(name)
        if address is None and not (self._undefined and not static):
            known = [n for n, f in self._addresses if f in {-1, file}]
            note = near_miss(name, (*known, *self._externs))
            if (name, file) in self._addresses:
                note = f"{name}<> is static: write {name}<>(SB)"
            elif (name, -1) in self._addresses:
                note = f"{name} is not static: write {name}(SB)"
            shown = f"{name}<>" if static else name
            self._diagnostics.add(Fault(operand.span, f"undefined symbol {shown}", note))
        return address

    # The image

    def image(self, sources: list[Source]) -> Image:
        """Applies every relocation and hands the result over."""
        functions = tuple(self._function(code) for code in self._codes)
        segments = [*self._text(functions), *self._data_segments()]
        symbols = tuple(
            Symbol(d.name, d.address, d.size, d.flags, d.static)
            for d in sorted(self._data.values(), key=lambda d: d.address)
        )
        lines = {s.name: tuple(s.text.split("\n")) for s in sources}
        relocations = tuple(sorted(self._relocations, key=lambda r: r.address))
        return Image(functions, symbols, tuple(segments), lines, relocations)

    def _function(self, code: _Code) -> Function:
        data = bytearray(code.body.data)
        for relocation in code.body.relocations:
            reference = relocation.reference
            symbol = self._resolve(
                reference.name, code.file, reference.operand, static=reference.static
            )
            # Relative to the end of the instruction, which may have an immediate behind.
            addend = reference.offset - (relocation.end - relocation.offset)
            kind = RelocationType.R_X86_64_PLT32
            if not relocation.branch:
                kind = RelocationType.R_X86_64_PC32
            self._relocations.append(
                Relocation(
                    code.address + relocation.offset,
                    kind,
                    reference.name,
                    addend,
                    symbol,
                )
            )
            if symbol is None:
                continue
            distance = symbol + addend - (code.address + relocation.offset)
            if not -(1 << 31) <= distance < 1 << 31:
                self._diagnostics.add(
                    Fault(
                        reference.operand.span,
                        f"{reference.name} at {symbol:#x} is more than 2 GiB away",
                    )
                )
                continue
            data[relocation.offset : relocation.offset + 4] = distance.to_bytes(
                4, "little", signed=True
            )
        code.body.data = bytes(data)
        address = code.address
        text = code.text
        return Function(
            text.name,
            address,
            address + len(data),
            code.flags,
            text.abi,
            text.frame,
            text.args,
            tuple(
                Instruction(
                    address + offset,
                    code.body.data[offset : offset + size],
                    source,
                    prog.span.position,
                    prog.inserted or prog.op == "PCALIGN",
                )
                for offset, size, prog, source in code.body.instructions
            ),
            text.span.position,
            {table: shifted(r, address) for table, r in code.body.pcdata.items()},
            shifted(code.body.spdelta, address),
            text.static,
            code.body.alignment,
            code.body.funcdata,
            code.body.sp_write,
        )

    def _text(self, functions: tuple[Function, ...]) -> list[Segment]:
        if not functions:
            return []
        start = functions[0].address
        out = bytearray()
        for function, code in zip(functions, self._codes, strict=True):
            out += _PADDING * (function.address - start - len(out))
            out += code.body.data
        return [Segment(".text", start, bytes(out), writable=False, executable=True)]

    def _data_segments(self) -> list[Segment]:
        out: list[Segment] = []
        for name in _SEGMENTS:
            data = sorted(
                (d for d in self._data.values() if d.segment == name), key=lambda d: d.address
            )
            if not data or not sum(d.size for d in data):
                continue
            start = data[0].address
            content = bytearray(data[-1].address + data[-1].size - start)
            for datum in data:
                content[datum.address - start : datum.address - start + datum.size] = self._fill(
                    datum
                )
            out.append(
                Segment(name, start, bytes(content), writable=name != ".rodata", executable=False)
            )
        return out

    def _fill(self, datum: _Datum) -> bytes:
        content = bytearray(datum.constant or bytes(datum.size))
        for data in datum.data:
            content[data.offset : data.offset + data.width] = self._value(data, datum)
        return bytes(content)

    def _value(self, data: Data, datum: _Datum) -> bytes:
        value, width = data.value, data.width
        if value.kind is Kind.ADDR:
            static = value.name is Name.STATIC
            target = self._resolve(value.symbol, datum.file, value, static=static)
            self._relocations.append(
                Relocation(
                    datum.address + data.offset,
                    RelocationType.R_X86_64_64,
                    value.symbol,
                    value.offset,
                    target,
                )
            )
            number = 0 if target is None else target + value.offset
            return (number & 0xFFFFFFFFFFFFFFFF).to_bytes(8, "little")
        if value.kind is Kind.CONST:
            return (value.offset & ((1 << 8 * width) - 1)).to_bytes(width, "little")
        if isinstance(value.value, bytes):
            return value.value.ljust(width, b"\0")
        try:
            return struct.pack("<f" if width == 4 else "<d", value.value)
        except OverflowError:
            self._diagnostics.add(Fault(value.span, "the constant does not fit in 32 bits"))
            return bytes(width)


def _alignment(size: int) -> int:
    """Go's linker: the largest power of two up to 32 that the size reaches."""
    alignment = MAX_ALIGNMENT
    while alignment > size and alignment > 1:
        alignment >>= 1
    return alignment
