"""Intel and AT&T text: lines, labels, directives (as GNU as and, for Intel, NASM write them).

The code of a file is one piece, as it stands there: no frames, no byte added but for .align. A
label that is global or called, and the first one, begins a function; others belong to the
function in which they stand. Both syntaxes are read here, not by Keystone, whose readers take
what they do not understand.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING

from asm import x86_operand, x86_translate
from asm.image import TextFlag
from asm.item import Align, Branch, Bytes
from asm.layout import Body, lay_out
from asm.lexer import STRING
from asm.lexer import Token as GoToken
from asm.literal import string_bytes
from asm.operand import Data, Globl, Kind, Name, Prog, Text, Unit
from asm.operand import Operand as GoOperand
from asm.source import Diagnostics, Fault, Source, Span, near_miss
from asm.x86_operand import linker_name
from asm.x86_token import Cursor, Token, tokenize

if TYPE_CHECKING:
    from asm.item import Item, Reference
    from asm.layout import Relocation
    from asm.x86_operand import Operand

SYNTAXES = ("intel", "att")
MAX_FILL = 1 << 20
MAX_ALIGNMENT = 4096

_COMMENT = re.compile(
    r"/\*.*?(?:\*/|\Z)|//[^\n]*|#[^\n]*|\"(?:[^\"\\\n]|\\[^\n]?)*(?:\"|$)", re.DOTALL | re.MULTILINE
)
_SEMICOLON = re.compile(r"\"(?:[^\"\\]|\\.?)*(?:\"|\Z)|'(?:[^'\\]|\\.)'|;")
_WIDTHS = {
    ".byte": 1, ".short": 2, ".word": 2, ".hword": 2, ".value": 2, ".long": 4, ".int": 4,
    ".quad": 8, "db": 1, "dw": 2, "dd": 4, "dq": 8,
}  # fmt: skip
_SECTIONS = {".text": ".text", ".data": ".data", ".rodata": ".rodata", ".bss": ".data"}
# What says something to a linker or debugger, and nothing to us.
_IGNORED = frozenset({
    ".type", ".size", ".file", ".ident", ".cfi_startproc", ".cfi_endproc", ".loc",
    ".intel_syntax", ".att_syntax", "bits", "default", ".code64", ".p2align_hint", "extern",
    ".extern",
})  # fmt: skip
_DIRECTIVES = frozenset({
    *_WIDTHS, *_SECTIONS, *_IGNORED, ".globl", ".global", "global", ".section", "section",
    ".align", ".balign", ".p2align", "align", ".zero", ".skip", ".space", ".ascii", ".asciz",
    ".string",
})  # fmt: skip


class Reader:
    """Reads one file into a Unit, and translates its statements for the layout."""

    def __init__(self, source: Source, syntax: str, diagnostics: Diagnostics) -> None:
        self._source = source
        self._att = syntax == "att"
        self._diagnostics = diagnostics
        self._section = ".text"
        self._entries: set[str] = set()  # labels that begin functions
        self._progs: list[Prog] = []
        self._labels: dict[str, Prog] = {}
        self._starts: list[tuple[str, Prog]] = []
        self._datum: Globl | None = None
        self._statements: dict[int, x86_translate.Statement] = {}
        self._items: dict[int, Item] = {}
        self._numeric: dict[str, list[Prog]] = {}
        self.unit = Unit()

    def read(self) -> Unit:
        """Reads all lines; what is wrong goes to the diagnostics."""
        lines = list(_statements(self._source, self._diagnostics, att=self._att))
        for tokens, _ in lines:
            # A label may be declared global, or called, behind it.
            word = tokens[0].text.lower()
            if word in {".globl", ".global", "global", "call", "callq"}:
                self._entries |= {linker_name(t.text) for t in tokens[1:] if t.kind == "word"}
        for tokens, span in lines:
            try:
                self._statement(tokens, span)
            except Fault as fault:
                self._diagnostics.add(fault)
        return self.unit

    # Statements

    def _statement(self, tokens: list[Token], span: Span) -> None:
        labels = 0
        while labels + 1 < len(tokens) and tokens[labels + 1].text == ":":
            label = tokens[labels]
            if label.kind not in {"word", "number"}:
                raise Fault(label.span, f"{label.text} is no label")
            self._label(label)
            labels += 2
        tokens = tokens[labels:]
        if not tokens:
            return
        # NASM writes the label of data without a colon.
        if len(tokens) >= 2 and tokens[1].text.lower() in {"db", "dw", "dd", "dq"}:
            self._label(tokens[0])
            tokens = tokens[1:]
        word = tokens[0]
        if word.kind != "word":
            raise Fault(word.span, f"expected an instruction, found {word.text}")
        cursor = Cursor(tokens, span)
        cursor.at = 1
        if word.text.lower() in _DIRECTIVES:
            self._directive(word, cursor)
        elif word.text.startswith("."):
            note = near_miss(word.text, _DIRECTIVES)
            raise Fault(word.span, f"unknown directive {word.text}", note)
        else:
            self._instruction(word, cursor, span)

    def _label(self, token: Token) -> None:
        name = linker_name(token.text)
        if self._section != ".text":
            if token.kind == "number":
                raise Fault(token.span, "a number is no name for data")
            flags = TextFlag.NOPTR
            flags |= TextFlag.RODATA if self._section == ".rodata" else TextFlag.NONE
            self._datum = Globl(name, False, flags, 0, token.span)
            self.unit.globls.append(self._datum)
            return
        prog = self._append("LABEL", token.span, token.text)
        if token.kind == "number":
            self._numeric.setdefault(token.text, []).append(prog)
            return
        if name in self._labels:
            raise Fault(token.span, f"label {name} is already defined")
        self._labels[name] = prog
        if name in self._entries or not self._starts:
            self._starts.append((name, prog))

    def _append(self, op: str, span: Span, source: str) -> Prog:
        if not self._progs and op != "LABEL":
            self._progs.append(Prog("LABEL", [], span, source))
            self._starts.append(("main", self._progs[0]))
        prog = Prog(op, [], span, source, number=len(self._progs) + 1)
        self._progs.append(prog)
        return prog

    def _instruction(self, word: Token, cursor: Cursor, span: Span) -> None:
        if self._section != ".text":
            raise Fault(word.span, f"an instruction in {self._section}")
        while (name := word.text.lower()) in x86_translate.PREFIXES:
            prog = self._append(name, word.span, word.text)
            self._items[id(prog)] = x86_translate.prefix(name)
            if cursor.done:
                return
            word = cursor.next("an instruction")
            span = Span(span.source, word.span.start, span.end)
        prog = self._append(word.text.lower(), span, _text(span))
        operands: list[Operand] = []
        parse = x86_operand.att if self._att else x86_operand.intel
        while not cursor.done:
            operands.append(parse(cursor))
            if cursor.done:
                break
            cursor.expect(",")
            if cursor.done:
                raise Fault(cursor.span, "expected an operand after the comma")
        said = x86_translate.statement(word.text, word.span, operands, span, att=self._att)
        for operand in operands:
            # 1b means the label before this place, 2f the one behind: known only at the end.
            if operand.symbol[:1].isdigit():
                self._numeric.setdefault(operand.symbol[:-1], [])
                operand.label_table = self._numeric
        self._statements[id(prog)] = said

    # Directives

    def _directive(self, word: Token, cursor: Cursor) -> None:
        name = word.text.lower()
        if name in _IGNORED:
            self._check_mode(word, cursor)
            return
        if name in {".globl", ".global", "global"}:
            return
        if name in {".section", "section"}:
            token = cursor.next("a section")
            section = _SECTIONS.get("." + token.text.lstrip(".").lower())
            if section is None:
                raise Fault(token.span, f"no section {token.text}: .text, .data, .rodata, .bss")
            self._section, self._datum = section, None
            return
        if name in _SECTIONS:
            self._section, self._datum = _SECTIONS[name], None
            return
        if name in {".align", ".balign", ".p2align", "align"}:
            self._align(cursor, shift=name == ".p2align")
        elif name in {".zero", ".skip", ".space"}:
            start = cursor.at
            count = cursor.expression()
            if not 0 <= count <= MAX_FILL:
                raise Fault(cursor.since(start), f"0 to {MAX_FILL} bytes")
            self._bytes(bytes(count), word.span)
        elif name in {".ascii", ".asciz", ".string"}:
            self._strings(cursor, zero=name != ".ascii")
        else:
            self._numbers(word, cursor, _WIDTHS[name])
        if not cursor.done:
            raise Fault(cursor.span, "expected the end of the line")

    def _check_mode(self, word: Token, cursor: Cursor) -> None:
        name = word.text.lower()
        if name in {".intel_syntax", ".att_syntax"} and (name == ".att_syntax") != self._att:
            raise Fault(word.span, f"{name} in a file that is read as {self._name}")
        if name == ".intel_syntax" and not cursor.sees("noprefix"):
            raise Fault(word.span, "only .intel_syntax noprefix is read")
        if name == "bits" and not cursor.sees("64"):
            raise Fault(word.span, "only 64 bits are modelled")

    @property
    def _name(self) -> str:
        return "AT&T" if self._att else "Intel"

    def _align(self, cursor: Cursor, *, shift: bool) -> None:
        start = cursor.at
        value = cursor.expression()
        if shift:
            value = 1 << value if 0 <= value <= 12 else 0
        if not 1 <= value <= MAX_ALIGNMENT or value & (value - 1):
            raise Fault(cursor.since(start), f"expected a power of two up to {MAX_ALIGNMENT}")
        cursor.at = len(cursor.tokens)
        if self._section == ".text":
            prog = self._append("ALIGN", cursor.since(start), f"align {value}")
            self._items[id(prog)] = Align(value)

    def _numbers(self, word: Token, cursor: Cursor, width: int) -> None:
        while True:
            start = cursor.at
            token = cursor.peek()
            if token is not None and token.kind == "string" and width == 1:
                cursor.at += 1
                self._bytes(_string(token), token.span)
            elif token is not None and token.kind == "word":
                cursor.at += 1
                offset = cursor.expression() if cursor.sees("+") or cursor.sees("-") else 0
                self._symbol(linker_name(token.text), offset, width, cursor.since(start))
            else:
                value = cursor.expression()
                if not -(1 << (8 * width - 1)) <= value < 1 << 8 * width:
                    raise Fault(cursor.since(start), f"{value:#x} does not fit in {width} bytes")
                data = (value % (1 << 8 * width)).to_bytes(width, "little")
                self._bytes(data, cursor.since(start))
            if not cursor.take(","):
                return
            if cursor.done:
                raise Fault(word.span, "expected a number after the comma")

    def _strings(self, cursor: Cursor, *, zero: bool) -> None:
        while True:
            token = cursor.next("a string")
            if token.kind != "string":
                raise Fault(token.span, f"expected a string, found {token.text}")
            self._bytes(_string(token) + (b"\0" if zero else b""), token.span)
            if not cursor.take(","):
                return

    def _bytes(self, data: bytes, span: Span) -> None:
        if self._section == ".text":
            prog = self._append("BYTES", span, _text(span))
            self._items[id(prog)] = Bytes(data)
            return
        for at in range(0, len(data), 8):
            part = data[at : at + 8]
            value = GoOperand(Kind.STRING, span, value=part)
            self._datum_data(span, len(part), value)

    def _symbol(self, name: str, offset: int, width: int, span: Span) -> None:
        if self._section == ".text" or width != 8:
            raise Fault(span, "the address of a symbol goes into .quad of .data only")
        value = GoOperand(Kind.ADDR, span, name=Name.EXTERN, symbol=name, offset=offset)
        self._datum_data(span, 8, value)

    def _datum_data(self, span: Span, width: int, value: GoOperand) -> None:
        globl = self._datum
        if globl is None:
            raise Fault(span, "data needs a label before it")
        self.unit.data.append(Data(globl.name, False, globl.size, width, value, span))
        globl.size += width

    # For the layout

    def functions(self) -> list[tuple[Text, Body]]:
        """The code, laid out as one piece and cut into its functions."""
        whole = lay_out(self._progs, self, self._diagnostics)
        if self._diagnostics or not self._progs:
            return []
        cuts = [whole.places[id(prog)].offset for _, prog in self._starts]
        if cuts[0]:
            # Numeric labels and directives may stand before the first name.
            cuts[0] = 0
        cuts.append(len(whole.data))
        flags = TextFlag.NOSPLIT | TextFlag.NOFRAME
        out = []
        for number, (name, prog) in enumerate(self._starts):
            low, high = cuts[number], cuts[number + 1]
            # Only the first is aligned: the others follow without a gap.
            body = Body(whole.data[low:high], whole.alignment if number == 0 else 1)
            body.relocations = [
                r._replace(offset=r.offset - low, end=r.end - low, reference=self._named(r, whole))
                for r in whole.relocations
                if low <= r.offset < high
            ]
            body.instructions = [
                (at - low, size, of, text)
                for at, size, of, text in whole.instructions
                if low <= at < high
            ]
            out.append((Text(name, False, "ABI0", flags, 0, None, prog.span, name), body))
        for data in self.unit.data:
            if data.value.kind is Kind.ADDR:
                value = data.value
                value.symbol, value.offset = self._place(value.symbol, value.offset, whole)
        return out

    def _named(self, relocation: Relocation, whole: Body) -> Reference:
        reference = relocation.reference
        name, offset = self._place(reference.name, reference.offset, whole)
        return reference._replace(name=name, offset=offset)

    def _place(self, name: str, offset: int, whole: Body) -> tuple[str, int]:
        """A label within a function as the function's name and an offset."""
        prog = self._labels.get(name)
        if prog is None or any(name == start for start, _ in self._starts):
            return name, offset
        at = whole.places[id(prog)].offset
        places = [(start, whole.places[id(p)].offset) for start, p in self._starts]
        start, low = next((s, o) for s, o in reversed(places) if o <= at)
        return start, offset + at - low

    def translate(self, prog: Prog) -> Item | None:
        """The machine's view of a statement; None for a label."""
        if id(prog) in self._items:
            return self._items[id(prog)]
        said = self._statements.get(id(prog))
        if said is None:
            return None  # a label, or what has been reported already
        if said.mnemonic in x86_translate.BRANCHES:
            if len(said.operands) != 1:
                raise Fault(said.span, f"{said.mnemonic} takes one operand")
            operand = said.operands[0]
            if operand.is_symbol:
                return self._branch(prog, said, operand)
            if said.mnemonic not in {"jmp", "call"} or operand.value is not None:
                raise Fault(operand.span, f"{said.mnemonic} goes to a label")
            if self._att and not operand.indirect:
                raise Fault(operand.span, f"{said.mnemonic} through this is written with a *")
        return x86_translate.items(said)

    def _branch(self, prog: Prog, said: x86_translate.Statement, operand: Operand) -> Branch:
        if operand.symbol[:1].isdigit():
            return Branch(said.mnemonic, self._local(prog, operand))
        target = self._labels.get(operand.symbol)
        if target is not None:
            if operand.offset:
                raise Fault(operand.span, "a label takes no offset")
            return Branch(said.mnemonic, target)
        if said.mnemonic in {"jmp", "call"}:
            return Branch(said.mnemonic, None, x86_translate.reference(operand))
        note = near_miss(operand.symbol, self._labels)
        raise Fault(operand.span, f"no label {operand.symbol}", note)

    @staticmethod
    def _local(prog: Prog, operand: Operand) -> Prog:
        number, direction = operand.symbol[:-1], operand.symbol[-1]
        places = (operand.label_table or {}).get(number, [])
        if direction == "b":
            found = next((p for p in reversed(places) if p.number <= prog.number), None)
        else:
            found = next((p for p in places if p.number > prog.number), None)
        if found is None:
            where = "before" if direction == "b" else "behind"
            raise Fault(operand.span, f"no label {number} {where} this")
        return found


