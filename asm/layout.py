"""Addresses within a function: branch sizes, alignment, tables by PC (asm6.go: span6; pcln.go).

Go starts with short branches everywhere, lengthens a forward branch that turns out too far, and
starts over; a backward branch is measured as it is met. The same steps give the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from asm.encode import encode
from asm.image import PcTable, PcValue, UnsafePointSafe
from asm.item import Align, Branch, Bytes, Code, Item, Reference, Translates
from asm.machine import CannotEncodeError
from asm.opcodes import CC
from asm.operand import Kind
from asm.source import Diagnostics, Fault
from asm.verify import MismatchError, disassemble

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asm.operand import Prog

FUNCTION_ALIGNMENT = 16
MAX_PASSES = 1000  # as in Go
_NOPS = (
    b"",
    bytes.fromhex("90"),
    bytes.fromhex("6690"),
    bytes.fromhex("0f1f00"),
    bytes.fromhex("0f1f4000"),
    bytes.fromhex("0f1f440000"),
    bytes.fromhex("660f1f440000"),
    bytes.fromhex("0f1f8000000000"),
    bytes.fromhex("0f1f840000000000"),
    bytes.fromhex("660f1f840000000000"),
)
_JCC = {f"j{cc}": number for number, cc in enumerate(CC)}
# Branches that have only a short form.
_SHORT_ONLY = {
    "jecxz": b"\x67\xe3",
    "jrcxz": b"\xe3",
    "loop": b"\xe2",
    "loope": b"\xe1",
    "loopne": b"\xe0",
}
# What has SP for its last operand and writes it nowhere, or by its spadj.
_COMPARE_OR_ADJUST = frozenset({"CMPL", "CMPQ", "ADJSP", "PUSHQ", "PUSHL", "PUSHW", "NOP"})
_NEAR = {"jmp": b"\xe9", "call": b"\xe8", "xbegin": b"\xc7\xf8"}


@dataclass(slots=True, eq=False, repr=False)
class Piece:
    """What one statement gives: its place in the function and its bytes."""

    prog: Prog
    item: Item
    data: bytes = b""
    offset: int = 0
    size: int = 0
    field: int = -1
    reference: Reference | None = None
    long: bool = False


class Relocation(NamedTuple):
    """A 32-bit field at `offset` of a function, relative to `end`, the next instruction."""

    offset: int
    end: int
    reference: Reference
    branch: bool  # of a call or jump


@dataclass(slots=True, eq=False, repr=False)
class Body:
    """A function's machine code before it has an address."""

    data: bytes = b""
    alignment: int = FUNCTION_ALIGNMENT
    relocations: list[Relocation] = field(default_factory=list)
    # offset, size, statement, its text
    instructions: list[tuple[int, int, Prog, str]] = field(default_factory=list)
    pcdata: dict[int, list[PcValue]] = field(default_factory=dict)
    spdelta: list[PcValue] = field(default_factory=list)
    funcdata: dict[int, str] = field(default_factory=dict)
    sp_write: bool = False
    places: dict[int, Place] = field(default_factory=dict)  # by the id of the statement


def lay_out(progs: Sequence[Prog], translator: Translates, diagnostics: Diagnostics) -> Body:
    """Encodes the statements of a function and places them."""
    pieces, starts = _encode_all(progs, translator, diagnostics)
    body = Body()
    if diagnostics:
        return body
    try:
        _place(pieces, starts)
    except Fault as fault:
        diagnostics.add(fault)
        return body
    out = bytearray()
    for piece in pieces:
        if isinstance(piece.item, Branch):
            _finish_branch(piece, starts)
        elif isinstance(piece.item, Align):
            body.alignment = max(body.alignment, piece.item.alignment)
            piece.data = nop_padding(piece.size)
        if piece.reference is not None:
            body.relocations.append(
                Relocation(
                    piece.offset + piece.field,
                    piece.offset + piece.size,
                    piece.reference,
                    isinstance(piece.item, Branch),
                )
            )
        out += piece.data
    body.data = bytes(out)
    body.places = starts
    _too_far(pieces, diagnostics)
    body.instructions = _instructions(pieces, body.data)
    _tables(progs, starts, len(out), body)
    return body


def nop_padding(size: int) -> bytes:
    """NOPs of so many bytes, the longest first."""
    out = b""
    while size > 0:
        step = min(size, len(_NOPS) - 1)
        out += _NOPS[step]
        size -= step
    return out


