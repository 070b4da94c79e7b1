"""Tokens and constant expressions of Intel and AT&T text.

What the two, or their assemblers, read differently is refused: 010 is eight to GNU as and ten to
NASM, and an instruction after a semicolon is one to GNU as and a comment to NASM.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from asm.source import Fault, Source, Span

_TOKEN = re.compile(
    r"""
    (?P<blank>[ \t\r\f\v]+)
  | (?P<local>\d+[bf]\b)
  | (?P<number>0[xX][0-9a-fA-F]+|0[bB][01]+|\d[0-9a-fA-F]*[hH]\b|\d+\b)
  | (?P<word>1to\d+\b|[A-Za-z_.·][\w.$·∕]*)
  | (?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)')
  | (?P<op><<|>>|[][(){}+*,:%$/~;&|^-])
    """,
    re.VERBOSE,
)
_LEADING_ZERO = re.compile(r"0\d+\Z")
MAX_DEPTH = 100


class Token(NamedTuple):
    """One token; `kind` is word, number, local (1b, 2f), string or op."""

    kind: str
    text: str
    span: Span


def tokenize(source: Source, start: int, end: int) -> list[Token]:
    """The tokens of a stretch of one line, without comments.

    Raises:
        Fault: a character belongs to nothing.
    """
    out: list[Token] = []
    at = start
    while at < end:
        match = _TOKEN.match(source.text, at, end)
        if match is None:
            shown = source.text[at]
            shown = shown if shown.isprintable() else f"U+{ord(shown):04X}"
            raise Fault(Span(source, at, at + 1), f"unexpected character {shown}")
        if match.lastgroup != "blank":
            span = Span(source, match.start(), match.end())
            out.append(Token(match.lastgroup or "", match.group(), span))
        at = match.end()
    return out


def number(token: Token) -> int:
    """The value of a number: decimal, 0x, 0b, or hexadecimal with an h behind."""
    text = token.text.lower()
    if _LEADING_ZERO.match(text):
        raise Fault(token.span, f"{token.text}: octal to some assemblers, decimal to others")
    if len(text) > 100:
        raise Fault(token.span, "the number does not fit in 64 bits")
    value = int(text[:-1], 16) if text.endswith("h") and "x" not in text else int(text, 0)
    if value >= 1 << 64:
        raise Fault(token.span, f"{token.text} does not fit in 64 bits")
    return value


class Cursor:
    """The tokens of a statement, read from the left."""

    def __init__(self, tokens: list[Token], whole: Span) -> None:
        self.tokens = tokens
        self.at = 0
        self._whole = whole
        self._depth = 0

    @property
    def done(self) -> bool:
        """Whether nothing is left."""
        return self.at >= len(self.tokens)

    def peek(self, ahead: int = 0) -> Token | None:
        """The next token, or None at the end."""
        at = self.at + ahead
        return self.tokens[at] if at < len(self.tokens) else None

    def sees(self, *texts: str) -> bool:
        """Whether the next tokens read so, in small letters."""
        found = self.tokens[self.at : self.at + len(texts)]
        return [t.text.lower() for t in found] == list(texts)

    def take(self, *texts: str) -> bool:
        """Skips the next tokens if they read so."""
        if self.sees(*texts):
            self.at += len(texts)
            return True
        return False

    def next(self, wanted: str) -> Token:
        """The next token; `wanted` says what is missing at the end."""
        token = self.peek()
        if token is None:
            raise Fault(self.span, f"expected {wanted} at the end")
        self.at += 1
        return token

    def expect(self, text: str) -> None:
        """Skips one token that must be there."""
        token = self.next(text)
        if token.text != text:
            raise Fault(token.span, f"expected {text}, found {token.text}")

    @property
    def span(self) -> Span:
        """Where the cursor stands, or the whole statement at its end."""
        token = self.peek()
        return token.span if token is not None else self._whole

    def since(self, start: int) -> Span:
        """The stretch of the tokens from `start` to the cursor."""
        if start >= len(self.tokens):
            return self._whole
        first = self.tokens[start].span
        last = self.tokens[max(start, min(self.at, len(self.tokens)) - 1)].span
        return Span(first.source, first.start, last.end)

    # Constant expressions

    def expression(self) -> int:
        """A sum of products of numbers."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Fault(self.span, "nested too deeply")
        value = self.product()
        while (token := self.peek()) is not None and token.text in {"+", "-"}:
            self.at += 1
            right = self.product()
            value = value + right if token.text == "+" else value - right
        self._depth -= 1
        return value

    def product(self) -> int:
        """A product of numbers."""
        value = self.factor()
        while self.take("*"):
            value *= self.factor()
            if abs(value) >= 1 << 128:
                raise Fault(self.span, "the number does not fit in 64 bits")
        return value

    def factor(self) -> int:
        """A number, a character, a sign before one, or parentheses."""
        signs = 1
        invert = False
        while (token := self.next("a number")).text in {"-", "+", "~"}:
            if token.text == "~":
                if signs < 0 or invert:
                    raise Fault(token.span, "write parentheses around this")
                invert = True
            elif invert:
                raise Fault(token.span, "write parentheses around this")
            elif token.text == "-":
                signs = -signs
        if token.text == "(":
            value = self.expression()
            self.expect(")")
        elif token.kind == "number":
            value = number(token)
        elif token.kind == "string" and len(token.text) == 3 and token.text.isascii():
            value = ord(token.text[1])
        else:
            raise Fault(token.span, f"expected a number, found {token.text}")
        return ~value if invert else signs * value
