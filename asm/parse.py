"""Statements and operands of Go's assembler (cmd/asm/internal/asm/parse.go, asm.go)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from asm import literal
from asm.expression import Cursor, signed
from asm.image import TextFlag
from asm.lexer import CHAR, FLOAT, IDENT, INT, STRING, Token
from asm.mnemonics import NOT_IN_64_BIT_MODE, is_jump, known_mnemonics, mnemonic_exists
from asm.operand import Data, Globl, Kind, Name, Operand, Prog, Text, Unit
from asm.registers import REGISTERS, RegClass, Register
from asm.source import Diagnostics, Fault, Span, near_miss
from asm.statement import frame_size, span_of, split_operands, text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_DIRECTIVES = ("TEXT", "DATA", "GLOBL", "PCDATA", "FUNCDATA", "PCALIGN", "END")
# Names of the kinds that go_asm.h defines, in the messages about unknown words.
_UNKNOWN = re.compile(r"(?:^|found )(?P<name>[A-Za-z]\w*?_\w+)(?= is n|$)")
# Statements of a function that name no machine instruction.
_PSEUDO = frozenset({"PCDATA", "FUNCDATA", "PCALIGN"})


class Parser:
    """Reads the statements of one file into a Unit."""

    def __init__(
        self,
        diagnostics: Diagnostics,
        package: str,
        macros: Callable[[], Iterable[str]] = tuple,
        table: Callable[[], str] = str,
    ) -> None:
        """Makes a parser.

        Args:
            diagnostics: where faults go.
            package: of names that begin with a dot.
            macros: gives the names that are defined, for near misses.
            table: names what a go_asm.h was made from, if one is included.
        """
        self._table = table
        self._diagnostics = diagnostics
        self._macros = macros
        self._package = package
        self._text: Text | None = None
        self._pending: list[tuple[str, Token]] = []
        self._data_end: dict[str, int] = {}
        self.unit = Unit()

    def parse(self, statements: Iterable[list[Token]]) -> Unit:
        """Parses all statements; what is wrong goes to the diagnostics."""
        for statement in statements:
            try:
                self._statement(statement)
            except Fault as fault:
                self._diagnostics.add(self._of_table(fault))
        self._end_text()
        return self.unit

    def _of_table(self, fault: Fault) -> Fault:
        """An unknown const_name, type__size or type_field is one that the table lacks."""
        match = _UNKNOWN.search(fault.message)
        table = self._table() if match else ""
        if match is None or not table:
            return fault
        name = match["name"]
        # Most of its names are constants: what all of them begin with says nothing.
        head = "const_" if name.startswith("const_") else ""
        rests = [m.removeprefix(head) for m in self._macros() if m.startswith(head) and "_" in m]
        note = near_miss(name.removeprefix(head), rests)
        note = note.replace("did you mean ", f"did you mean {head}") if note else None
        return Fault(fault.span, f"{name}: not in {table}", note, lacks=name)

    def _statement(self, tokens: list[Token]) -> None:
        labels = 0
        while labels + 1 < len(tokens) and tokens[labels + 1].text == ":":
            label = tokens[labels]
            if label.kind is not IDENT:
                break
            self._pending.append((label.text, label))
            labels += 2
        tokens = tokens[labels:]
        if not tokens:
            return
        word = tokens[0]
        if word.kind is not IDENT:
            raise Fault(word.span, f"expected an instruction, found {word.text}")
        at = 1
        suffixes: list[str] = []
        while at < len(tokens) and tokens[at].text == ".":
            if at + 1 == len(tokens) or tokens[at + 1].kind is not IDENT:
                raise Fault(tokens[at].span, "expected a suffix after the dot")
            suffixes.append(tokens[at + 1].text)
            at += 2
        span = span_of(tokens)
        source = text_of(tokens)
        groups = split_operands(tokens[at:], word)
        op = word.text
        if op in _DIRECTIVES and suffixes:
            raise Fault(tokens[1].span, f"{op} takes no suffix")
        match op:
            case "TEXT":
                self._begin_text(groups, span, source, word)
            case "DATA":
                self._parse_data(groups, word)
            case "GLOBL":
                self._parse_globl(groups, word)
            case "END":
                pass
            case _:
                self._instruction(op, tuple(suffixes), groups, span, source, word)

    def _instruction(
        self,
        op: str,
        suffixes: tuple[str, ...],
        groups: list[list[Token]],
        span: Span,
        source: str,
        word: Token,
    ) -> None:
        text = self._text
        if op not in _PSEUDO and not mnemonic_exists(op):
            note: str | None
            if op in NOT_IN_64_BIT_MODE:
                note = "the processor does not have it in 64-bit mode"
            else:
                note = near_miss(op, (*known_mnemonics(), *_DIRECTIVES))
            # The statement still counts, for labels and for n(PC).
            if text is not None:
                self._append(Prog("UNKNOWN", [], span, source))
            raise Fault(word.span, f"unknown instruction {op}", note)
        if text is None:
            raise Fault(word.span, f"{op} stands before any TEXT")
        jump = is_jump(op)
        prog = Prog(op, [], span, source, suffixes)
        self._append(prog)
        fault: Fault | None = None
        for group in groups:
            try:
                prog.operands.append(self._operand(group, jump=jump))
            except Fault as found:  # each operand has its own say
                if fault is not None:
                    self._diagnostics.add(found)
                fault = fault or found
        try:
            if fault is not None:
                raise fault
            if op in _PSEUDO:
                self._check_pseudo(prog, word)
        except Fault:
            prog.op = "UNKNOWN"
            raise

    @staticmethod
    def _check_pseudo(prog: Prog, word: Token) -> None:
        kinds = [o.kind for o in prog.operands]
        wanted = {
            "PCDATA": ([Kind.CONST, Kind.CONST], "PCDATA takes $table, $value"),
            "FUNCDATA": ([Kind.CONST, Kind.MEM], "FUNCDATA takes $table, symbol(SB)"),
            "PCALIGN": ([Kind.CONST], "PCALIGN takes $alignment"),
        }[prog.op]
        if kinds != wanted[0]:
            raise Fault(word.span, wanted[1])
        if prog.op == "PCALIGN":
            alignment = prog.operands[0].offset
            if alignment not in {8, 16, 32, 64, 128, 256, 512, 1024, 2048}:
                raise Fault(
                    prog.operands[0].span, "alignment must be a power of two from 8 to 2048"
                )
        if prog.op == "PCDATA":
            for operand in prog.operands:
                if not -(1 << 31) <= operand.offset < 1 << 31:
                    raise Fault(operand.span, "value does not fit in 32 bits")

    def _append(self, prog: Prog) -> None:
        text = self._text
        assert text is not None
        text.progs.append(prog)
        prog.number = len(text.progs) + 1  # TEXT itself is number 1
        self._define_labels(text, prog)

    def _define_labels(self, text: Text, prog: Prog) -> None:
        for name, token in self._pending:
            if name in text.labels:
                self._diagnostics.add(Fault(token.span, f"label {name} is already defined"))
            else:
                text.labels[name] = prog
        self._pending.clear()

    def _end_text(self) -> None:
        text = self._text
        if text is not None and self._pending:
            # Go drops a label that nothing follows; a jump to it is then an error there.
            token = self._pending[0][1]
            text.end = Prog("END", [], token.span, "", number=len(text.progs) + 2)
            names = [name for name, _ in self._pending]
            for prog in text.progs:
                if prog.operands and prog.operands[-1].label in names:
                    self._diagnostics.add(
                        Fault(
                            prog.operands[-1].span,
                            f"label {prog.operands[-1].label} has no instruction after it",
                        )
                    )
        elif self._pending:
            token = self._pending[0][1]
            self._diagnostics.add(Fault(token.span, f"label {token.text} stands before any TEXT"))
        self._pending.clear()
        self._text = None

    # Directives

    def _begin_text(self, groups: list[list[Token]], span: Span, source: str, word: Token) -> None:
        self._end_text()
        # Should this TEXT be wrong, its statements are not wrong on top of it.
        self._text = Text("?", True, "ABI0", TextFlag.NONE, 0, None, span, source)
        if len(groups) not in {2, 3}:
            raise Fault(word.span, "TEXT takes name(SB), flags, $frame-args")
        operand = self._symbol("TEXT", groups[0])
        if operand.offset:
            raise Fault(operand.span, "the name of a TEXT has no offset")
        flags = self._flags(groups[1]) if len(groups) == 3 else TextFlag.NONE
        frame, args = frame_size(groups[-1])
        static = operand.name is Name.STATIC
        self._text = Text(operand.symbol, static, operand.abi, flags, frame, args, span, source)
        self.unit.texts.append(self._text)

    def _flags(self, group: list[Token]) -> TextFlag:
        for token in group:
            if token.kind is IDENT:
                known = [f.name or "" for f in TextFlag]
                note = near_miss(token.text, known)
                if token.text in known:
                    note = '#include "textflag.h" defines it'
                raise Fault(token.span, f"unknown flag {token.text}", note)
        cursor = Cursor(group, span_of(group))
        if cursor.peek() == "$":
            cursor.at += 1
        value = cursor.expression()
        cursor.end()
        known_bits = 0
        for flag in TextFlag:
            known_bits |= flag.value
        if value & ~known_bits:
            raise Fault(span_of(group), f"unknown flag bits {value & ~known_bits:#x}")
        return TextFlag(value)

    def _parse_globl(self, groups: list[list[Token]], word: Token) -> None:
        if len(groups) not in {2, 3}:
            raise Fault(word.span, "GLOBL takes name(SB), flags, $size")
        operand = self._symbol("GLOBL", groups[0])
        if operand.offset:
            raise Fault(operand.span, "the name of a GLOBL has no offset")
        flags = self._flags(groups[1]) if len(groups) == 3 else TextFlag.NONE
        size = self._operand(groups[-1], jump=False)
        if size.kind is not Kind.CONST or not 0 <= size.offset < 1 << 30:
            raise Fault(size.span, "the size must be $bytes, below 1 GiB")
        self.unit.globls.append(
            Globl(operand.symbol, operand.name is Name.STATIC, flags, size.offset, operand.span)
        )

    def _parse_data(self, groups: list[list[Token]], word: Token) -> None:
        if len(groups) != 2:
            raise Fault(word.span, "DATA takes name+offset(SB)/width, $value")
        target = groups[0]
        if len(target) < 3 or target[-2].text != "/" or target[-1].kind is not INT:
            raise Fault(span_of(target), "DATA needs a width: name+offset(SB)/width")
        width = literal.integer(target[-1])
        operand = self._symbol("DATA", target[:-2])
        value = self._operand(groups[1], jump=False)
        widths = {
            Kind.CONST: (1, 2, 4, 8),
            Kind.FLOAT: (4, 8),
            Kind.STRING: range(1, 1 << 16),
            Kind.ADDR: (8,),
        }.get(value.kind)
        if widths is None:
            raise Fault(value.span, "the value must be an immediate: $number, $string, $name(SB)")
        if width not in widths:
            raise Fault(target[-1].span, f"a value of this kind cannot be {width} bytes wide")
        if isinstance(value.value, bytes) and len(value.value) > width:
            raise Fault(value.span, f"{len(value.value)} bytes do not fit in {width}")
        if value.kind is Kind.ADDR and value.name not in {Name.EXTERN, Name.STATIC}:
            raise Fault(value.span, "the address must be of a symbol(SB)")
        if operand.offset < 0:
            raise Fault(operand.span, "the offset is negative")
        key = f"{operand.symbol}{operand.name}"
        if operand.offset < self._data_end.get(key, 0):
            raise Fault(
                operand.span, f"DATA overlaps or precedes an earlier one of {operand.symbol}"
            )
        self._data_end[key] = operand.offset + width
        static = operand.name is Name.STATIC
        self.unit.data.append(
            Data(operand.symbol, static, operand.offset, width, value, operand.span)
        )

    def _symbol(self, directive: str, group: list[Token]) -> Operand:
        operand = self._operand(group, jump=False)
        if operand.kind is not Kind.MEM or operand.name not in {Name.EXTERN, Name.STATIC}:
            raise Fault(operand.span, f"{directive} needs a symbol: name(SB)")
        return operand

    # Operands

    def _operand(self, tokens: list[Token], *, jump: bool) -> Operand:
        span = span_of(tokens)
        cursor = Cursor(tokens, span)
        operand = Operand(Kind.MEM, span)
        prefix = ""
        if cursor.peek() in {"$", "*"}:
            prefix = cursor.next("").text
        if cursor.at == len(tokens):
            raise Fault(span, "expected an operand")
        token = tokens[cursor.at]
        if token.kind is IDENT:
            register = REGISTERS.get(token.text)
            cursor.at += 1
            if register is not None:
                if prefix == "$":
                    raise Fault(token.span, f"$ does not go with a register: {token.text}")
                if register.kind is RegClass.PSEUDO:
                    raise Fault(token.span, f"{token.text} is a pseudo register: it needs a symbol")
                cursor.end()
                operand.kind = Kind.REG
                operand.reg = register
                return operand
            self._reference(cursor, operand, token, prefix, jump=jump)
            if cursor.at == len(tokens):
                return operand
        elif token.text == "[":
            self._register_list(cursor, operand)
            return operand
        elif (
            token.kind in {INT, FLOAT, STRING, CHAR}
            or token.text in {"+", "-", "~"}
            or (token.text == "(" and not self._is_name(tokens, cursor.at + 1))
        ):
            if self._constant(cursor, operand, prefix):
                return operand
        elif token.text != "(":
            raise Fault(token.span, f"expected an operand, found {token.text}")
        self._indirect(cursor, operand, prefix, jump=jump)
        cursor.end()
        return operand

    @staticmethod
    def _is_name(tokens: Sequence[Token], at: int) -> bool:
        """A name in parentheses is a register: expressions have none."""
        return at < len(tokens) and tokens[at].kind is IDENT

    @staticmethod
    def _constant(cursor: Cursor, operand: Operand, prefix: str) -> bool:
        """Reads a number or a string; False when it is the offset of an address."""
        rest = cursor.tokens[cursor.at :]
        if any(t.kind is FLOAT for t in rest):
            if prefix != "$":
                raise Fault(operand.span, "a floating-point constant must be an immediate: $1.0")
            operand.kind = Kind.FLOAT
            operand.value = cursor.float_expression()
            cursor.end()
            return True
        if rest[0].kind is STRING:
            if prefix != "$":
                raise Fault(operand.span, 'a string must be an immediate: $"text"')
            operand.kind = Kind.STRING
            operand.value = literal.string_bytes(cursor.next("a string"))
            cursor.end()
            return True
        operand.offset = signed(cursor.expression())
        if cursor.peek() == "(":
            return False
        operand.kind = {"$": Kind.CONST, "*": Kind.INDIRECT}.get(prefix, Kind.MEM)
        cursor.end()
        return True

    def _reference(
        self, cursor: Cursor, operand: Operand, token: Token, prefix: str, *, jump: bool
    ) -> None:
        name = token.text
        qualified = f"{self._package}{name}" if name.startswith(".") else name
        static, operand.abi = self._attributes(cursor)
        if cursor.peek() in {"+", "-"}:
            operand.offset = signed(cursor.expression())
        if cursor.at == len(cursor.tokens):
            if jump and not prefix and not static and not operand.offset:
                operand.kind = Kind.BRANCH
                operand.label = name
                return
            note = near_miss(name, (*REGISTERS, *self._macros()))
            raise Fault(
                token.span, f"{name} is neither a register nor an address such as {name}(SB)", note
            )
        operand.symbol = qualified
        cursor.get("(")
        register = cursor.next("a pseudo register")
        cursor.get(")")
        match register.text:
            case "SB":
                operand.name = Name.STATIC if static else Name.EXTERN
            case "FP":
                operand.name = Name.PARAM
            case "SP":
                operand.name = Name.AUTO
            case "PC" if not prefix:
                operand.kind = Kind.BRANCH
            case _ if register.text in REGISTERS:
                note = near_miss(name, self._macros())
                raise Fault(token.span, f"{name} is not defined: no header has it as a macro", note)
            case _:
                note = near_miss(register.text, ("SB", "FP", "SP", "PC"))
                raise Fault(register.span, f"expected (SB), (FP) or (SP) after {name}", note)
        if prefix:
            operand.kind = Kind.ADDR if prefix == "$" else Kind.INDIRECT

    @staticmethod
    def _attributes(cursor: Cursor) -> tuple[bool, str]:
        if cursor.peek() != "<":
            return False, "ABI0"
        cursor.at += 1
        token = cursor.next(">")
        if token.text == ">":
            return True, "ABI0"
        if token.text not in {"ABI0", "ABIInternal"}:
            note = near_miss(token.text, ("ABI0", "ABIInternal"))
            raise Fault(token.span, f"unknown ABI {token.text}", note)
        cursor.get(">")
        return False, token.text

    def _indirect(self, cursor: Cursor, operand: Operand, prefix: str, *, jump: bool) -> None:
        """(R), (R*s), (R)(I*s), n(PC)."""
        cursor.get("(")
        register, scale, token = self._register(cursor)
        cursor.get(")")
        if register.kind is RegClass.PSEUDO:
            if register.name == "PC" and not prefix and jump and not operand.symbol:
                operand.kind = Kind.BRANCH
                return
            if register.name == "PC":
                raise Fault(token.span, "only a jump may refer to PC")
            raise Fault(token.span, f"{register.name} needs a name before it: x+0({register.name})")
        if prefix == "$":
            operand.kind = Kind.ADDR
        elif prefix == "*":
            operand.kind = Kind.MEM
        if scale:
            operand.index, operand.scale = register, scale
            return
        if operand.name is not Name.NONE:
            raise Fault(token.span, "an address with a symbol takes only an index: (R*scale)")
        operand.reg = register
        if cursor.peek() == "(":
            cursor.get("(")
            operand.index, operand.scale, token = self._register(cursor)
            cursor.get(")")
            if operand.scale == 0:
                raise Fault(token.span, f"the index needs a scale: ({token.text}*1)")

    def _register(self, cursor: Cursor) -> tuple[Register, int, Token]:
        token = cursor.next("a register")
        register = REGISTERS.get(token.text)
        if register is None:
            names = (*REGISTERS, *self._macros())
            note = near_miss(token.text, names) if token.kind is IDENT else None
            raise Fault(token.span, f"expected a register, found {token.text}", note)
        scale = 0
        if cursor.peek() == "*":
            cursor.at += 1
            number = cursor.next("1, 2, 4 or 8")
            if number.text not in {"1", "2", "4", "8"}:
                raise Fault(number.span, f"scale must be 1, 2, 4 or 8, not {number.text}")
            scale = int(number.text)
        return register, scale, token

    def _register_list(self, cursor: Cursor, operand: Operand) -> None:
        cursor.get("[")
        operand.kind = Kind.REGLIST
        operand.reg, _, _ = self._register(cursor)
        cursor.get("-")
        operand.last, _, _ = self._register(cursor)
        cursor.get("]")
        cursor.end()