def _encode_all(
    progs: Sequence[Prog], translator: Translates, diagnostics: Diagnostics
) -> tuple[list[Piece], dict[int, Place]]:
    pieces: list[Piece] = []
    starts: dict[int, Place] = {}
    for order, prog in enumerate(progs):
        starts[id(prog)] = Place(order)
        try:
            item = translator.translate(prog)
            if item is None:
                continue
            piece = Piece(prog, item)
            if isinstance(item, Code):
                encoded = encode(item.insn, item.encoded)
                piece.data, piece.field = encoded
                piece.reference = item.reference
            elif isinstance(item, Bytes):
                piece.data = item.data
            elif isinstance(item, Branch) and item.reference is not None:
                piece.data = _NEAR[item.mnemonic] + bytes(4)
                piece.field = len(piece.data) - 4
                piece.reference = item.reference
            piece.size = len(piece.data)
            starts[id(prog)].piece = piece
            pieces.append(piece)
        except Fault as fault:
            diagnostics.add(fault)
        except CannotEncodeError as error:
            diagnostics.add(_cannot_encode(prog, error))
        except MismatchError as error:
            diagnostics.add(
                Fault(prog.span, f"{prog.op} with these operands is not encoded right: {error}")
            )
    return pieces, starts


def _cannot_encode(prog: Prog, error: CannotEncodeError) -> Fault:
    text = str(error)
    if text.startswith("no encoding"):
        return Fault(prog.span, f"{prog.op} does not take these operands", f"({text})")
    # A number that does not fit stands in the constant or in the address.
    kinds = (Kind.CONST, Kind.MEM)
    at = next((o.span for k in kinds for o in prog.operands if o.kind is k), prog.span)
    return Fault(at, text)


class Place:
    """Where a statement begins: it may give no bytes and still be jumped to."""

    __slots__ = ("offset", "order", "piece")

    def __init__(self, order: int) -> None:
        self.order = order
        self.offset = 0
        self.piece: Piece | None = None


def _place(pieces: list[Piece], starts: dict[int, Place]) -> None:
    """Sizes and offsets, by as many passes as long forward branches ask for."""
    places = list(starts.values())
    forward: dict[int, list[Piece]] = {}
    for piece in pieces:
        if isinstance(piece.item, Branch) and piece.item.target is not None:
            target = starts[id(piece.item.target)]
            if target.order > starts[id(piece.prog)].order:
                forward.setdefault(target.order, []).append(piece)
    again = True
    passes = 0
    while again:
        again = False
        passes += 1
        if passes > MAX_PASSES:
            raise Fault(pieces[0].prog.span, "the branches of this function do not settle")
        if passes == 2:
            _encode_again(pieces)
        at = 0
        for place in places:
            place.offset = at
            for branch in forward.get(place.order, ()):
                if not branch.long and at - (branch.offset + branch.size) > 127:
                    branch.long = again = True
            here = place.piece
            if here is None:
                continue
            here.offset = at
            item = here.item
            if isinstance(item, Align):
                here.size = -at % item.alignment
            elif isinstance(item, Branch) and item.target is not None:
                target = starts[id(item.target)]
                if target.order <= place.order:
                    here.long = target.offset - (at + 2) < -128
                here.size = _branch_size(item.mnemonic, long=here.long)
            at += here.size


def _encode_again(pieces: list[Piece]) -> None:
    for piece in pieces:
        if isinstance(piece.item, Code) and piece.item.again is not None:
            piece.data, piece.field = encode(piece.item.again)
            piece.size = len(piece.data)


def _branch_size(mnemonic: str, *, long: bool) -> int:
    if mnemonic in _SHORT_ONLY:
        return len(_SHORT_ONLY[mnemonic]) + 1
    if mnemonic in {"call", "xbegin"}:
        return len(_NEAR[mnemonic]) + 4
    if not long:
        return 2
    return 5 if mnemonic == "jmp" else 6


def _finish_branch(piece: Piece, starts: dict[int, Place]) -> None:
    item = piece.item
    assert isinstance(item, Branch)
    if item.target is None:
        return
    distance = starts[id(item.target)].offset - (piece.offset + piece.size)
    mnemonic = item.mnemonic
    if mnemonic in _SHORT_ONLY:
        # A distance that does not fit is reported by _too_far.
        piece.data = _SHORT_ONLY[mnemonic] + bytes((distance & 0xFF,))
        piece.long = not -128 <= distance <= 127
    elif mnemonic in {"call", "xbegin"} or piece.long:
        opcode = _NEAR.get(mnemonic) or bytes((0x0F, 0x80 | _JCC[mnemonic]))
        piece.data = opcode + distance.to_bytes(4, "little", signed=True)
    else:
        opcode = b"\xeb" if mnemonic == "jmp" else bytes((0x70 | _JCC[mnemonic],))
        piece.data = opcode + distance.to_bytes(1, "little", signed=True)


