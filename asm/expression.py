"""Constant expressions of Go's assembler (cmd/asm/internal/asm/parse.go: expr, term, factor).

Values are unsigned 64-bit integers that wrap; precedence is Go's, not C's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from asm import literal
from asm.lexer import CHAR, FLOAT, INT, OP, Token
from asm.source import Fault

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asm.source import Span

_MASK = (1 << 64) - 1
_HIGH = 1 << 63
MAX_NESTING = 200


class Cursor:
    """A reading position in the tokens of one operand."""

    def __init__(self, tokens: Sequence[Token], span: Span) -> None:
        self.tokens = tokens
        self.at = 0
        self.span = span
        self._nesting = 0

    def peek(self) -> str:
        """The next token's text, or "" at the end."""
        return self.tokens[self.at].text if self.at < len(self.tokens) else ""

    def peek_kind(self) -> str:
        """The next token's kind, or "" at the end."""
        return self.tokens[self.at].kind if self.at < len(self.tokens) else ""

    def next(self, wanted: str) -> Token:
        """Takes a token; `wanted` says in an error what was expected."""
        if self.at >= len(self.tokens):
            raise Fault(self.span, f"expected {wanted} at the end of the operand")
        token = self.tokens[self.at]
        self.at += 1
        return token

    def get(self, text: str) -> Token:
        """Takes the token of this text."""
        token = self.next(text)
        if token.text != text or token.kind is not OP:
            raise Fault(token.span, f"expected {text}, found {token.text}")
        return token

    def end(self) -> None:
        """Asserts that nothing follows."""
        if self.at < len(self.tokens):
            token = self.tokens[self.at]
            raise Fault(token.span, f"unexpected {token.text} after the operand")

    def expression(self) -> int:
        """Expr = term { ("+" | "-" | "|" | "^") term }, as an unsigned 64-bit value."""
        self._nesting += 1
        if self._nesting > MAX_NESTING:
            raise Fault(self.span, "expression is nested too deeply")
        value = self._term()
        while (op := self.peek()) in {"+", "-", "|", "^"}:
            self.at += 1
            right = self._term()
            match op:
                case "+":
                    value += right
                case "-":
                    value -= right
                case "|":
                    value |= right
                case _:
                    value ^= right
            value &= _MASK
        self._nesting -= 1
        return value

    def _term(self) -> int:
        value = self._factor()
        while (op := self.peek()) in {"*", "/", "%", "<<", ">>", "&"}:
            sign = self.tokens[self.at]
            self.at += 1
            if op == ">>":
                # Go's grammar makes the count of a right shift a whole term.
                self._nesting += 1
                if self._nesting > MAX_NESTING:
                    raise Fault(self.span, "expression is nested too deeply")
                count = self._term()
                self._nesting -= 1
                if value & _HIGH:
                    raise Fault(sign.span, "right shift of a value with its high bit set")
                value = value >> count if count < 64 else 0
                continue
            right = self._factor()
            if op == "<<":
                # And it ends the term at a left shift.
                return (value << right) & _MASK if right < 64 else 0
            if op in {"/", "%"}:
                if value & _HIGH:
                    raise Fault(sign.span, "division of a value with its high bit set")
                if right == 0:
                    raise Fault(sign.span, "division by zero")
                value = value // right if op == "/" else value % right
            else:
                value = value * right if op == "*" else value & right
            value &= _MASK
        return value

    def _factor(self) -> int:
        token = self.next("a number")
        if token.kind is INT:
            return literal.integer(token)
        if token.kind is CHAR:
            return literal.character(token)
        match token.text:
            case "+" | "-" | "~" as op:
                self._nesting += 1
                if self._nesting > MAX_NESTING:
                    raise Fault(self.span, "expression is nested too deeply")
                value = self._factor()
                self._nesting -= 1
                if op == "-":
                    return -value & _MASK
                return ~value & _MASK if op == "~" else value
            case "(":
                value = self.expression()
                self.get(")")
                return value
        raise Fault(token.span, f"expected a number, found {token.text}")

    def float_expression(self) -> float:
        """A floating-point literal with signs and parentheses."""
        self._nesting += 1
        if self._nesting > MAX_NESTING:
            raise Fault(self.span, "expression is nested too deeply")
        token = self.next("a number")
        if token.kind is FLOAT:
            return literal.floating(token)
        match token.text:
            case "(":
                value = self.float_expression()
                self.get(")")
                return value
            case "+":
                return self.float_expression()
            case "-":
                return -self.float_expression()
        raise Fault(token.span, f"expected a floating-point number, found {token.text}")


def signed(value: int) -> int:
    """The value of 64 bits read as a signed integer."""
    return value - (1 << 64) if value & _HIGH else value
