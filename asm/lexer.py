"""Tokens of Go's assembler (cmd/asm/internal/lex/tokenizer.go).

Identifiers may hold U+00B7 (the dot of a linker name) and U+2215 (its slash); both are turned
into those characters here, as Go does.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from asm.source import Fault, Source, Span

IDENT = "ident"
INT = "int"
FLOAT = "float"
STRING = "string"
CHAR = "char"
OP = "op"
NEWLINE = "newline"

_TOKEN = re.compile(
    r"""
    (?P<blank>[ \t\r\f\v]+|//[^\n]*|/\*.*?\*/)
  | (?P<newline>\n)
  | (?P<ident>(?:[^\W\d]|[·∕])(?:\w|[·∕])*)
  | (?P<float>0[xX][0-9a-fA-F_]*(?:\.[0-9a-fA-F_]*)?[pP][+-]?\d+
            | \d[\d_]*\.[\d_]*(?:[eE][+-]?\d+)? | \d[\d_]*[eE][+-]?\d+
            | \.\d[\d_]*(?:[eE][+-]?\d+)?)
  | (?P<int>0[xX][0-9a-fA-F_]+|0[bB][01_]+|0[oO][0-7_]+|\d[\d_]*)
  | (?P<string>"(?:[^"\\\n]|\\[^\n]?)*(?:(?P<closed>")|(?=\n)|\Z)|`[^`]*`)
  | (?P<char>'(?:[^'\\\n]|\\[^\n]+?)')
  | (?P<op><<|>>|->|@>|.)
    """,
    re.VERBOSE | re.DOTALL,
)
_KINDS = {_TOKEN.groupindex[name]: name for name in (IDENT, FLOAT, INT, STRING, CHAR, OP, NEWLINE)}
_BLANK = _TOKEN.groupindex["blank"]
_PUNCTUATION = frozenset("()[]{}<>+-*/%&|^~$,;:.#\\=!@?") | {"<<", ">>", "->", "@>"}


class Token(NamedTuple):
    """One token; `start` and `end` are offsets of what stands for it in `source`."""

    kind: str
    text: str
    source: Source
    start: int
    end: int
    origin: Span | None = None

    @property
    def span(self) -> Span:
        """Where the token stands."""
        return Span(self.source, self.start, self.end, self.origin)


def tokenize(source: Source) -> tuple[list[list[Token]], list[Fault]]:
    """Splits a text into lines of tokens, newline excluded; comments are dropped.

    Returns the lines and what is not a token of the language.
    """
    lines: list[list[Token]] = []
    faults: list[Fault] = []
    line: list[Token] = []
    text = source.text
    for match in _TOKEN.finditer(text):
        group = match.lastindex
        if group == _BLANK:
            continue
        kind = _KINDS[group or 0]
        if kind is NEWLINE:
            lines.append(line)
            line = []
            continue
        start, end = match.span()
        word = text[start:end]
        if kind is IDENT:
            if not word.isascii():
                word = word.replace("·", ".").replace("∕", "/")
        elif kind is STRING and word[0] == '"' and match["closed"] is None:
            faults.append(Fault(Span(source, start, start + 1), "string is not closed"))
            continue
        elif word == "/" and text.startswith("/*", start):
            faults.append(Fault(Span(source, start, start + 2), "comment is not closed"))
            break
        elif kind is OP and word not in _PUNCTUATION:
            faults.append(Fault(Span(source, start, end), _stray(word)))
            continue
        line.append(Token(kind, word, source, start, end))
    lines.append(line)
    return lines, faults


def _stray(word: str) -> str:
    if word == '"':
        return "string is not closed"
    if word == "`":
        return "raw string is not closed"
    if word == "'":
        return "character is not closed"
    shown = word if word.isprintable() else f"U+{ord(word):04X}"
    return f"unexpected character {shown}"