def _too_far(pieces: list[Piece], diagnostics: Diagnostics) -> None:
    for piece in pieces:
        item = piece.item
        if isinstance(item, Branch) and item.mnemonic in _SHORT_ONLY and piece.long:
            diagnostics.add(
                Fault(piece.prog.span, f"{piece.prog.op} reaches only 127 bytes: this is farther")
            )


def _instructions(pieces: list[Piece], data: bytes) -> list[tuple[int, int, Prog, str]]:
    """The machine's instructions: prefixes and raw bytes are parts of them."""
    out: list[tuple[int, int, Prog, str]] = []
    index = 0
    while index < len(pieces):
        piece = pieces[index]
        index += 1
        if not piece.size:
            continue
        if isinstance(piece.item, Align):
            at = piece.offset
            for nop in _split_nops(piece.size):
                out.append((at, nop, piece.prog, piece.prog.source))
                at += nop
            continue
        if not isinstance(piece.item, Bytes):
            out.append((piece.offset, piece.size, piece.prog, piece.prog.source))
            continue
        run = [piece]
        while index < len(pieces) and isinstance(run[-1].item, Bytes):
            if isinstance(pieces[index].item, Align):
                break
            run.append(pieces[index])
            index += 1
        out += _regroup(run, data)
    return out


def _split_nops(size: int) -> list[int]:
    longest = len(_NOPS) - 1
    return [longest] * (size // longest) + ([size % longest] if size % longest else [])


def _regroup(run: list[Piece], data: bytes) -> list[tuple[int, int, Prog, str]]:
    """Raw bytes and the instruction after them, cut where the machine's instructions begin."""
    start, end = run[0].offset, run[-1].offset + run[-1].size
    cuts = {start, end}
    at = start
    for decoded in disassemble(data[start:end]):
        at += decoded.size
        cuts.add(at)
    # What is no instruction stays in the pieces in which it was written.
    cuts |= {p.offset for p in run if p.offset >= at}
    edges = sorted(cuts)
    out: list[tuple[int, int, Prog, str]] = []
    first = 0
    for low, high in pairwise(edges):
        while run[first].offset + run[first].size <= low:
            first += 1
        parts = [run[first]]
        while parts[-1].offset + parts[-1].size < high:
            parts.append(run[first + len(parts)])
        text = "; ".join(p.prog.source for p in parts)
        out.append((low, high - low, parts[0].prog, text))
    return out


def _tables(progs: Sequence[Prog], starts: dict[int, Place], size: int, body: Body) -> None:
    """PCDATA and the distance of SP from its value at the entry (pctopcdata, pctospadj)."""
    values: dict[int, int] = {}
    since: dict[int, int] = {}
    delta = delta_since = 0

    def close(table: int, at: int) -> None:
        value = values.get(table, UnsafePointSafe)
        if value != UnsafePointSafe and at > since[table]:
            body.pcdata.setdefault(table, []).append(PcValue(since[table], at, value))

    for prog in progs:
        place = starts[id(prog)]
        piece = place.piece
        end = piece.offset + piece.size if piece is not None else place.offset
        if prog.op == "PCDATA":
            table, value = (o.offset for o in prog.operands)
            if values.get(table, UnsafePointSafe) != value:
                close(table, end)
                values[table], since[table] = value, end
        elif prog.op == "FUNCDATA":
            body.funcdata[prog.operands[0].offset] = prog.operands[1].symbol
        elif _writes_sp(prog):
            body.sp_write = True
        if prog.spadj:
            if end > delta_since:
                body.spdelta.append(PcValue(delta_since, end, delta))
            delta += prog.spadj
            delta_since = end
    for table in values:
        close(table, size)
    if size > delta_since:
        body.spdelta.append(PcValue(delta_since, size, delta))


def _writes_sp(prog: Prog) -> bool:
    """Whether SP becomes something that spadj does not tell (obj6.go: auto-SPWRITE)."""
    if prog.spadj or not prog.operands or prog.op in _COMPARE_OR_ADJUST:
        return False
    last = prog.operands[-1]
    return last.kind is Kind.REG and last.reg is not None and last.reg.name == "SP"


def shifted(ranges: list[PcValue], address: int) -> PcTable:
    """A table with its ranges at their final addresses; equal neighbours become one."""
    out: list[PcValue] = []
    for r in ranges:
        if out and out[-1].end == address + r.start and out[-1].value == r.value:
            out[-1] = PcValue(out[-1].start, address + r.end, r.value)
        else:
            out.append(PcValue(address + r.start, address + r.end, r.value))
    return PcTable(tuple(out))