def _text(span: Span) -> str:
    return " ".join(span.source.text[span.start : span.end].split())


def _string(token: Token) -> bytes:
    source, start, end, _ = token.span
    return string_bytes(GoToken(STRING, f'"{token.text[1:-1]}"', source, start, end))


def _statements(
    source: Source, diagnostics: Diagnostics, *, att: bool
) -> list[tuple[list[Token], Span]]:
    """The statements of a text, comments left out."""
    for comment in _COMMENT.finditer(source.text):
        if comment[0].startswith("/*") and (len(comment[0]) < 4 or not comment[0].endswith("*/")):
            span = Span(source, comment.start(), comment.start() + 2)
            diagnostics.add(Fault(span, "comment is not closed"))
    text = _COMMENT.sub(
        lambda m: m[0] if m[0][0] == '"' else re.sub(r"[^\n]", " ", m[0]), source.text
    )
    blank = Source(source.name, text)
    out: list[tuple[list[Token], Span]] = []
    start = 0
    for line in text.split("\n"):
        end = start + len(line)
        try:
            for low, high in _pieces(blank, start, end, att=att):
                tokens = tokenize(blank, low, high)
                if tokens:
                    moved = [t._replace(span=t.span._replace(source=source)) for t in tokens]
                    out.append((moved, Span(source, moved[0].span.start, moved[-1].span.end)))
        except Fault as fault:
            diagnostics.add(Fault(fault.span._replace(source=source), fault.message, fault.note))
        start = end + 1
    return out


def _pieces(source: Source, start: int, end: int, *, att: bool) -> list[tuple[int, int]]:
    """Statements between semicolons; in Intel's syntax a semicolon begins a comment."""
    cuts = [m.start() for m in _SEMICOLON.finditer(source.text, start, end) if m[0] == ";"]
    if not cuts:
        return [(start, end)]
    if att:
        edges = [start - 1, *cuts, end]
        return [(low + 1, high) for low, high in pairwise(edges)]
    word = source.text[cuts[0] + 1 : end].split(None, 1)
    if word and word[0].lower() in x86_translate.names():
        raise Fault(
            Span(source, cuts[0], cuts[0] + 1),
            "a semicolon ends a statement to some assemblers and begins a comment to others",
            "write a new line, or # before a comment",
        )
    return [(start, cuts[0])]
